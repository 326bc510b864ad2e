"""Fetching the artifacts of a build through the daemon, for `dcctl download` and `dcctl build`.

A file arrives under a hidden name beside its own and gets its name when its digest is right; an
interrupted transfer continues where it stopped. Holes of disk images stay holes. The files belong to
the user who runs dcctl.
"""

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO

from cli.client import CHUNK_BYTES, ClientError, Json, Unreachable, build_path, exchange

TRIES = 5
"""The number of times that a transfer which delivers nothing is tried."""


def fetch(socket_path: str, build: str, artifact: Json, directory: Path) -> bool:
    """Copy an artifact (as the API describes it) of a build into `directory`. Returns False when the file
    is there already. Raises ClientError."""
    _require_plain(artifact)
    target = directory / artifact["name"]
    part = directory / f".{artifact['name']}.{artifact['sha256'][:12]}.part"
    try:
        if _digest(target) == artifact["sha256"]:
            part.unlink(missing_ok=True)
            return False
        _transfer(socket_path, build_path(build, "artifacts", artifact["name"]), artifact, part)
        if _digest(part) != artifact["sha256"]:
            part.unlink()
            raise ClientError(
                "internal",
                f"{artifact['name']} does not have the digest that build {build} recorded",
                "the file was changed in the daemon's directory, or on its way",
                f"dcctl artifacts --verify {build}",
            )
        part.rename(target)
    except FileNotFoundError:
        # Another dcctl has completed the same file meanwhile.
        if _digest(target) != artifact["sha256"]:
            raise _cannot_write(target, "the file or its directory disappeared") from None
    except OSError as error:
        raise _cannot_write(target, error.strerror or str(error)) from None
    return True


def _cannot_write(target: Path, reason: str) -> ClientError:
    return ClientError(
        "internal",
        f"cannot write {target}: {reason}",
        resolution="choose another directory with -o; the transfer continues where it stopped",
    )


def _transfer(socket_path: str, path: str, artifact: Json, part: Path) -> None:
    """Append to `part` until it has the artifact's size."""
    failures = 0
    with _own_file(part) as file:
        begin = min(file.seek(0, os.SEEK_END), artifact["size_bytes"])
        while begin < artifact["size_bytes"]:
            arrived = begin
            try:
                for piece in _content(socket_path, path, artifact, begin):
                    file.seek(arrived)
                    if any(piece):  # zeros are left out, as holes
                        file.write(piece)
                    arrived += len(piece)
            except Unreachable:
                failures = 0 if arrived > begin else failures + 1
                if failures == TRIES:
                    raise
            begin = arrived
            file.truncate(begin)


def _own_file(part: Path) -> BinaryIO:
    """The file for a transfer, also one that was begun. In a directory of several users another one could
    have made it: a link to be written through, or a file to be changed after it was checked. Raises
    ClientError, OSError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.fdopen(os.open(part, flags, 0o666), "r+b")
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_nlink != 1:
        file.close()
        raise ClientError(
            "internal",
            f"{part} is not a file that dcctl has begun",
            "somebody else may have put it there",
            "remove it, or choose another directory with -o",
        )
    return file


def _content(socket_path: str, path: str, artifact: Json, begin: int) -> Iterator[bytes]:
    """The chunks of the artifact from `begin` on. Raises Unreachable when they break off."""
    headers = {"Range": f"bytes={begin}-", "If-Range": f'"{artifact["sha256"]}"'}
    with exchange(socket_path, "GET", path, headers=headers) as answer:
        if answer.status != 206:  # a server without ranges sends it all
            answer.read(begin)
        left = artifact["size_bytes"] - begin
        while piece := answer.read(min(CHUNK_BYTES, left)):
            left -= len(piece)
            yield piece
        if left:
            raise HTTPException("the response ended early")


def _digest(path: Path) -> str:
    """The sha256 of a file; "" if there is none."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
    return ""


def _require_plain(artifact: Json) -> None:
    """Raises ClientError for a name or digest that would lead out of the directory or hide the file."""
    name = artifact["name"]
    if name.startswith(".") or not re.fullmatch(r"[^/\0]+", name):
        raise ClientError(
            "internal",
            f"the daemon names an artifact {name!r}",
            "only a plain file name is written",
        )
    if not re.fullmatch(r"[0-9a-f]{64}", artifact["sha256"]):
        raise ClientError("internal", f"the daemon has no sha256 for the artifact {name!r}")
