"""Reading the inputs of a build: the manifest and the files that it names. dcctl reads files with the
permissions of the user, never with root's: the daemon says which files it needs and gets their content
as blobs.

Each file is read once per command, streamed, never held in memory. Unreadable files are reported like
other errors in the manifest: all at once, with the manifest's line. Talks to the daemon only through
`cli.client`.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from io import BufferedRandom, BufferedReader
from pathlib import Path
from typing import IO

from cli.client import CHUNK_BYTES, ClientError, Json, request, upload
from cli.trees import KINDS, Fault, TreeFaults, check_tree, packed

MANIFEST_LIMIT_BYTES = 1024 * 1024
"""The daemon refuses larger manifests; dcctl checks the limit before it sends anything."""

ROUNDS = 32
"""The maximum depth of includes; a longer chain is a mistake."""


def read_manifest(path: str) -> dict[str, str]:
    """The manifest for a request: its absolute path and its text. Raises ClientError."""
    absolute = str(Path(path).absolute())
    try:
        with open_regular(absolute) as file:
            content = file.read(MANIFEST_LIMIT_BYTES + 1)
        if len(content) > MANIFEST_LIMIT_BYTES:
            raise _invalid(absolute, 0, "the manifest is larger than 1 MiB, which is the limit")
        return {"path": absolute, "text": content.decode().removeprefix("\ufeff")}
    except OSError as error:
        raise ClientError(
            "invalid-manifest", f"cannot read {path}", error.strerror or str(error)
        ) from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _invalid(
            absolute, line, "the manifest is not UTF-8", "convert it, for example with iconv"
        ) from None


Ask = Callable[[dict[str, Json]], Json]
"""Asks about a manifest: takes the body of the request. Raises ClientError."""

Keep = Callable[[str, Iterator[bytes], int], None]
"""Takes the content of a file: its sha256, its pieces, its size in bytes."""


def send(socket_path: str, path: str, body: dict[str, Json]) -> Json:
    """POST a body with a manifest; upload the files that the daemon requests until it has all.

    Raises ClientError; problem `invalid-manifest`, with diagnostics, for a manifest with errors: from
    the daemon, and for files that cannot be read here, which `missing` names.
    """

    def post(whole: dict[str, Json]) -> Json:
        return request(socket_path, "POST", path, body=whole)

    return complete(body, post, partial(upload, socket_path))


def complete(body: dict[str, Json], ask: Ask, keep: Keep) -> Json:
    """The answer about a manifest, after each file that is requested was read and kept. Raises as `send`."""
    manifest = body["manifest"]["path"]
    files: dict[str, Json] = {}
    faults: list[Json] = []
    for _ in range(ROUNDS):
        try:
            answer = ask({**body, "files": files})
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
                "internal", "the daemon requests files again that it already has", manifest
            )
        unreadable = _unreadable(manifest, wanted)
        faults += unreadable
        if unreadable and all(item["kind"] != "include" for item in wanted):
            refusal = _with_faults(_merged([], faults))  # The daemon has found no other errors.
            refusal.extra["missing"] = wanted
            raise refusal
        files |= _capture(keep, wanted, {fault["path"] for fault in unreadable})
    raise _invalid(
        manifest, 0, f"files include each other more than {ROUNDS} deep", "look for a cycle"
    )


def _unreadable(manifest: str, wanted: list[Json]) -> list[Json]:
    """A diagnostic, with its `path`, for each of the files that cannot be read."""
    faults = []
    for item in wanted:
        try:
            if item["kind"] in KINDS:
                check_tree(item["path"], item["kind"])
            else:
                with open_regular(item["path"]) as file:
                    _refuse_private_key(file, item)
        except TreeFaults as failure:
            place = item.get("file") or manifest
            faults += [
                {
                    **_fault(place, item["line"], each.message, _WHY, each.remedy),
                    "path": item["path"],
                }
                for each in failure.faults
            ]
        except OSError as error:
            # The daemon says where it looked for an include that nobody has.
            given_up = item["optional"] or item["kind"] == "include"
            if given_up and isinstance(error, FileNotFoundError):
                continue
            message = f"cannot read {item['path']}: {error.strerror or error}"
            place = item.get("file") or manifest
            suggestion = "correct the path, or make the file readable"
            if Path(item["path"]).is_dir():
                suggestion = "name a file; <tree source= dest=> adds a directory"
            fault = _fault(place, item["line"], message, _WHY, suggestion)
            faults.append({**fault, "path": item["path"]})
    return faults


_WHY = "dcctl reads the files that a manifest names with your permissions"


def _refuse_private_key(file: BufferedReader, item: Json) -> None:
    """Raise TreeFaults for a private key in place of a public one, before anything of it is sent."""
    if item["kind"] == "public_key" and b"PRIVATE KEY" in file.read(4096):
        path = item["path"]
        raise TreeFaults([Fault(f"{path} is a private key", f'name the public one: "{path}.pub"')])


def _merged(found: list[Json], faults: list[Json]) -> list[Json]:
    """The daemon's diagnostics and those of files, in order. Only dcctl knows why a file cannot be
    read."""
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


def _capture(keep: Keep, wanted: list[Json], unreadable: set[str]) -> dict[str, Json]:
    """Keep the wanted files. None for one that is unreadable, or optional and missing."""
    captured: dict[str, Json] = {}
    for item in wanted:
        path = item["path"]
        try:
            captured[path] = None if path in unreadable else _capture_one(keep, path, item["kind"])
        except FileNotFoundError:
            captured[path] = None
        except TreeFaults as failure:
            fault = failure.faults[0]
            raise _invalid(
                item.get("file") or path, item["line"], fault.message, fault.remedy
            ) from None
        except OSError as error:
            raise ClientError(
                "invalid-manifest", f"cannot read {path}", error.strerror or str(error)
            ) from None
    return captured


def _capture_one(keep: Keep, path: str, kind: str) -> dict[str, Json]:
    if kind in KINDS:
        with packed(path, kind) as (archive, mode):
            return _sent(keep, path, archive, mode)
    with open_regular(path) as file:
        return _sent(keep, path, file, stat.S_IMODE(os.fstat(file.fileno()).st_mode))


def _sent(
    keep: Keep, path: str, file: BufferedReader | BufferedRandom, mode: int
) -> dict[str, Json]:
    file.seek(0)
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    size_bytes = file.tell()
    file.seek(0)
    keep(sha256, _pieces(file, path, size_bytes), size_bytes)
    return {"sha256": sha256, "mode": mode}


def _pieces(file: IO[bytes], path: str, size_bytes: int) -> Iterator[bytes]:
    """The announced `size_bytes` of a file. The daemon refuses content that does not match the
    digest."""
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
def open_regular(path: str) -> Iterator[BufferedReader]:
    """Open a regular file. Raises OSError for any other kind (a FIFO would block forever)."""
    # O_NONBLOCK: opening a FIFO waits for its writer, before its type can be checked.
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
    """A diagnostic in the form of the API."""
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
