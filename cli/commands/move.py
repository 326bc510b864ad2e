"""`dcctl move`: have another member of the farm drive a build.

The build leaves its member when its running checkpoint has ended, or at once when it is queued, and continues
on the member that --to names, or on any other one that has the labels that it requires. That member fetches
the earlier results from the registry, or makes them again. A build whose last checkpoint runs is delivered
where it is. When the new member is lost before it takes the build, any other one takes it.
"""

import argparse

from cli.client import build_path, request
from cli.commands.options import add_build
from cli.text import headline, print_json


def configure(parser: argparse.ArgumentParser) -> None:
    add_build(parser)
    parser.add_argument("--to", metavar="HOST", help="the member that is to drive it")


def run(args: argparse.Namespace) -> None:
    """Request the move, and print the state."""
    build = request(args.socket, "POST", build_path(args.build, "move"), body={"to": args.to})
    if args.json:
        print_json(build)
    else:
        print(headline(build))
