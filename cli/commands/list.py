"""`dcctl list`: list builds, newest first.

List the newest builds, or all of them: how far each is, how long it has worked / how long all of it is
expected to take, and the user who submitted it. A build is superseded when a later one of the same
distribution has completed.
"""

import argparse
from itertools import islice

from cli import client
from cli.client import PAGE, Json
from cli.text import local_time, percent, print_json, print_table, printable, times

STATES = (
    *("queued", "running", "pausing", "paused"),
    *("failed", "cancelling", "cancelled", "completed"),
)
DEFAULT_LIMIT = 20


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state",
        choices=STATES,
        metavar="STATE",
        action="append",
        help="only builds in this state; may be given more than once",
    )
    parser.add_argument(
        "--group", metavar="GROUP", help="only the builds of this group of a matrix"
    )
    parser.add_argument("--ids", action="store_true", help="print the ids alone, one on a line")
    how_many = parser.add_mutually_exclusive_group()
    how_many.add_argument("--all", action="store_true", help="list all builds")
    how_many.add_argument(
        "--limit",
        metavar="NUMBER",
        type=_positive,
        default=DEFAULT_LIMIT,
        help=f"list at most this many builds (default: {DEFAULT_LIMIT})",
    )


def run(args: argparse.Namespace) -> None:
    """List; with --json one array."""
    page = PAGE if args.all else min(args.limit, PAGE)
    every = client.builds(args.socket, args.state or (), page, args.group)
    builds = list(every if args.all else islice(every, args.limit))
    if args.json:
        print_json(builds)
        return
    if args.ids:
        for build in builds:
            print(printable(build["id"]))
        return
    rows = [
        (
            build["id"],
            build["name"],
            build["state"],
            f"{build['completed_checkpoints']}/{build['total_checkpoints']} {percent(build):>4}",
            times(build),
            build["actor"]["user"],
            local_time(build["submitted_at"]),
            build["reason"] or _superseded(build),
        )
        for build in builds
    ]
    header = ("BUILD", "NAME", "STATE", "DONE", "TIME", "BY", "SUBMITTED", "REASON")
    print_table(header, rows, right=(3, 4), wrapped=True)


def _superseded(build: Json) -> str:
    """That a later build has made the same distribution, if so."""
    later = build.get("superseded_by")
    return f"superseded by {later}" if later else ""


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number
