"""`dcctl follow`: show a build until it stands still."""

import argparse
import sys

from cli.client import build_path, request
from cli.commands.options import add_build
from cli.follow import follow_build

HELP = "show a build until it stands still"
DESCRIPTION = (
    "Show what a build does until it is paused or has failed, ended or been cancelled; its state is "
    "the exit code. A restart of the daemon is waited for. Ctrl-C ends only the showing. With --json "
    "each event is an object on a line, as `dcctl events` prints them, and between them progress "
    "messages have the type `progress`."
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    add_build(parser)


def run(args: argparse.Namespace) -> int:
    """Follow the build."""
    build = request(args.socket, "GET", build_path(args.build))
    return follow_build(args.socket, build, stream=sys.stdout, as_json=args.json)
