"""Data objects of `target`: disks, partitions and slices, ZFS pools and their content."""

from typing import Literal

from dcd.manifest import forms
from dcd.manifest.data_object import DataObject, OneOf, attribute, many, one, optional, some
from dcd.manifest.objects.storage import Format, Luks, Size, Verity, VolumeGroup
from dcd.manifest.values import SIZE

Action = Literal["create", "delete", "preserve"]


class DiskName(DataObject, tag="disk_name"):
    """A disk of the host, by name."""

    name: str = attribute("The name.", form=forms.LINE)
    name_type: Literal["ctd", "volid", "devpath", "devid", "receptacle", "wwn"] = attribute(
        "The kind of name.", default="ctd"
    )


class DiskProp(DataObject, tag="disk_prop"):
    """The first disk of the host that has these properties."""

    dev_type: str | None = attribute(
        "Its bus: scsi, ata, usb and so on.", default=None, form=forms.WORD
    )
    dev_vendor: str | None = attribute("Its vendor.", default=None, form=forms.LINE)
    dev_chassis: str | None = attribute("Its chassis.", default=None, form=forms.LINE)
    dev_size: str | None = attribute("Its minimum size.", default=None, form=SIZE)


class DiskKeyword(DataObject, tag="disk_keyword"):
    """A disk of the host, by its role."""

    key: Literal["boot_disk"] = attribute("The role.")


class DiskImage(DataObject, tag="disk_image"):
    """A disk that is a file: the build makes it and delivers or converts it."""

    name: str = attribute("The file's name, below the media area.", form=forms.FILE_NAME)
    size: str = attribute("The size of the disk, rounded up to full MiB.", form=SIZE)
    sector_size: Literal[512, 4096] = attribute("Bytes of a sector.", default=512)
    id: str = attribute(
        "The disk's identifier: `derived` from the distribution's name, `random`, or a UUID. Those of "
        "partitions and file systems are derived from it.",
        default="derived",
        form=forms.DISK_ID,
    )


class Iscsi(DataObject, tag="iscsi"):
    """A disk of an iSCSI target. `source="manifest"` needs target_lun and target_ip. Accepted for manifests
    of the original; no checkpoint of dcd uses such a disk, or reads its secret."""

    SECRETS = ("chap_password",)

    source: Literal["manifest", "dhcp"] = attribute(
        "Whether the parameters are given here or come from DHCP.", default="manifest"
    )
    target_name: str | None = attribute("The target's IQN.", default=None, form=forms.ISCSI_NAME)
    target_lun: str | None = attribute(
        "The logical unit's number.", default=None, form=forms.LOGICAL_UNIT
    )
    target_port: int | None = attribute(
        "The portal's TCP port.", default=None, minimum=1, maximum=65535
    )
    target_ip: str | None = attribute(
        "The portal's address.", default=None, form=forms.HOST_OR_ADDRESS
    )
    initiator_name: str | None = attribute(
        "The initiator's IQN.", default=None, form=forms.ISCSI_NAME
    )
    chap_name: str | None = attribute("The CHAP user.", default=None, form=forms.CHAP_NAME)
    chap_password: str | None = attribute(
        "The CHAP secret itself, which is stored with the manifest.",
        default=None,
        form=forms.CHAP_SECRET,
    )
    chap_password_file: str | None = attribute(
        "A file with the CHAP secret.", default=None, form=forms.HOST_PATH
    )
    chap_password_env: str | None = attribute(
        "A variable with the CHAP secret.", default=None, form=forms.IDENTIFIER
    )


class Slice(DataObject, tag="slice", content=(optional(Size),)):
    """A slice of a disk or of an MBR partition."""

    name: str = attribute("The slice's number.", form=forms.NUMBER)
    action: Action = attribute("The action for it.", default="create")
    force: bool = attribute("Create it even if it exists.", default=False)
    in_zpool: str | None = attribute(
        "The pool that it belongs to.", default=None, form=forms.ZFS_NAME
    )
    in_vdev: str | None = attribute(
        "The vdev that it belongs to.", default=None, form=forms.ZFS_NAME
    )
    is_swap: bool = attribute("It is swap space.", default=False)


class Partition(
    DataObject, tag="partition", content=(optional(Size), many(Slice), optional(Format))
):
    """A partition of a disk with an MBR."""

    name: str = attribute("The partition's number.", default="", form=forms.NUMBER)
    action: Literal["create", "delete", "preserve", "use_existing_solaris2"] = attribute(
        "The action for it.", default="create"
    )
    part_type: str = attribute("The partition type's number.", default="191", form=forms.NUMBER)
    in_zpool: str | None = attribute(
        "The pool that it belongs to.", default=None, form=forms.ZFS_NAME
    )
    in_vdev: str | None = attribute(
        "The vdev that it belongs to.", default=None, form=forms.ZFS_NAME
    )


