"""The formats in which a virtual machine's disk is delivered, and which of them a manifest asks for.

One table says what each `vm_format` may be: QEMU's name of the format, its subformats and compressions.
What is not in it is refused when the manifest is checked, with what would be possible.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dcd.manifest.doc import DataObjectCache
from dcd.manifest.objects.distro import VmFormat, VmIm
from statemachine.errors import InvalidManifest


@dataclass(frozen=True, slots=True)
class Format:
    """A format. `driver` is QEMU's name of it and `suffix` that of its files. `varieties` maps each
    subformat, the default first, to the compressions that it may be given; the empty subformat is
    that of a format which has none. `checkable`: qemu-img can check its own structure."""

    driver: str
    suffix: str
    varieties: Mapping[str, tuple[str, ...]]
    checkable: bool = False


FORMATS: Mapping[str, Format] = {
    "raw": Format("raw", "raw", {"": ()}),
    "qcow2": Format("qcow2", "qcow2", {"": ("zlib", "zstd")}, checkable=True),
    "vmdk": Format(
        "vmdk", "vmdk", {"streamOptimized": ("zlib",), "monolithicSparse": ()}, checkable=True
    ),
    "vdi": Format("vdi", "vdi", {"dynamic": ()}, checkable=True),
    "vhd": Format("vpc", "vhd", {"dynamic": (), "fixed": ()}),
    "vhdx": Format("vhdx", "vhdx", {"dynamic": (), "fixed": ()}, checkable=True),
    "ova": Format("vmdk", "ova", {"": ()}),
}
"""By `vm_format`'s type. Left out are varieties of several files and such as allocate everything."""


@dataclass(frozen=True, slots=True)
class Image:
    """A disk in one of the formats that the manifest asks for. `compression` is "" for none, or for that
    which the subformat always has."""

    type: str
    subformat: str = ""
    compression: str = ""

    @property
    def format(self) -> Format:
        """What holds for all of its type."""
        return FORMATS[self.type]

    @property
    def kind(self) -> str:
        """The kind under which the medium is recorded: the type, unless it is not the default variety."""
        default = next(iter(self.format.varieties))
        return self.type if self.subformat == default else f"{self.type}-{self.subformat}"

    def file_name(self, stem: str) -> str:
        """The name of its file, when that of the distribution's files is `stem`."""
        return f"{stem}{self.kind.removeprefix(self.type)}.{self.format.suffix}"


STREAM = Image("vmdk", "streamOptimized")
"""The VMDK in which packages carry disks."""


def format_of_kind(kind: str) -> Format | None:
    """The format of a recorded medium; None when it is not that of a virtual machine's disk."""
    return FORMATS.get(kind.partition("-")[0])


def machine_of(doc: DataObjectCache, checkpoint: str) -> VmIm:
    """The manifest's virtual machine. Raises `InvalidManifest` when it describes none."""
    described = doc.get_descendants(class_type=VmIm, max_count=1)
    if not described:
        raise InvalidManifest(
            f"{checkpoint}: the manifest describes no virtual machine",
            "what its disk is delivered as stands in distro_spec/img_params/vm_im",
            'write <img_params><vm_im><vm_format type="qcow2"/></vm_im></img_params>',
        )
    return described[0]


def images_of(doc: DataObjectCache, checkpoint: str) -> tuple[Image, ...]:
    """The images that the manifest asks for, in its order. Raises `InvalidManifest`, saying what is
    possible."""
    images = [
        _image(wanted, checkpoint)
        for wanted in machine_of(doc, checkpoint).get_children(class_type=VmFormat)
    ]
    if not images:
        raise InvalidManifest(
            f"{checkpoint}: the virtual machine's disk is to be delivered in no format",
            "vm_im has no vm_format",
            'write <vm_format type="qcow2"/> into vm_im',
        )
    kinds = [image.kind for image in images]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise InvalidManifest(
                f"{checkpoint}: the format {kind} is asked for more than once",
                "each format is one file",
                "leave one of the vm_format elements out, or give them different subformats",
            )
    return tuple(images)


def check_chosen(checkpoint: str, chosen: Sequence[str], offered: Sequence[Image]) -> None:
    """Raise `InvalidManifest` when the argument `formats` names a kind that is not offered."""
    kinds = [image.kind for image in offered]
    if unknown := [kind for kind in chosen if kind not in kinds]:
        raise InvalidManifest(
            f"{checkpoint}: {', '.join(unknown)} is not among the formats of vm_im",
            f"formats chooses some of {', '.join(kinds) or 'none'}",
            "add a vm_format to vm_im, or leave the argument out",
        )


def _image(wanted: VmFormat, checkpoint: str) -> Image:
    described = FORMATS[wanted.type]
    default = next(iter(described.varieties))
    subformat = default if wanted.subformat is None else wanted.subformat
    if subformat not in described.varieties:
        raise _impossible(wanted, checkpoint, f"it has no subformat {subformat!r}")
    compressions = described.varieties[subformat]
    compression = wanted.compression or ""
    if compression and compression not in compressions:
        raise _impossible(wanted, checkpoint, f"it cannot be compressed with {compression!r}")
    # streamOptimized always is compressed; to say so changes nothing.
    return Image(wanted.type, subformat, "" if subformat else compression)


def _impossible(wanted: VmFormat, checkpoint: str, why: str) -> InvalidManifest:
    possible = [
        " ".join(
            [f'<vm_format type="{wanted.type}"']
            + ([f'subformat="{subformat}"'] if subformat else [])
            + ([f'compression="{compression}"'] if compression else [])
        )
        + "/>"
        for subformat, compressions in FORMATS[wanted.type].varieties.items()
        for compression in ("", *compressions)
    ]
    return InvalidManifest(
        f"{checkpoint}: a disk of format {wanted.type} cannot be made like that",
        why,
        f"possible are {', '.join(possible)}",
    )
