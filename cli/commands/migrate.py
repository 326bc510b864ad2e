"""`dcctl migrate`: convert a manifest from before the Caiman Unified Design.

Convert a manifest with the root element <distribution>, from before the original's redesign, to one
that dcctl validate and submit accept; the names of its checkpoints are kept. Parts that could not
be converted are listed on stderr and, as comments, in the result. Values that the manifest omits
come from its file of defaults.
"""

import argparse
import sys
from pathlib import Path

from cli.capture import read_manifest
from cli.client import ClientError, request
from cli.text import print_diagnostics, print_json, print_text, short_path

DEFAULTS = "DC-manifest.defval.xml"
PLACES = (".", "..", "/usr/share/distro_const")
"""The search path for the file of defaults, relative to the manifest's directory."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("manifest", metavar="MANIFEST", help="the old manifest file")
    parser.add_argument(
        "-o", metavar="PATH", dest="output", help="write the result to this file instead of stdout"
    )
    parser.add_argument(
        "--defaults",
        metavar="PATH",
        help=f"its file of defaults (default: {DEFAULTS} beside it, above it, or in the original's location)",
    )


def run(args: argparse.Namespace) -> None:
    """Convert."""
    defaults = args.defaults or _found_beside(args.manifest)
    body = {
        "manifest": read_manifest(args.manifest),
        "defaults": None if defaults is None else read_manifest(defaults),
    }
    answer = request(args.socket, "POST", "/v1/migrate", body=body)
    if args.output is not None:
        try:
            Path(args.output).write_text(answer["manifest"], encoding="utf-8")
        except OSError as error:
            why = error.strerror or str(error)
            raise ClientError("usage", f"cannot write {args.output}", why) from None
    if args.json:
        print_json(answer)
        return
    if args.output is None:
        print_text(answer["manifest"].rstrip("\n"))
    print_diagnostics(answer["left"], sys.stderr)
    if defaults is not None and args.defaults is None:
        print(f"dcctl: defaults are from {short_path(defaults)}", file=sys.stderr)


def _found_beside(manifest: str) -> str | None:
    directory = Path(manifest).absolute().parent
    candidates = ((directory / place / DEFAULTS).resolve() for place in PLACES)
    return next((str(path) for path in candidates if path.is_file()), None)
