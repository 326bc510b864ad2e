"""The formats in which a virtual machine's disk is delivered, and those that a manifest asks for.

One table has all possible `vm_format`s: QEMU's name of each, its subformats and compressions. The check of a
manifest refuses others, and names the possible ones.
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
    """A format. `driver` is its name in QEMU, `suffix` that of its files. `varieties` maps each subformat,
    the default first, to its possible compressions; a format without subformats has an empty one. qemu-img
    can check the structure of a `checkable` one. `most_bytes` is the largest disk that it can describe, or
    None when QEMU's limit is lower."""

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
"""By `vm_format`'s type, without varieties of several files or with all space allocated. Source of
the sizes: QEMU's block/vpc.c, VHD_MAX_SECTORS; [MS-VHDX] 2.2, VirtualDiskSize."""


@dataclass(frozen=True, slots=True)
class Image:
    """A disk in one of the formats that the manifest asks for. `compression` is "" for none, or for the only
    one of the subformat."""

    type: str
    subformat: str = ""
    compression: str = ""

    @property
    def format(self) -> Format:
        """Its format."""
        return FORMATS[self.type]

    @property
    def kind(self) -> str:
        """The kind of the recorded medium: the type, with the subformat unless it is the default."""
        default = next(iter(self.format.varieties))
        return self.type if self.subformat == default else f"{self.type}-{self.subformat}"

    def file_name(self, stem: str) -> str:
        """The name of its file; `stem` is the name of all files of the distribution."""
        return f"{stem}{self.kind.removeprefix(self.type)}.{self.format.suffix}"


STREAM = Image("vmdk", "streamOptimized")
"""The VMDK in which packages carry disks."""


def format_of_kind(kind: str) -> Format | None:
    """The format of a recorded medium; None if it is no virtual machine's disk."""
    return FORMATS.get(kind.partition("-")[0])


def machine_of(doc: DataObjectCache) -> VmIm:
    """The manifest's virtual machine; one without attributes if it describes none."""
    described = doc.get_descendants(class_type=VmIm, max_count=1)
    return described[0] if described else VmIm()


def images_of(doc: DataObjectCache) -> tuple[Image, ...]:
    """The possible images that the manifest asks for, in its order, each once."""
    return tuple(dict.fromkeys(image for _, image in asked_for(doc)))


def asked_for(doc: DataObjectCache) -> Iterator[tuple[VmFormat, Image]]:
    """The elements of the manifest that ask for a possible image, with this image."""
    for each in machine_of(doc).get_children(class_type=VmFormat):
        if not _impossible(each):
            yield each, _image(each)


def check_images(doc: DataObjectCache, checkpoint: Checkpoint) -> Iterator[Diagnostic]:
    """Errors for formats that the manifest does not name, names twice or names wrongly."""
    if not doc.get_descendants(class_type=VmIm, max_count=1):
        yield checkpoint.fault(
            doc,
            None,
            "the manifest describes no virtual machine",
            "the formats of its disk are in distro_spec/img_params/vm_im",
            '<img_params><vm_im><vm_format type="qcow2"/></vm_im></img_params>',
        )
        return
    wanted = machine_of(doc).get_children(class_type=VmFormat)
    if not wanted:
        yield error(
            machine_of(doc).origin,
            "the manifest asks for no format of the virtual machine's disk",
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
    """The error, with numbers and remedy, for a format that cannot describe a disk of that size; or None."""
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
    for wanted, image in asked_for(doc):
        if problem := too_large(image, size_bytes):
            yield error(wanted.place_of("type"), *problem)


def _image(wanted: VmFormat) -> Image:
    subformat = _subformat(wanted)
    # streamOptimized is always compressed.
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
        f'<vm_format type="{type_}"'
        + (f' subformat="{subformat}"' if subformat else "")
        + (f' compression="{compression}"/>' if compression else "/>")
        for subformat, compressions in FORMATS[type_].varieties.items()
        for compression in ("", *compressions)
    ]
