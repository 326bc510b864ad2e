"""`dcctl pause`: stop a build between two checkpoints."""

import argparse

from cli.client import build_path, request
from cli.commands.options import add_build
from cli.exit_codes import ExitCode
from cli.text import headline, print_json, printable

HELP = "stop a build between two checkpoints"
DESCRIPTION = (
    "Stop a build when its running checkpoint has ended, or before the checkpoint that --before names. "
    "`dcctl resume` continues it, or withdraws the pause while the checkpoint is running."
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    add_build(parser)
    parser.add_argument("--before", metavar="CHECKPOINT", help="stop when this checkpoint is next")


def run(args: argparse.Namespace) -> int:
    """Pause; prints the state."""
    path = build_path(args.build, "pause")
    build = request(args.socket, "POST", path, body={"before": args.before})
    if args.json:
        print_json(build)
    else:
        print(headline(build))
        if build["pause_before"]:
            print(f"  stops before {printable(build['pause_before'])}")
    return ExitCode.OK
