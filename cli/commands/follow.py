"""`dcctl follow`: show a build until it ends, fails or is paused.

Show the progress of a build, from its submit or its newest resume on, until it completes, fails, is
paused or is cancelled, with the log of the checkpoint that runs (not with --quiet); the exit code is
that of its state. `dcctl events` shows earlier events.
When the daemon restarts, dcctl waits for it. Ctrl-C stops the display, not the build. With --json
each event is an object on a line, as in `dcctl events`, and progress messages between them have the
type `progress`.
"""

import argparse
import sys

from cli.client import build_path, request
from cli.commands.options import add_build, add_quiet, add_reports
from cli.follow import follow_build, reported
from cli.groups import follow_group, group_of, reported_group


def configure(parser: argparse.ArgumentParser) -> None:
    add_build(parser)
    add_quiet(parser)
    add_reports(parser)


def run(args: argparse.Namespace) -> int:
    """Follow the build."""
    if group := group_of(args.socket, args.build):
        code = follow_group(args.socket, group, stream=sys.stdout, as_json=args.json)
        return reported_group(args, group, code)
    build = request(args.socket, "GET", build_path(args.build))
    code = follow_build(args.socket, build, stream=sys.stdout, as_json=args.json, quiet=args.quiet)
    return reported(args, build, code)
