"""`dcctl init`: write a manifest to begin with.

Print a commented manifest of about fifteen lines that is valid and can be built as it is: a live ISO
(live, the default), a server's disk (server), a virtual machine (vm), a live system that starts through
the network (netboot), a root file system for containers (rootfs), or an image of illumos packages (illumos:
name your publisher in it first). With -o it is written to a file, which must not exist yet. Needs no daemon.
"""

import argparse
import sys

from cli.client import ClientError
from cli.starters import STARTERS
from cli.text import print_json, printable


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "kind",
        metavar="KIND",
        nargs="?",
        default="live",
        choices=tuple(STARTERS),
        help="the kind of image (default: live)",
    )
    parser.add_argument(
        "-o", "--output", metavar="PATH", help="the file to write (default: standard output)"
    )


def run(args: argparse.Namespace) -> None:
    """Write the manifest. Raises ClientError for an existing file."""
    text = STARTERS[args.kind]
    if args.output is None:
        if args.json:
            print_json({"kind": args.kind, "path": None, "manifest": text})
        else:
            print(text, end="")
        return
    _write(args.output, text)
    if args.json:
        print_json({"kind": args.kind, "path": args.output, "manifest": text})
    else:
        print(printable(f"{args.output}: to build it: dcctl build {args.output}"))
    sys.stdout.flush()


def _write(path: str, text: str) -> None:
    try:
        # Never over a file, or through a link to one that does not exist yet.
        with open(path, "x", encoding="utf-8") as file:  # noqa: PTH123 - the path as written
            file.write(text)
    except FileExistsError:
        raise ClientError(
            "refused",
            f"{path} exists already",
            "dcctl init overwrites nothing",
            "name another file, or remove this one",
        ) from None
    except OSError as error:
        raise ClientError(
            "usage", f"cannot write {path}", error.strerror or str(error), "name another file"
        ) from None
