"""`dcctl pause`: pause a build between two checkpoints.

Pause a build when its running checkpoint has ended, or before the checkpoint that --before names.
`dcctl resume` continues it, or withdraws the pause while the checkpoint is running. With
--withdraw, withdraw a pause requested with --before or at submit that the build has not reached
yet.
"""

import argparse

from cli.client import Json, build_path, request
from cli.commands.options import add_build
from cli.text import headline, print_json, printable


def configure(parser: argparse.ArgumentParser) -> None:
    add_build(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--before", metavar="CHECKPOINT", help="pause before this checkpoint")
    which.add_argument(
        "--withdraw", action="store_true", help="withdraw a pause that the build has not reached"
    )


def run(args: argparse.Namespace) -> None:
    """Pause, or withdraw a pause, and print the state."""
    path = build_path(args.build, "pause")
    body: dict[str, Json] = {"withdraw": True} if args.withdraw else {"before": args.before}
    build = request(args.socket, "POST", path, body=body)
    if args.json:
        print_json(build)
    else:
        print(headline(build))
        if build["pause_before"]:
            print(f"  pauses before {printable(build['pause_before'])}")
