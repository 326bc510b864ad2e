"""`dcctl backup`: write a copy of the event log to a file.

Write a consistent copy of the daemon's event log to a new file, while builds continue. `dcd
restore` installs it in a state directory, and the daemon there continues every build; the copy does
not contain layers, captured inputs and artifacts. It contains manifests, so only you can read it.
Needs the role administer.
"""

import argparse
import base64
import hashlib
from http.client import HTTPResponse
from pathlib import Path
from typing import BinaryIO

from cli.client import CHUNK_BYTES, ClientError, exchange
from cli.text import print_json, printable, size
from cli.whole_file import whole_file


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="PATH", help="the file to write; it must not exist")


def run(args: argparse.Namespace) -> None:
    """Write the copy: complete, verified and on disk, or not at all."""
    target = Path(args.file)
    if target.exists():
        raise ClientError(
            "usage", f"{target} exists already", "", "give a file name that does not exist"
        )
    with exchange(args.socket, "GET", "/v1/backup") as answer, whole_file(target, 0o600) as file:
        written = _save(answer, file)
    if args.json:
        print_json({"path": str(target.absolute()), "size_bytes": written})
    else:
        print(f"{printable(str(target))}: {size(written)}")


def _save(answer: HTTPResponse, file: BinaryIO) -> int:
    """Save the response. Returns its size. Raises ClientError when its digest is wrong."""
    digest, written = hashlib.sha256(), 0
    while piece := answer.read1(CHUNK_BYTES):
        file.write(piece)
        digest.update(piece)
        written += len(piece)
    # RFC 9530
    if answer.headers["Repr-Digest"] != f"sha-256=:{base64.b64encode(digest.digest()).decode()}:":
        raise ClientError("internal", "the copy is incomplete or damaged", "", "try again")
    return written
