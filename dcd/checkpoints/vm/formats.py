"""The formats in which a virtual machine's disk is delivered, and which of them a manifest asks for.

One table says what each `vm_format` may be: QEMU's name of the format, its subformats and compressions.
What is not in it is refused when the manifest is checked, with what would be possible.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dcd.checkpoints.interface import Checkpoint
from dcd.checkpoints.vm.volume_rules import GIB
from dcd.manifest.diagnostics import Diagnostic, error
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.objects.distro import VmFormat, VmIm


@dataclass(frozen=True, slots=True)
class Format:
    """A format. `driver` is QEMU's name of it and `suffix` that of its files. `varieties` maps each
    subformat, the default first, to the compressions that it may be given; the empty subformat is
    that of a format which has none. `checkable`: qemu-img can check its own structure. `most_bytes` is the
    largest disk that it can describe; None: any that QEMU can have."""

    driver: str
    suffix: str
    varieties: Mapping[str, tuple[str, ...]]
    checkable: bool = False
    most_bytes: int | None = None


FORMATS: Mapping[str, Format] = {
    "raw": Format("raw", "raw", {"": ()}),
    "qcow2": Format("qcow2", "qcow2", {"": ("zlib", "zstd")}, checkable=True),
    "vmdk": Format(
        "vmdk", "vmdk", {"streamOptimized": ("zlib",), "monolithicSparse": ()}, checkable=True
    ),
    "vdi": Format("vdi", "vdi", {"dynamic": ()}, checkable=True),
    "vhd": Format("vpc", "vhd", {"dynamic": (), "fixed": ()}, most_bytes=2040 * GIB),
    "vhdx": Format(
        "vhdx", "vhdx", {"dynamic": (), "fixed": ()}, checkable=True, most_bytes=64 * 1024 * GIB
    ),
    "ova": Format("vmdk", "ova", {"": ()}),
}
"""By `vm_format`'s type. Left out are varieties of several files and such as allocate everything. Source of
the sizes: QEMU's block/vpc.c, VHD_MAX_SECTORS; [MS-VHDX] 2.2, VirtualDiskSize."""


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


def machine_of(doc: DataObjectCache) -> VmIm:
    """The manifest's virtual machine; one of which nothing is said where it describes none."""
    described = doc.get_descendants(class_type=VmIm, max_count=1)
    return described[0] if described else VmIm()


def images_of(doc: DataObjectCache) -> tuple[Image, ...]:
    """The images that the manifest asks for, in its order, each once, without what cannot be made."""
    wanted = machine_of(doc).get_children(class_type=VmFormat)
    return tuple(dict.fromkeys(_image(each) for each in wanted if not _impossible(each)))


def check_images(doc: DataObjectCache, checkpoint: Checkpoint) -> Iterator[Diagnostic]:
    """Errors for formats that the manifest does not name, names twice or names wrongly."""
    described = doc.get_descendants(class_type=VmIm, max_count=1)
    if not described:
        yield checkpoint.fault(
            doc,
            None,
            "the manifest describes no virtual machine",
            "the formats of its disk are in distro_spec/img_params/vm_im",
            '<img_params><vm_im><vm_format type="qcow2"/></vm_im></img_params>',
        )
        return
    wanted = described[0].get_children(class_type=VmFormat)
    if not wanted:
        yield error(
            described[0].origin,
            "the virtual machine's disk is to be delivered in no format",
            "vm_im has no vm_format",
            '<vm_im ...><vm_format type="qcow2"/></vm_im>',
        )
    seen: Counter[str] = Counter()
    for each in wanted:
        if problem := _impossible(each):
            attribute, why = problem
            yield error(
                each.place_of(attribute),
                f"a disk of format {each.type} cannot be made like that",
                why,
                f"possible are {', '.join(_possible(each.type))}",
            )
            continue
        kind = _image(each).kind
        seen[kind] += 1
        if seen[kind] == 2:
            yield error(
                each.origin,
                f"the format {kind} is asked for more than once",
                "each format is one file",
                "leave one of the vm_format elements out, or give them different subformats",
            )


def check_chosen(
    doc: DataObjectCache, checkpoint: Checkpoint, chosen: Sequence[str], offered: Sequence[Image]
) -> Iterator[Diagnostic]:
    """Errors when the argument `formats` names a kind that is not offered."""
    kinds = [image.kind for image in offered]
    for item, kind in enumerate(chosen):
        if kind not in kinds:
            yield checkpoint.fault(
                doc,
                "formats",
                f"{kind} is not among the formats of vm_im",
                f"formats chooses some of {', '.join(kinds) or 'none'}",
                "add a vm_format to vm_im, or leave the argument out",
                item,
            )


def too_large(image: Image, size_bytes: int) -> tuple[str, str, str] | None:
    """What is wrong when the format cannot describe a disk of that size, the numbers, and the remedy."""
    most = image.format.most_bytes
    if most is None or size_bytes <= most:
        return None
    return (
        f"the disk is too large for the format {image.kind}",
        f"it has {size_bytes / GIB:.1f} GiB ({size_bytes} bytes), such a disk at most {most // GIB} GiB",
        f"make the disk at most {most // GIB}gb, or deliver it as "
        f"{'vhdx or qcow2' if image.type == 'vhd' else 'qcow2'}",
    )


def check_sizes(doc: DataObjectCache, size_bytes: int) -> Iterator[Diagnostic]:
    """Errors for the formats that cannot describe a disk of that size."""
    for each in machine_of(doc).get_children(class_type=VmFormat):
        if not _impossible(each) and (problem := too_large(_image(each), size_bytes)):
            yield error(each.place_of("type"), *problem)


def _image(wanted: VmFormat) -> Image:
    subformat = _subformat(wanted)
    # streamOptimized always is compressed; to say so changes nothing.
    return Image(wanted.type, subformat, "" if subformat else wanted.compression or "")


def _subformat(wanted: VmFormat) -> str:
    default = next(iter(FORMATS[wanted.type].varieties))
    return default if wanted.subformat is None else wanted.subformat


def _impossible(wanted: VmFormat) -> tuple[str, str] | None:
    """The attribute that makes the format impossible, and why."""
    varieties = FORMATS[wanted.type].varieties
    if _subformat(wanted) not in varieties:
        return "subformat", f"it has no subformat {wanted.subformat!r}"
    if wanted.compression and wanted.compression not in varieties[_subformat(wanted)]:
        return "compression", f"it cannot be compressed with {wanted.compression!r}"
    return None


def _possible(type_: str) -> list[str]:
    return [
        " ".join(
            [f'<vm_format type="{type_}"']
            + ([f'subformat="{subformat}"'] if subformat else [])
            + ([f'compression="{compression}"'] if compression else [])
        )
        + "/>"
        for subformat, compressions in FORMATS[type_].varieties.items()
        for compression in ("", *compressions)
    ]
