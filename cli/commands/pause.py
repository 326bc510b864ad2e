"""`dcctl pause`: stop a build between two checkpoints."""

import argparse

from cli.client import Json, build_path, request
from cli.commands.options import add_build
from cli.exit_codes import ExitCode
from cli.text import headline, print_json, printable

HELP = "stop a build between two checkpoints"
DESCRIPTION = (
    "Stop a build when its running checkpoint has ended, or before the checkpoint that --before names. "
    "`dcctl resume` continues it, or withdraws the pause while the checkpoint is running. "
    "With --withdraw the build does not stop at a pause that was requested, with --before or at submit, "
    "and that it has not reached."
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    add_build(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--before", metavar="CHECKPOINT", help="stop when this checkpoint is next")
    which.add_argument(
        "--withdraw", action="store_true", help="withdraw a pause that the build has not reached"
    )


def run(args: argparse.Namespace) -> int:
    """Pause, or withdraw a pause; prints the state."""
    path = build_path(args.build, "pause")
    body: dict[str, Json] = {"withdraw": True} if args.withdraw else {"before": args.before}
    build = request(args.socket, "POST", path, body=body)
    if args.json:
        print_json(build)
    else:
        print(headline(build))
        if build["pause_before"]:
            print(f"  stops before {printable(build['pause_before'])}")
    return ExitCode.OK
