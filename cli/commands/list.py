"""`dcctl list`: the builds, newest first."""

import argparse

from cli.client import Json, request
from cli.exit_codes import ExitCode
from cli.text import local_time, print_json, print_table, printable

HELP = "list builds, newest first"
DESCRIPTION = "List the newest builds, or all of them."

STATES = (
    "queued",
    "running",
    "pausing",
    "paused",
    "failed",
    "cancelling",
    "cancelled",
    "completed",
)
DEFAULT_LIMIT = 20
PAGE = 200


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument(
        "--state",
        choices=STATES,
        metavar="STATE",
        action="append",
        help="only builds in this state; may be given more than once",
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


def run(args: argparse.Namespace) -> int:
    """List; with --json one array."""
    builds = _builds(args.socket, args.state, None if args.all else args.limit)
    if args.json:
        print_json(builds)
        return ExitCode.OK
    if args.ids:
        for build in builds:
            print(printable(build["id"]))
        return ExitCode.OK
    rows = [
        (
            build["id"],
            build["name"],
            build["state"],
            f"{build['completed_checkpoints']}/{build['total_checkpoints']}",
            local_time(build["submitted_at"]),
            build["reason"],
        )
        for build in builds
    ]
    header = ("BUILD", "NAME", "STATE", "DONE", "SUBMITTED", "REASON")
    print_table(header, rows, right=(3,), wrapped=True)
    return ExitCode.OK


def _builds(socket_path: str, states: list[str] | None, limit: int | None) -> list[Json]:
    builds: list[Json] = []
    before = None
    while True:
        page = PAGE if limit is None else min(limit - len(builds), PAGE)
        query = {"state": ",".join(states) if states else None, "limit": page, "before": before}
        answer = request(socket_path, "GET", "/v1/builds", query=query)
        builds += answer["builds"]
        before = answer["next"]
        if before is None or len(builds) == limit:
            return builds


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number
