"""`dcctl graph`: a diagram of a build's state machine."""

import argparse

from cli.client import build_path, read
from cli.commands.options import add_build
from cli.exit_codes import ExitCode
from cli.text import print_json, print_text

HELP = "print the state machine of a build"
DESCRIPTION = (
    "Print the state machine of a build, its present state marked, for Mermaid or Graphviz."
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    add_build(parser)
    parser.add_argument(
        "--format",
        choices=("mermaid", "dot"),
        default="mermaid",
        help="the language of the diagram (default: mermaid)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the diagram; with --json an object with `format` and `text`."""
    path = build_path(args.build, "graph")
    text = b"".join(read(args.socket, path, query={"format": args.format})).decode()
    if args.json:
        print_json({"format": args.format, "text": text})
    else:
        print_text(text.rstrip("\n"))
    return ExitCode.OK
