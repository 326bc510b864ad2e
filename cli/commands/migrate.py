"""`dcctl migrate`: a manifest from before the Caiman Unified Design in its vocabulary."""

import argparse
import sys
from pathlib import Path

from cli.capture import read_manifest
from cli.client import ClientError, request
from cli.exit_codes import ExitCode
from cli.text import print_diagnostics, print_json, print_text, short_path

HELP = "convert a manifest from before the Caiman Unified Design"
DESCRIPTION = (
    "Convert a manifest with the root element <distribution>, as the original had them before its "
    "redesign, to one that dcctl validate and submit take; the names of its checkpoints stay. What could "
    "not be carried over is listed on stderr and, as comments, in the result. Values that the manifest does "
    "not give come from its file of defaults."
)

DEFAULTS = "DC-manifest.defval.xml"
PLACES = (".", "..", "/usr/share/distro_const")
"""Where the file of defaults is looked for, from the manifest's directory."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument("manifest", metavar="MANIFEST", help="the old manifest's file")
    parser.add_argument(
        "-o", metavar="PATH", dest="output", help="write the result there instead of to stdout"
    )
    parser.add_argument(
        "--defaults",
        metavar="PATH",
        help=f"its file of defaults (default: {DEFAULTS} beside it, above it, or where the original had it)",
    )


def run(args: argparse.Namespace) -> int:
    """Convert."""
    defaults = args.defaults or _found_beside(args.manifest)
    body = {
        "manifest": read_manifest(args.manifest),
        "defaults": None if defaults is None else read_manifest(defaults),
    }
    answer = request(args.socket, "POST", "/v1/migrate", body=body)
    if args.output is not None:
        _write(args.output, answer["manifest"])
    if args.json:
        print_json(answer)
        return ExitCode.OK
    if args.output is None:
        print_text(answer["manifest"].rstrip("\n"))
    print_diagnostics(answer["left"], sys.stderr)
    if defaults is not None and args.defaults is None:
        print(f"dcctl: defaults are from {short_path(defaults)}", file=sys.stderr)
    return ExitCode.OK


def _found_beside(manifest: str) -> str | None:
    directory = Path(manifest).absolute().parent
    candidates = ((directory / place / DEFAULTS).resolve() for place in PLACES)
    return next((str(path) for path in candidates if path.is_file()), None)


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ClientError("usage", f"cannot write {path}", error.strerror or str(error)) from None
