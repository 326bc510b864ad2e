"""`dcctl rm`: drop what an ended build left."""

import argparse

from cli.client import build_path, request
from cli.commands.options import add_build
from cli.exit_codes import ExitCode
from cli.text import headline, print_json

HELP = "remove an ended build"
DESCRIPTION = (
    "Remove the artifacts and logs of a build that has completed or was cancelled, and take it off the "
    "list; its events stay. Its layers stay until `dcctl gc`, unless another build names them. Running it "
    "twice is no error."
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    add_build(parser)


def run(args: argparse.Namespace) -> int:
    """Remove; prints the state."""
    build = request(args.socket, "DELETE", build_path(args.build))
    if args.json:
        print_json(build)
    else:
        print(f"{headline(build)}, removed")
    return ExitCode.OK
