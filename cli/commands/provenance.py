"""`dcctl provenance`: print how a build's products were made.

Print the provenance of a completed build, an in-toto statement with SLSA provenance: its products,
manifest, parameters, files, repositories, packages, tools and results, all by digest. It is made from the
events of the build, so builds of earlier versions have one too. With --boot, print the statement
that the products boot. The delivered files have the same text; see docs/reference/provenance.md.
"""

import argparse
import sys

from cli.client import build_path, read
from cli.commands.options import add_build
from cli.text import printable


def configure(parser: argparse.ArgumentParser) -> None:
    add_build(parser)
    parser.add_argument("--boot", action="store_true", help="print the proof of the boots instead")


def run(args: argparse.Namespace) -> None:
    """Print the statement, which is JSON in either form."""
    about = "boot" if args.boot else "provenance"
    path = build_path(args.build, "provenance")
    text = b"".join(read(args.socket, path, query={"about": about})).decode()
    # The bytes are those of the delivered file, except on a terminal.
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
