"""Reading what a build is made from: the manifest, and the files that it names.

Files are read here, by dcctl, with the permissions of the person who runs it, never with root's: the
daemon says which it needs, and gets their content as blobs. Each is read once per command, streamed,
never held in memory. What cannot be read is reported like any other fault of the manifest: all of it at
once, with the manifest's line. Talks to the daemon only through `cli.client`.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cli.client import CHUNK_BYTES, ClientError, Json, request, upload

MANIFEST_LIMIT_BYTES = 1024 * 1024
"""The daemon refuses larger manifests; refusing here names the limit before anything is sent."""

ROUNDS = 32
"""Included files can include more; a chain longer than this is a mistake."""


def read_manifest(path: str) -> dict[str, str]:
    """The manifest for a request: its absolute path and its text. Raises ClientError."""
    absolute = str(Path(path).absolute())
    try:
        with open_regular(absolute) as file:
            content = file.read(MANIFEST_LIMIT_BYTES + 1)
        if len(content) > MANIFEST_LIMIT_BYTES:
            raise _invalid(absolute, 0, "the manifest is larger than 1 MiB, which is the limit")
        return {"path": absolute, "text": content.decode("utf-8-sig")}
    except OSError as error:
        raise ClientError(
            "invalid-manifest", f"cannot read {path}", error.strerror or str(error)
        ) from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _invalid(
            absolute, line, "the manifest is not UTF-8", "convert it, for example with iconv"
        ) from None


def send(socket_path: str, path: str, body: dict[str, Json]) -> Json:
    """POST a body that carries a manifest; upload the files that the daemon asks for until it has all.

    Raises ClientError; problem `invalid-manifest`, with diagnostics, for a manifest with errors: those
    that the daemon finds, and files that cannot be read here.
    """
    manifest = body["manifest"]["path"]
    files: dict[str, Json] = {}
    faults: list[Json] = []
    for _ in range(ROUNDS):
        try:
            answer = request(socket_path, "POST", path, body={**body, "files": files})
            if faults or answer.get("ok") is False:
                raise ClientError("invalid-manifest", "the manifest has errors", extra=answer)
            return answer
        except ClientError as error:
            if error.kind == "invalid-manifest":
                unsent = error.extra.get("missing") or []
                faults += _unreadable(manifest, [one for one in unsent if one["path"] not in files])
                error.extra["diagnostics"] = _merged(error.diagnostics, faults)
                raise
            if error.kind != "inputs-missing":
                raise
            wanted = [item for item in error.extra["missing"] if item["path"] not in files]
        if not wanted:
            raise ClientError(
                "internal", "the daemon asks again for files that it already has", manifest
            )
        lacking = _unreadable(manifest, wanted)
        faults += lacking
        if lacking and all(item["kind"] == "file" for item in wanted):
            raise _with_faults(_merged([], faults))  # The daemon has found nothing else.
        files |= _capture(socket_path, wanted, {fault["path"] for fault in lacking})
    raise _invalid(
        manifest, 0, f"files include each other more than {ROUNDS} deep", "look for a cycle"
    )


def _unreadable(manifest: str, wanted: list[Json]) -> list[Json]:
    """A diagnostic, with its `path`, for each of the files that cannot be read."""
    faults = []
    for item in wanted:
        try:
            with open_regular(item["path"]):
                pass
        except OSError as error:
            if item["optional"] and isinstance(error, FileNotFoundError):
                continue
            message = f"cannot read {item['path']}: {error.strerror or error}"
            why = "dcctl reads the files that a manifest names, with your permissions"
            place = item.get("file") or manifest
            suggestion = "correct the path, or make the file readable"
            if Path(item["path"]).is_dir():
                suggestion = (
                    "name a file; a directory is packed (tar) and unpacked by TransferArchive"
                )
            fault = _fault(place, item["line"], message, why, suggestion)
            faults.append({**fault, "path": item["path"]})
    return faults


def _merged(found: list[Json], faults: list[Json]) -> list[Json]:
    """The daemon's diagnostics and those of files, in order. Why a file cannot be read is known here."""
    if not faults:
        return found
    known = {(fault["file"], fault["line"], fault["path"]) for fault in faults}
    rest = [
        item
        for item in found
        if not any(
            (item["file"], item["line"]) == (file, line) and path in item["message"]
            for file, line, path in known
        )
    ]
    merged = [*rest, *({k: v for k, v in fault.items() if k != "path"} for fault in faults)]
    return sorted(
        merged, key=lambda item: (item["severity"], item["file"], item["line"], item["column"])
    )


def _capture(socket_path: str, wanted: list[Json], lacking: set[str]) -> dict[str, Json]:
    """The files that are wanted; None for one that is lacking or, being optional, is not there."""
    captured: dict[str, Json] = {}
    for item in wanted:
        path = item["path"]
        try:
            captured[path] = None if path in lacking else _capture_one(socket_path, path)
        except FileNotFoundError:
            captured[path] = None
        except OSError as error:
            raise ClientError(
                "invalid-manifest", f"cannot read {path}", error.strerror or str(error)
            ) from None
    return captured


def _capture_one(socket_path: str, path: str) -> dict[str, Json]:
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
        digest, size_bytes = hashlib.sha256(), 0
        while piece := file.read(CHUNK_BYTES):
            digest.update(piece)
            size_bytes += len(piece)
        file.seek(0)
        upload(socket_path, digest.hexdigest(), _pieces(file, path, size_bytes), size_bytes)
    return {"sha256": digest.hexdigest(), "mode": stat.S_IMODE(status.st_mode)}


def _pieces(file: BinaryIO, path: str, size_bytes: int) -> Iterator[bytes]:
    """Exactly `size_bytes`, which were announced. Other bytes than digested the daemon refuses."""
    left = size_bytes
    while left:
        piece = file.read(min(left, CHUNK_BYTES))
        if not piece:
            raise ClientError(
                "invalid-manifest", f"{path} became shorter while it was read", "", "try again"
            )
        left -= len(piece)
        yield piece


@contextmanager
def open_regular(path: str) -> Iterator[BinaryIO]:
    """Open a regular file; anything else is an OSError (a FIFO would block for ever)."""
    # O_NONBLOCK: opening a FIFO waits for its writer, before it can be seen to be one.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENODEV):  # A socket, or a device without a driver.
            raise OSError(None, "it is not a regular file") from error
        raise
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise OSError(
            None, f"it is {'a directory' if stat.S_ISDIR(mode) else 'not a regular file'}"
        )
    with os.fdopen(descriptor, "rb") as file:
        yield file


def _fault(file: str, line: int, message: str, why: str = "", suggestion: str = "") -> Json:
    """A diagnostic as the API has them."""
    return {
        "severity": "error",
        "file": file,
        "line": line,
        "column": 0,
        "message": message,
        "why": why,
        "suggestion": suggestion,
    }


def _invalid(file: str, line: int, message: str, suggestion: str = "") -> ClientError:
    return _with_faults([_fault(file, line, message, suggestion=suggestion)])


def _with_faults(faults: list[Json]) -> ClientError:
    brief = faults[0]["message"]
    return ClientError("invalid-manifest", brief, extra={"diagnostics": faults})
