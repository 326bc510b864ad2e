"""`dcctl export`: write all that a build was made from to one file.

Write the manifest, the files, the packages with the indexes and signatures of their repositories, and the
provenance of a completed build to one file, from which `dcctl rebuild FILE` builds the image again on any
server, without network. Passwords of accounts are in it as the hashes that are in the image; other
secrets are refused, unless the manifest refers to them. The same build gives the same bytes.
"""

import argparse
from pathlib import Path

from cli.client import CHUNK_BYTES, ClientError, build_path, exchange
from cli.commands.options import add_build
from cli.text import print_json, printable, size
from cli.whole_file import whole_file


def configure(parser: argparse.ArgumentParser) -> None:
    add_build(parser)
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        help="the file to write; it must not exist (default: BUILD.dcd)",
    )


def run(args: argparse.Namespace) -> None:
    """Write the export: complete and on disk, or not at all."""
    target: Path = args.output or Path(f"{args.build}.dcd")
    if target.exists():
        raise ClientError(
            "usage", f"{target} exists already", "", "give a file name that does not exist"
        )
    written = 0
    with (
        exchange(args.socket, "GET", build_path(args.build, "export")) as answer,
        whole_file(target, 0o600) as file,
    ):
        while piece := answer.read(CHUNK_BYTES):
            file.write(piece)
            written += len(piece)
        if answer.headers["Content-Length"] != str(written):
            raise ClientError("internal", "the export is incomplete", "", "try again")
    if args.json:
        print_json({"path": str(target.absolute()), "size_bytes": written})
    else:
        print(f"{printable(str(target))}: {size(written)}")
