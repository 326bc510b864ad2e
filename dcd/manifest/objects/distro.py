"""Data objects around the sections: `dc`, `distro`, and the parameters of the image."""

from typing import Literal

from dcd.manifest import forms
from dcd.manifest.data_object import DataObject, OneOf, attribute, many, one, optional, some
from dcd.manifest.labels import HOST_LABEL
from dcd.manifest.objects.boot import BootMods
from dcd.manifest.objects.configuration import Configuration
from dcd.manifest.objects.execution import Execution
from dcd.manifest.objects.software import Software
from dcd.manifest.objects.storage import Size
from dcd.manifest.objects.target import Target
from dcd.manifest.times import TIME
from dcd.manifest.values import SIZE


class Parameter(DataObject, tag="parameter"):
    """A parameter of the manifest, used as `${name}` and set by `--set name=value`."""

    name: str = attribute("Its name.", form=forms.IDENTIFIER)
    default: str | None = attribute(
        "Its value if `--set` gives none; without a default it must be set.",
        default=None,
        form=forms.PARAMETER_VALUE,
    )
    description: str | None = attribute("Its purpose.", default=None, form=forms.DESCRIPTION)


class Profile(DataObject, tag="profile"):
    """A choice that `--profile` makes: elements with `when="NAME"` are part of the build only where it is
    selected."""

    name: str = attribute("Its name.", form=forms.PROFILE)
    description: str | None = attribute("Its purpose.", default=None, form=forms.DESCRIPTION)


class MaxSize(DataObject, tag="max_size", content=(one(Size),)):
    """The maximum size of the image."""


class MediaIm(DataObject, tag="media_im", content=(optional(BootMods), optional(MaxSize))):
    """An image on media: a CD, DVD or USB stick; or one that starts through the network."""

    type: Literal["iso", "netboot"] = attribute(
        "What the default checkpoints make: an ISO, or a netboot kit.", default="iso"
    )


class VmFormat(DataObject, tag="vm_format"):
    """A format of the delivered disk."""

    type: Literal["raw", "qcow2", "vmdk", "vdi", "vhd", "vhdx", "ova"] = attribute("The format.")
    subformat: str | None = attribute(
        "A variant of the format, such as streamOptimized for vmdk.", default=None, form=forms.WORD
    )
    compression: str | None = attribute(
        "Compression inside the format: zlib or zstd.", default=None, form=forms.WORD
    )


class VmController(DataObject, tag="vm_controller"):
    """A disk controller of the machine."""

    type: Literal["virtio", "scsi", "sata", "nvme", "ide"] = attribute("Its kind.")


class VmNetwork(DataObject, tag="vm_network"):
    """A network adapter of the machine."""

    model: str = attribute("Its model.", default="virtio", form=forms.WORD)
    network: str = attribute("Its network.", default="NAT", form=forms.LINE)


class VmIm(
    DataObject,
    tag="vm_im",
    content=(
        optional(BootMods),
        optional(MaxSize),
        many(VmFormat),
        many(VmController),
        many(VmNetwork),
    ),
):
    """An image that is a virtual machine's disk, and the machine."""

    memory: str | None = attribute("Its memory.", default=None, form=SIZE)
    cpus: int | None = attribute("The number of its processors.", default=None, minimum=1)
    firmware: Literal["bios", "uefi", "both"] | None = attribute("Its firmware.", default=None)
    os_type: str | None = attribute(
        "The operating system, as hypervisors name it.", default=None, form=forms.WORD
    )


class RootfsIm(DataObject, tag="rootfs_im"):
    """An image that is a root file system, without kernel and boot loader, such as a container's. Without
    `execution` it chooses the checkpoints."""

    type: Literal["tar", "cpio", "squashfs", "erofs", "oci", "incus", "lxc", "wsl"] = attribute(
        "The form.", default="tar"
    )


class Signing(DataObject, tag="signing"):
    """The user's key for `secure_boot="keys"`, and its certificate, which machines have among their keys."""

    key: str = attribute(
        "A file of the daemon's host with the private key (RSA, in PEM, without a passphrase), which is one "
        "of its secrets: it is read when it is needed and never stored.",
        form=forms.HOST_PATH,
    )
    certificate: str = attribute(
        "The file with its certificate (PEM). A relative path begins at the manifest's directory.",
        form=forms.CLIENT_PATH,
    )


class ImgParams(
    DataObject,
    tag="img_params",
    content=(
        OneOf((one(MediaIm), one(VmIm), one(RootfsIm)), required=True),
        optional(Signing),
    ),
):
    """Parameters of the image."""

    secure_boot: Literal["distribution", "keys"] | None = attribute(
        "How the image starts where UEFI firmware demands signatures: with the signed shim and the signed "
        "GRUB of its packages (`distribution`), or with programs and kernels that the key in `signing` signs "
        "(`keys`). By default its GRUB is not signed.",
        default=None,
    )


class DistroSpec(DataObject, tag="distro_spec", content=(many(ImgParams),)):
    """The kind of image."""


class Require(DataObject, tag="require"):
    """A label that the host has to have which makes the image."""

    label: str = attribute(
        "The label: an architecture such as `arm64`, `kvm`, `zfs`, or one that an administrator gave.",
        form=HOST_LABEL,
    )


class Placement(DataObject, tag="placement", content=(some(Require),)):
    """Where the image is made: on a host with all of these labels, as with `dcctl submit --require`."""


class Distro(
    DataObject,
    tag="distro",
    content=(
        optional(Placement),
        optional(DistroSpec),
        many(Target),
        many(Software),
        optional(Execution),
        many(Configuration),
    ),
):
    """The distribution: the content of the image, and the checkpoints that make it. Without `execution` they
    are those of a live ISO or (`media_im`) of a netboot kit; with a disk or a machine, those of a virtual
    machine's disk; with `rootfs_im`, those of a root file system."""

    name: str = attribute(
        "The image's name; also the volume id of its ISO.", form=forms.DISTRIBUTION
    )
    add_timestamp: bool = attribute(
        "Add the build's time to the names of media files.", default=False
    )
    source_date_epoch: str | None = attribute(
        "The build's time, in seconds since 1970 or as a date in UTC; by default the time given to "
        "`dcctl submit`, else the newest date of the repositories.",
        default=None,
        form=TIME,
    )
    grow: bool = attribute(
        "Add packages to the result of an earlier build that has a part of them, as `dcctl submit "
        "--grow`.",
        default=False,
    )
    version: str | None = attribute(
        "The image's version, for its SBOM; by default the date of the build's time.",
        default=None,
        form=forms.LINE,
    )
    supplier: str | None = attribute(
        "Who supplies the image, for its SBOM: `NAME` or `NAME <ADDRESS>`, with an e-mail address or a URL.",
        default=None,
        form=forms.LINE,
    )
    sbom: Literal["auto", "none"] = attribute(
        "Whether an SBOM is written after the last checkpoint of an image with Debian or IPS packages, "
        "unless a checkpoint WriteSBOM says how.",
        default="auto",
    )
    http_proxy: str | None = attribute(
        "The proxy for downloads of packages.", default=None, form=forms.PROXY
    )


class DC(DataObject, tag="dc", content=(many(Parameter), many(Profile), one(Distro))):
    """The manifest of a distribution constructor."""
