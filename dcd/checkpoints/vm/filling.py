"""Makes a disk with the content of an image: each volume with its tree, then what covers volumes.

A file system is made with the tree below its mountpoint, inner ones first; the tree of an inner one is hidden
from the copy of the outer one. Logical volumes and encrypted ones are made at their place on the disk, as if
they were partitions; LUKS encrypts in the end. A verified root comes first, since the boot menu, in another
file system, has its root hash.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dcd.checkpoints.interface import Context, Report
from dcd.checkpoints.vm import luks, verity
from dcd.checkpoints.vm.create_disk import begin_disk
from dcd.checkpoints.vm.disk import DiskLayout, Subvolume, VolumePartition
from dcd.checkpoints.vm.volumes import Place, fill_subvolume, make_subvolumes, make_volume
from dcd.platform.inside import resolve
from store.host.mounts import mount, unmount

Trees = Mapping[tuple[str, str], Path]
"""The directory with the content of each volume by its UUID, and of each subvolume by UUID and name."""

Part = tuple[VolumePartition, Subvolume | None, str | None]
"""A volume, or a subvolume of one, and its mountpoint."""


def fill_disk(
    context: Context,
    disk: Path,
    layout: DiskLayout,
    epoch: int,
    trees: Trees,
    on_root_hash: Callable[[str], None],
) -> None:
    """Make the disk again. `on_root_hash` gets the root hash of a verified root, before the other volumes are
    made."""
    begin_disk(disk, layout, epoch)
    parts = sorted(_parts(layout), key=_depth, reverse=True)
    verified = [part for part in parts if part[0].verified]
    for part in verified:
        with ExitStack() as covers:
            _cover(context, covers, [one for one in parts if one is not part])
            _make(context, Place(disk, layout, part[0], epoch), part, trees, set())
        for one in layout.containers:
            if one.verity is not None:
                on_root_hash(verity.add_tree(context, disk, one, one.verity))
    made: set[str] = set()
    with ExitStack() as covers:
        for done, part in enumerate(one for one in parts if one not in verified):
            volume, _, point = part
            message = f"{volume.title}: {volume.volume.type}, {point or 'not mounted'}"
            context.report(Report(0.1 + 0.8 * done / len(parts), message))
            _make(context, Place(disk, layout, volume, epoch), part, trees, made)
            _cover(context, covers, [part])
    if any(one.luks for one in layout.containers):
        context.report(Report(0.9, "encrypting"))
        luks.encrypt(context, disk, layout)


def _parts(layout: DiskLayout) -> Iterator[Part]:
    for one in layout.volumes:
        if not one.volume.subvolumes:
            yield one, None, one.volume.mountpoint
        for subvolume in one.volume.subvolumes:
            yield one, subvolume, subvolume.mountpoint


def _make(context: Context, place: Place, part: Part, trees: Trees, made: set[str]) -> None:
    volume, subvolume, _ = part
    tree = trees.get((volume.volume.uuid, subvolume.name if subvolume else ""))
    if subvolume is None:
        make_volume(context, place, tree)
        return
    if volume.volume.uuid not in made:
        make_volume(context, place)
        make_subvolumes(context, place)
        made.add(volume.volume.uuid)
    if tree is not None:
        fill_subvolume(context, place, subvolume, tree)


def _depth(part: Part) -> int:
    return len(Path(part[2] or "/").parts)


def _cover(context: Context, covers: ExitStack, parts: Sequence[Part]) -> None:
    for *_, point in parts:
        if point is not None and point != "/":
            covers.enter_context(_covered(resolve(context.pkg_image, point)))


@contextmanager
def _covered(directory: Path) -> Iterator[None]:
    """Hide the content of a directory, which has its own volume, from the copy of the tree around it."""
    if not any(directory.iterdir()):
        yield
        return
    status = directory.stat()
    mode = f"{status.st_mode & 0o7777:o}"
    mount("tmpfs", directory, f"mode={mode},uid={status.st_uid},gid={status.st_gid}")
    try:
        os.utime(directory, ns=(status.st_mtime_ns, status.st_mtime_ns))
        yield
    finally:
        unmount(directory)
