"""Warnings for parts of a manifest without an effect.

`UNREAD` are elements and attributes that are accepted only for manifests of the original; a test compares it
with the code. Others are parts that no checkpoint of the manifest reads: software or configuration of a
checkpoint that uses none, a boot menu or a maximum size without a checkpoint that makes it, a format of a
disk that none makes. Pure.
"""

from collections.abc import Iterator, Mapping, Sequence

from dcd.checkpoints.vm.formats import asked_for
from dcd.construction.constructors import OWN
from dcd.manifest.data_object import DataObject
from dcd.manifest.diagnostics import Diagnostic, warning
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.objects import (
    BootMods,
    CheckpointSpec,
    Configuration,
    Disk,
    DiskImage,
    DiskKeyword,
    DiskName,
    DiskProp,
    GptPartition,
    Iscsi,
    Logical,
    MaxSize,
    Partition,
    Slice,
    Software,
    VmFormat,
    VmIm,
    Zpool,
)
from dcd.planning.sequence import Step

_NO_DISK = "dcd makes disks that are files; it does not change disks of a host."
_POOLS = (
    "dcd builds in its state directory; `dcctl download` fetches a build's media, and `dcctl logs` shows "
    "its logs. Only `distro_const` copies both into the dataset."
)
_ZFS = "No checkpoint of dcd makes ZFS pools."

UNREAD: Mapping[tuple[type[DataObject], str], str] = {
    (Logical, ""): _POOLS,
    (DiskName, ""): _NO_DISK,
    (DiskProp, ""): _NO_DISK,
    (DiskKeyword, ""): _NO_DISK,
    (Iscsi, ""): f"{_NO_DISK} InstallISCSI itself serves the disk of its installation.",
    (Disk, "in_zpool"): _ZFS,
    (Disk, "in_vdev"): _ZFS,
    (Disk, "whole_disk"): _ZFS,
    (GptPartition, "in_vdev"): _ZFS,
    (GptPartition, "force"): "A disk that is a file is always new, so nothing needs to be forced.",
    (Partition, ""): "A disk that is a file has a GUID partition table.",
    (Slice, ""): "A disk that is a file has a GUID partition table.",
    (CheckpointSpec, "log_level"): "The log of an attempt has the whole output of its checkpoint.",
}
"""By class of element and attribute ("": the whole element), the reason for the lack of an effect."""

_FOR_PRODUCTS = ((BootMods, "boot menu"), (MaxSize, "largest size"), (VmFormat, "format"))
"""Elements that only some checkpoints read."""


def check_unused(doc: DataObjectCache, steps: Sequence[Step]) -> Iterator[Diagnostic]:
    """Warnings for parts that none of the checkpoints reads."""
    yield from _unread(doc)
    instances = [step.instance for step in steps]
    if any(each is None or not _is_own(each) for each in instances):
        return  # The others may read any part.
    read = {tag for each in instances if each is not None for tag in _tags(each.READS)}
    for cls, what in _FOR_PRODUCTS:
        for node in doc.volatile.get_descendants(class_type=cls):
            holder = node.parent.TAG if node.parent else ""
            if not read & {cls.TAG, holder} or (cls is MaxSize and holder not in read):
                yield warning(
                    node.origin,
                    f"no checkpoint of this manifest reads this {what}",
                    f"<{cls.TAG}> in <{holder}> is for checkpoints that the manifest does not have.",
                )
    if VmFormat.TAG in read or VmIm.TAG in read:
        yield from _unmade(doc, steps)
    named = {step.spec.name: step.instance for step in steps}
    for kind in (Software, Configuration):
        for node in doc.volatile.get_descendants(class_type=kind):
            instance = named.get(node.name)
            if instance is not None and kind.TAG not in instance.NAMED:
                yield warning(
                    node.place_of("name"),
                    f"checkpoint {node.name!r} reads no <{kind.TAG}>",
                    f"It is a {type(instance).__name__}.",
                )


def _unmade(doc: DataObjectCache, steps: Sequence[Step]) -> Iterator[Diagnostic]:
    """Warnings for formats of a disk that no checkpoint makes, if all of them declare what they make."""
    if any(step.provides is None for step in steps):
        return
    made = {kind for step in steps for kind in step.provides or ()}
    for wanted, image in asked_for(doc):
        if image.kind not in made:
            maker = "CreateOVA" if image.type == "ova" else "Convert"
            yield warning(
                wanted.place_of("type"),
                f"no checkpoint of this manifest makes the format {image.kind}",
                f"{maker} makes it.",
                f'add <checkpoint name="{image.type}" type="{maker}"/>, or leave the vm_format out',
            )


def _unread(doc: DataObjectCache) -> Iterator[Diagnostic]:
    for (cls, attribute), why in UNREAD.items():
        for node in doc.volatile.get_descendants(class_type=cls):
            if attribute and attribute not in node.places:
                continue
            if cls in (Partition, Slice) and not _is_file(node.parent):
                continue  # The disk itself is warned of.
            name = f"{attribute} of <{cls.TAG}>" if attribute else f"<{cls.TAG}>"
            if cls is Logical:
                pools = ", ".join(pool.name for pool in node.get_children(class_type=Zpool))
                name = f"the pool {pools} of <logical>" if pools else name
            yield warning(node.place_of(attribute), f"{name} has no effect here", why)


def _is_own(instance: object) -> bool:
    return type(instance).__module__.startswith(f"{OWN}.")


def _is_file(disk: DataObject | None) -> bool:
    return disk is not None and disk.get_first_child(class_type=DiskImage) is not None


def _tags(paths: Sequence[str]) -> Iterator[str]:
    """The elements in the steps of paths into the DOC."""
    for path in paths:
        for step in path.strip("/").split("/"):
            yield step.partition(".")[0].partition("[")[0]
