"""The layers of an OCI image, each the difference of the image area from what the layers before it hold.

They are kept in the workspace, beside the areas and out of reach of programs of the image: the layers as
blobs, their list, and for every entry of the tree a digest of all that identifies it. So a layer is made once
and is part of the layer of its checkpoint: another build with the same first steps has the same blobs.

A file that has several names is in a layer with all of them, and every entry with its directories. What is
gone is a file `.wh.NAME`.
Source: the OCI image specification 1.0.2, "Image Layer Filesystem Changeset" and "Media Types".
"""

import hashlib
import json
import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dcd.checkpoints.interface import Context
from dcd.checkpoints.rootfs.compression import compress
from dcd.checkpoints.rootfs.tree import Tree
from dcd.platform.inside import listed
from statemachine.errors import CheckpointError
from store.host.attributes import attributes_of
from store.host.entries import Entry
from store.host.tar import TarWriter

_KEPT = "oci"
_WHITEOUT = ".wh."
_SUFFIXES = {"gzip": "+gzip", "zstd": "+zstd", "none": ""}
_MEDIA_TYPE = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer: the sha256 of its blob and of the archive in it, its size, its kind, and the checkpoint that
    made it."""

    digest: str
    diff_id: str
    size: int
    media_type: str
    made_by: str


def layers_of(context: Context) -> list[Layer]:
    """The layers that earlier checkpoints have made, and this one, from the lowest."""
    listing = _kept(context) / "layers.json"
    return msgspec.json.decode(listing.read_bytes(), type=list[Layer]) if listing.exists() else []


def blob(context: Context, layer: Layer) -> Path:
    """The file of a layer."""
    return _kept(context) / layer.digest


def add_layer(
    context: Context, tree: Tree, made_by: str, compression: str, level: int | None
) -> Layer | None:
    """Make a layer with the difference of the tree from the layers that there are; None if it is equal."""
    kept = _kept(context)
    kept.mkdir(exist_ok=True)
    index = kept / "index.json"
    before: dict[str, str] = json.loads(index.read_text()) if index.exists() else {}
    entries = {one.name: one for one in tree.entries if one.kind != stat.S_IFSOCK}
    _refuse_whiteouts(entries)
    now = _signatures(entries.values())
    gone = list(_gone(before, entries))
    changed = {name for name, signature in now.items() if before.get(name) != signature}
    if not changed and not gone:
        return None
    plain = context.tmp / "layer.tar"
    diff_id = _write(plain, entries, _completed(changed, gone, entries), gone, tree.epoch)
    packed = compress(context, plain, compression, level)
    with packed.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    layer = Layer(
        digest, diff_id, packed.stat().st_size, f"{_MEDIA_TYPE}{_SUFFIXES[compression]}", made_by
    )
    packed.rename(blob(context, layer))
    (kept / "layers.json").write_bytes(msgspec.json.encode([*layers_of(context), layer]))
    index.write_text(json.dumps(now))
    return layer


def _kept(context: Context) -> Path:
    return context.root / _KEPT


def _refuse_whiteouts(entries: Mapping[str, Entry]) -> None:
    if odd := [name for name in entries if name.rpartition("/")[2].startswith(_WHITEOUT)]:
        raise CheckpointError(
            "the image has names that mean a removed file in a container image",
            f"they begin with {_WHITEOUT}: {listed(odd)}",
            "rename or remove them in a checkpoint before, or leave them out (exclude)",
        )


def _signatures(entries: Iterable[Entry]) -> dict[str, str]:
    """For each entry a digest of all that an archive holds of it."""
    first: dict[tuple[int, int], tuple[str, str]] = {}
    found = {}
    for one in entries:
        status = one.status
        identity = (status.st_dev, status.st_ino)
        name, content = first.get(identity, (one.name, ""))
        if identity not in first:
            content = _content(one)
            first[identity] = name, content
        attributes = [(key, value.hex()) for key, value in sorted(attributes_of(one.path).items())]
        said = (
            *(status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_rdev),
            *(content, attributes, "" if one.kind == stat.S_IFDIR else name),
        )
        found[one.name] = hashlib.sha256(repr(said).encode("utf-8", "surrogateescape")).hexdigest()
    return found


def _content(entry: Entry) -> str:
    if entry.kind == stat.S_IFLNK:
        return os.readlink(entry.path)  # noqa: PTH115 - as it is written
    if entry.kind != stat.S_IFREG:
        return ""
    descriptor = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _gone(before: Mapping[str, str], entries: Mapping[str, Entry]) -> Iterator[str]:
    """The entries that are gone while their directory is still one."""
    for name in before:
        parent = entries.get(name.rpartition("/")[0])
        if name not in entries and parent is not None and parent.kind == stat.S_IFDIR:
            yield name


def _completed(changed: Set[str], gone: list[str], entries: Mapping[str, Entry]) -> set[str]:
    """The entries of a layer: the changed ones, their other names, and all directories above."""
    names: dict[tuple[int, int], list[str]] = defaultdict(list)
    for one in entries.values():
        if one.kind != stat.S_IFDIR and one.status.st_nlink > 1:
            names[one.status.st_dev, one.status.st_ino].append(one.name)
    found = set(changed)
    for group in names.values():
        if found.intersection(group):
            found.update(group)
    for name in (*found, *gone):
        parent = name
        while parent:
            parent = parent.rpartition("/")[0]
            found.add(parent)
    return found


def _write(
    path: Path, entries: Mapping[str, Entry], wanted: Set[str], gone: list[str], epoch: int
) -> str:
    """Write the archive of a layer; returns its sha256. The names that are gone come first in their
    directory."""
    removed: dict[str, list[str]] = defaultdict(list)
    for name in sorted(gone, key=os.fsencode):
        directory, _, last = name.rpartition("/")
        removed[directory].append(f"{directory}/{_WHITEOUT}{last}".lstrip("/"))
    digest = hashlib.sha256()
    with path.open("wb") as file:

        def write(data: bytes) -> None:
            digest.update(data)
            file.write(data)

        tar = TarWriter(write)
        for one in entries.values():
            if one.name in wanted:
                tar.add(one, one.name or "./")
                for name in removed[one.name]:
                    tar.add_bytes(name, b"", epoch)
        tar.close()
    return digest.hexdigest()
