"""`dcctl graph`: print the state machine of a build.

Print the state machine of a build, its present state marked, for Mermaid or Graphviz.
"""

import argparse

from cli.client import build_path, read
from cli.commands.options import add_build
from cli.text import print_json, print_text


def configure(parser: argparse.ArgumentParser) -> None:
    add_build(parser)
    parser.add_argument(
        "--format",
        choices=("mermaid", "dot"),
        default="mermaid",
        help="the language of the diagram (default: mermaid)",
    )


def run(args: argparse.Namespace) -> None:
    """Print the diagram; with --json an object with `format` and `text`."""
    path = build_path(args.build, "graph")
    text = b"".join(read(args.socket, path, query={"format": args.format})).decode()
    if args.json:
        print_json({"format": args.format, "text": text})
    else:
        print_text(text.rstrip("\n"))