class GptPartition(
    DataObject,
    tag="gpt_partition",
    content=(
        optional(Size),
        OneOf((optional(Format), optional(Luks), optional(VolumeGroup))),
        optional(Verity),
    ),
):
    """A partition of a disk with a GUID partition table; without a size, the rest of the disk."""

    name: str = attribute("The partition's number.", form=forms.NUMBER)
    action: Action = attribute("The action for it.", default="create")
    force: bool = attribute("Create it even if it exists.", default=False)
    in_zpool: str | None = attribute(
        "The pool that it belongs to.", default=None, form=forms.ZFS_NAME
    )
    in_vdev: str | None = attribute(
        "The vdev that it belongs to.", default=None, form=forms.ZFS_NAME
    )
    part_type: str = attribute(
        "The type: `solaris`, `bios_boot`, `esp`, `linux`, `swap`, or a GUID in braces.",
        default="solaris",
        form=forms.GPT_TYPE,
    )
    label: str | None = attribute(
        "The partition's name in the table.", default=None, form=forms.LINE
    )


class Disk(
    DataObject,
    tag="disk",
    content=(
        OneOf(
            (one(DiskName), one(DiskProp), one(DiskKeyword), one(DiskImage), one(Iscsi)),
            required=True,
        ),
        OneOf((many(GptPartition), many(Partition), many(Slice))),
    ),
):
    """A disk and its partitions."""

    in_zpool: str | None = attribute(
        "The pool of the whole disk.", default=None, form=forms.ZFS_NAME
    )
    in_vdev: str | None = attribute(
        "The vdev that it belongs to.", default=None, form=forms.ZFS_NAME
    )
    whole_disk: bool = attribute("Give the whole disk to ZFS.", default=False)


class Option(DataObject, tag="option"):
    """A property of a pool or dataset and its value."""

    name: str = attribute("The property.", form=forms.ZFS_NAME)
    value: str = attribute("The value.", form=forms.PROPERTY_VALUE)


class Options(DataObject, tag="options", content=(some(Option),)):
    """Properties of a dataset."""


class PoolOptions(DataObject, tag="pool_options", content=(some(Option),)):
    """Properties of the pool."""


class DatasetOptions(DataObject, tag="dataset_options", content=(some(Option),)):
    """Properties of the pool's top dataset."""


class Vdev(DataObject, tag="vdev"):
    """A group of devices of a pool. Its name matches their `in_vdev`."""

    name: str = attribute("The group's name.", form=forms.ZFS_NAME)
    redundancy: Literal[
        "mirror",
        "raidz",
        "raidz1",
        "raidz2",
        "raidz3",
        "spare",
        "log",
        "cache",
        "logmirror",
        "none",
    ] = attribute("The redundancy of the devices.", default="mirror")


class Filesystem(DataObject, tag="filesystem", content=(optional(Options),)):
    """A ZFS file system."""

    name: str = attribute("Its name below the pool (or a path, with in_be).", form=forms.DATASET)
    action: Action = attribute("The action for it.", default="create")
    mountpoint: str | None = attribute("Its mountpoint.", default=None, form=forms.ZFS_MOUNTPOINT)
    in_be: bool = attribute("It belongs to the boot environment.", default=False)


class Zvol(DataObject, tag="zvol", content=(optional(Options), one(Size))):
    """A ZFS volume."""

    name: str = attribute("Its name below the pool.", form=forms.DATASET)
    action: Literal["create", "delete", "preserve", "use_existing"] = attribute(
        "The action for it.", default="create"
    )
    use: Literal["none", "swap", "dump"] = attribute("Its purpose.", default="none")


class BE(DataObject, tag="be", content=(optional(Options),)):
    """The boot environment that is created."""

    name: str = attribute("Its name.", form=forms.ZFS_NAME)


class Zpool(
    DataObject,
    tag="zpool",
    content=(
        many(Vdev),
        many(Filesystem),
        many(Zvol),
        optional(PoolOptions),
        optional(DatasetOptions),
        optional(BE),
    ),
):
    """A ZFS pool."""

    name: str = attribute("Its name.", form=forms.ZFS_NAME)
    action: Literal["create", "delete", "preserve", "use_existing"] = attribute(
        "The action for it.", default="create"
    )
    is_root: bool = attribute("It holds the system.", default=False)
    mountpoint: str | None = attribute(
        "The mountpoint of its top dataset.", default=None, form=forms.ZFS_MOUNTPOINT
    )


class Logical(DataObject, tag="logical", content=(many(Zpool),)):
    """The pools and datasets on the disks."""

    noswap: bool = attribute("Make no swap volume.", default=False)
    nodump: bool = attribute("Make no dump volume.", default=False)


class Target(DataObject, tag="target", content=(many(Disk), optional(Logical))):
    """The disks of the image, and pools with their datasets."""

    name: str = attribute(
        "A name for it; `desired` in the original's manifests.", default="", form=forms.LINE
    )
