"""The labels of a ZFS device, read and rewritten while no pool is imported from it.

Every device of a pool has four copies of its label, two at each end, each with the pool's configuration as a
name-value list with a checksum. The configuration has the last location of each device: its `path`,
`phys_path` and `devid`. `relabel` changes these for the device itself, anywhere in a tree of mirrors and
raidz, and nothing else. It refuses a pool that looks in use, and a device whose labels are damaged or differ:
importing the pool repairs those. It writes in the same order as ZFS, so that valid labels exist at any time.

Source: the ZFS on-disk specification (chapter 1, vdev labels) and OpenZFS' vdev_impl.h, zio_checksum.h.
"""

import hashlib
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from dcd.platform.nvlist import NvList, NvListError, NvType, encode, parse
from statemachine.errors import CheckpointError

LABEL_BYTES = 256 << 10
_CONFIG_AT, _CONFIG_BYTES = 16 << 10, 112 << 10
_TRAILER = 40
"""A magic number and four words of checksum at the end of the region."""

_MAGIC = 0x0210DA7AB10C7A11
_STATES = ("active", "exported", "destroyed", "spare", "l2cache")
_WRITING_ORDER = (0, 2, 1, 3)
_NAMES = ("path", "phys_path", "devid")
_REWRITE = "import the pool and export it again, which writes all labels anew"


class LabelError(CheckpointError):
    """A device whose labels cannot be read, or must not be rewritten."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a file, in bytes: a disk's partition; without `size`, all from `start` on."""

    file: Path
    start: int = 0
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Label:
    """One valid label: its number (0..3), its offset in the part, the byte order of its checksum, and its
    configuration."""

    number: int
    offset: int
    order: Literal["<", ">"]
    config: NvList

    @property
    def pool(self) -> str:
        """The pool's name."""
        return str(self.config.get("name", NvType.STRING) or "")

    @property
    def state(self) -> str:
        """The pool's state when it was last open: active, exported, destroyed; spare, l2cache."""
        number = self.config.get("state", NvType.UINT64)
        known = isinstance(number, int) and number < len(_STATES)
        return _STATES[number] if known else f"number {number}"

    @property
    def host(self) -> str:
        """The host that last opened the pool: its name and id, as far as the label has them."""
        name = self.config.get("hostname", NvType.STRING)
        identity = self.config.get("hostid", NvType.UINT64)
        return f"{name or 'a host'} (hostid {identity:x})" if identity else name or "no host"


@dataclass(frozen=True, slots=True)
class Place:
    """The location of a device in its label. None: not in the label."""

    path: str | None = None
    phys_path: str | None = None
    devid: str | None = None


def read_labels(part: Part) -> list[Label]:
    """The valid ones of the four labels; none without ZFS. Raises OSError."""
    with _opened(part, os.O_RDONLY) as (descriptor, offsets):
        regions = (
            (n, offset, part.start + offset + _CONFIG_AT) for n, offset in enumerate(offsets)
        )
        found = (
            _parsed(number, os.pread(descriptor, _CONFIG_BYTES, at), offset)
            for number, offset, at in regions
        )
        return [label for label in found if label is not None]


def place(label: Label) -> Place:
    """The location of the device in its label. Raises LabelError when the label does not have the device."""
    leaf = _leaf(label)
    return Place(*(leaf.get(name, NvType.STRING) for name in _NAMES))


def relabel(part: Part, new: Place, *, active: bool = False) -> Place | None:
    """Change the location of the device. Fields of `new` that are None are removed, except that the path,
    which every device needs, is then kept.

    `active` accepts a pool that was not exported: for a disk whose machine is known to be off. Returns the
    previous location, or None when nothing had to be written. Raises LabelError and OSError.
    """
    labels = read_labels(part)
    _require_sound(part, labels)
    state = labels[0].state
    if state != "exported" and not (active and state == "active"):
        raise LabelError(
            f"the pool {labels[0].pool!r} is {state}, not exported",
            f"{part.file}: it was last open on {labels[0].host}",
            "export the pool (zpool export), then try again",
        )
    old = place(labels[0])
    wanted = replace(new, path=new.path or old.path)
    if all(place(label) == wanted for label in labels):
        return None
    regions = [_region(part, label, _moved(label, wanted)) for label in labels]
    with _opened(part, os.O_RDWR) as (descriptor, _):
        for number in _WRITING_ORDER:
            at = part.start + labels[number].offset + _CONFIG_AT
            os.pwrite(descriptor, regions[number], at)
            os.fsync(descriptor)
    return old


