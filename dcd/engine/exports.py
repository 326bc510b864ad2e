"""Exports: one file with all that a build was made from, for anybody who wants to rebuild it.

A tar archive (ustar), the same bytes for the same build:

    export.json            the index: what a rebuild is compared with, and every other file by digest and size
    manifest.xml           the manifest, without secrets
    provenance.json        as delivered, and provenance.dsse.json if it is signed
    inputs/SHA256          the captured files that the manifest names
    contents/SHA256        the content manifests of the layers, to name the files that differ
    packages/SHA256        the packages, release files, indexes, keyrings, and the lists of these

Blocking parts run in threads; an export is streamed.
"""

import asyncio
import base64
import hashlib
import json
import tarfile
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

from dcd.engine.rebuilds import Rebuilds, require_captured
from dcd.engine.stores import Stores
from dcd.planner.client import Planning
from dcd.planner.tasks import EXPORT, OfEpoch
from statemachine.build import BuildState
from statemachine.errors import NotFound, Refused
from statemachine.plan import Json
from statemachine.provenance import results
from store.captured import captured_files
from store.host.plain import as_plain

FORMAT = "dcd-export-1"
_PIECE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Member:
    """A file of an export: a text, or a file of a store."""

    name: str
    sha256: str
    size_bytes: int
    source: bytes | Path


async def make_export(
    rebuilds: Rebuilds, planner: Planning, state: BuildState
) -> tuple[int, AsyncGenerator[bytes, None]]:
    """The size in bytes and the pieces of the export of a completed build. Raises Refused, NotFound for
    captured files that are gone, Unprepared for a build that downloaded what was not captured."""
    expected = await rebuilds.expected(state)
    stores = rebuilds.stores
    manifest = await planner.ask(EXPORT, OfEpoch(state.manifest, state.source_date_epoch))
    named = results(await rebuilds.builds.events(state.id)).exported
    if hashlib.sha256(manifest.encode()).hexdigest() != named:
        raise Refused(
            f"build {state.id} cannot be exported",
            "another version of dcd made it, and its provenance does not name the manifest of the export",
            "submit its manifest again, and export that build",
        )
    members = await asyncio.to_thread(lambda: list(_members(stores, state, manifest)))
    contents = await asyncio.to_thread(lambda: dict(_contents(stores, state)))
    members += {each.name: each for each in contents.values()}.values()
    expected = replace(expected, manifests={name: each.sha256 for name, each in contents.items()})
    index: Json = {
        "format": FORMAT,
        "dcd": version("dcd"),
        "name": state.name,
        "manifest_path": state.manifest_path,
        "source_date_epoch": state.source_date_epoch,
        "lists": list(state.resolved),
        "inputs": [as_plain(each) for each in state.inputs],
        "rebuild": as_plain(expected),
        "files": [
            {"path": each.name, "sha256": each.sha256, "size_bytes": each.size_bytes}
            for each in members
        ],
    }
    text = json.dumps(index, sort_keys=True, indent=1).encode() + b"\n"
    whole = [_text("export.json", text), *members]
    size_bytes = sum(512 + _padded(each.size_bytes) for each in whole) + 1024
    return size_bytes, _pieces(whole, state.source_date_epoch)


def _members(stores: Stores, state: BuildState, manifest: str) -> Iterator[Member]:
    require_captured(state.plan, state.resolved)
    yield _text("manifest.xml", manifest.encode())
    said = {each.name.removeprefix(f"{state.name}."): each for each in state.published}
    for name in ("provenance.json", "provenance.dsse.json"):
        if name in said:
            path = stores.artifacts.path(state.id, said[name])
            yield Member(name, said[name].sha256, said[name].size_bytes, path)
    for digest in sorted({file.sha256 for file in state.inputs}):
        path = stores.blobs.path(digest)
        yield Member(f"inputs/{digest}", digest, path.stat().st_size, path)
    for file in captured_files(stores.packages, state.resolved):
        yield Member(f"packages/{file.sha256}", file.sha256, file.size_bytes, file.path)


def _contents(stores: Stores, state: BuildState) -> Iterator[tuple[str, Member]]:
    """The content manifests of the layers that are still there."""
    for record in state.checkpoints:
        if packed := base64.b64decode(stores.privileged.content_of(record.key)):
            digest = hashlib.sha256(packed).hexdigest()
            yield record.name, _text(f"contents/{digest}", packed)


async def _pieces(members: list[Member], epoch: int) -> AsyncGenerator[bytes, None]:
    for member in members:
        head = tarfile.TarInfo(member.name)
        head.size, head.mtime, head.mode = member.size_bytes, epoch, 0o644
        yield head.tobuf(tarfile.USTAR_FORMAT)
        if isinstance(member.source, bytes):
            yield member.source
        else:
            with await asyncio.to_thread(_opened, member) as file:
                left = member.size_bytes
                while left and (piece := await asyncio.to_thread(file.read, _PIECE_BYTES)):
                    left -= len(piece)
                    yield piece
        yield bytes(_padded(member.size_bytes) - member.size_bytes)
    yield bytes(1024)


def _opened(member: Member) -> BinaryIO:
    assert isinstance(member.source, Path)
    try:
        return member.source.open("rb")
    except OSError as error:
        raise NotFound(f"{member.name} of the export cannot be read", str(error)) from error


def _text(name: str, content: bytes) -> Member:
    return Member(name, hashlib.sha256(content).hexdigest(), len(content), content)


def _padded(size_bytes: int) -> int:
    """The size in a tar archive, in whole blocks."""
    return -(-size_bytes // 512) * 512
