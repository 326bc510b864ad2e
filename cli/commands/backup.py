"""`dcctl backup`: write a copy of the event log to a file.

Write a consistent copy of the daemon's event log to a new file, while builds continue. `dcd
restore` installs it in a state directory, and the daemon there continues every build; the copy does
not contain layers, captured inputs and artifacts. It contains manifests, so only you can read it.
Needs the role administer.
"""

import argparse
import base64
import hashlib
import os
from contextlib import suppress
from http.client import HTTPResponse
from pathlib import Path

from cli.client import CHUNK_BYTES, ClientError, exchange
from cli.text import print_json, printable, size


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="PATH", help="the file to write; it must not exist")


def run(args: argparse.Namespace) -> None:
    """Write the copy: complete, verified and on disk, or not at all."""
    target = Path(args.file)
    if target.exists():
        raise ClientError(
            "usage", f"{target} exists already", "", "give a file name that does not exist"
        )
    aside = target.with_name(f".{target.name}.{os.getpid()}.part")
    with exchange(args.socket, "GET", "/v1/backup") as answer:
        try:
            written = _save(answer, aside)
            aside.rename(target)
            _sync(target.parent)
        except (ConnectionError, TimeoutError):
            raise
        except OSError as error:
            raise ClientError(
                "internal", f"cannot write {target}", error.strerror or str(error)
            ) from None
        finally:
            with suppress(OSError):
                aside.unlink()
    if args.json:
        print_json({"path": str(target.absolute()), "size_bytes": written})
    else:
        print(f"{printable(str(target))}: {size(written)}")


def _save(answer: HTTPResponse, path: Path) -> int:
    """Save the response. Returns its size. Raises ClientError when its digest is wrong."""
    digest, written = hashlib.sha256(), 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        while piece := answer.read1(CHUNK_BYTES):
            file.write(piece)
            digest.update(piece)
            written += len(piece)
        file.flush()
        os.fsync(file.fileno())
    # RFC 9530
    if answer.headers["Repr-Digest"] != f"sha-256=:{base64.b64encode(digest.digest()).decode()}:":
        raise ClientError("internal", "the copy is incomplete or damaged", "", "try again")
    return written


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