def label_offsets(size: int) -> tuple[int, int, int, int]:
    """The offsets of the four labels of a device of that size."""
    end = size - size % LABEL_BYTES
    return 0, LABEL_BYTES, end - 2 * LABEL_BYTES, end - LABEL_BYTES


@contextmanager
def _opened(part: Part, flags: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """The open file, and the offsets of labels in the part (none if it is too small)."""
    descriptor = os.open(part.file, flags | os.O_CLOEXEC)
    try:
        whole = os.lseek(descriptor, 0, os.SEEK_END) - part.start
        size = whole if part.size is None else min(part.size, whole)
        yield descriptor, label_offsets(size) if size >= 4 * LABEL_BYTES else ()
    finally:
        os.close(descriptor)


def _parsed(number: int, region: bytes, offset: int) -> Label | None:
    """The label in a region, or None when it is not valid."""
    orders: tuple[Literal["<", ">"], ...] = ("<", ">")
    for order in orders:
        if region[-_TRAILER:][:8] == struct.pack(f"{order}Q", _MAGIC):
            if region != _sealed(region[:-_TRAILER], offset, order):
                return None
            try:
                config, _ = parse(region[:-_TRAILER])
            except NvListError:
                return None
            return Label(number, offset, order, config)
    return None


def _sealed(content: bytes, offset: int, order: str) -> bytes:
    """The region with its trailer. The checksum is the SHA-256 of the region with the region's offset in
    place of the checksum, so that no label is valid at the offset of another."""
    verifier = struct.pack(f"{order}5Q", _MAGIC, offset + _CONFIG_AT, 0, 0, 0)
    words = struct.unpack(">4Q", hashlib.sha256(content + verifier).digest())
    return content + struct.pack(f"{order}5Q", _MAGIC, *words)


def _require_sound(part: Part, labels: list[Label]) -> None:
    numbers = [label.number for label in labels]
    if numbers != [0, 1, 2, 3]:
        bad = [str(number) for number in range(4) if number not in numbers]
        raise LabelError(
            f"{part.file} is no device of a ZFS pool"
            if len(bad) == 4
            else f"label {', '.join(bad)} of a ZFS device is damaged",
            f"{part.file}, from byte {part.start} on",
            _REWRITE if labels else "",
        )
    if any(label.config != labels[0].config for label in labels):
        raise LabelError(
            "the labels of a ZFS device do not agree",
            f"{part.file}: they were written at different times",
            _REWRITE,
        )


def _region(part: Part, label: Label, config: NvList) -> bytes:
    room = _CONFIG_BYTES - _TRAILER
    content = encode(config)
    if len(content) > room:
        raise LabelError(
            "the new configuration does not fit into the labels of a ZFS device",
            f"{part.file}: it has {len(content)} bytes, the limit is {room}",
            "use shorter names",
        )
    return _sealed(content.ljust(room, b"\0"), label.offset, label.order)


def _moved(label: Label, new: Place) -> NvList:
    tree = label.config.get("vdev_tree", NvType.NVLIST)
    leaf = _leaf(label)
    moved = leaf
    for name in _NAMES:
        moved = moved.with_value(name, NvType.STRING, getattr(new, name))
    return label.config.with_value("vdev_tree", NvType.NVLIST, _replaced(tree, leaf, moved))


def _replaced(tree: NvList, leaf: NvList, new: NvList) -> NvList:
    """The tree with `new` in place of a leaf."""
    if tree is leaf:
        return new
    children = tree.get("children", NvType.NVLIST_ARRAY)
    if children is None:
        return tree
    changed = tuple(_replaced(child, leaf, new) for child in children)
    return tree.with_value("children", NvType.NVLIST_ARRAY, changed)


def _leaf(label: Label) -> NvList:
    """The leaf of the tree for the device with this label."""
    guid = label.config.get("guid", NvType.UINT64)
    tree = label.config.get("vdev_tree", NvType.NVLIST)
    for leaf in _leaves(tree) if tree is not None else ():
        if leaf.get("guid", NvType.UINT64) == guid:
            return leaf
    raise LabelError(
        f"a label of the pool {label.pool!r} does not have the location of its device",
        f"its state is {label.state}",
        "only devices that hold data of a pool can be relabelled",
    )


def _leaves(tree: NvList) -> Iterator[NvList]:
    children = tree.get("children", NvType.NVLIST_ARRAY)
    if children is None:
        yield tree
        return
    for child in children:
        yield from _leaves(child)
