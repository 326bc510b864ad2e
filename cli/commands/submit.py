"""`dcctl submit`: build an image from a manifest.

Submit a manifest and print the id of its build. The manifest and the files that it names are read
now, with your permissions; later changes to them do not affect the build. With --follow the build
is shown on stderr until it ends, fails or is paused, and the exit code is that of its state; Ctrl-C
stops the display, not the build. With --matrix there is a build for each combination of the values,
all of them or none: a group, whose id is printed; the exit code is that of the worst build.
"""

import argparse
import sys

from cli.capture import send
from cli.commands.options import (
    add_follow,
    add_grow,
    add_locked,
    add_manifest,
    add_matrix,
    add_pause_before,
    add_require,
    add_source_date_epoch,
    manifest_body,
)
from cli.follow import follow_if_asked
from cli.groups import submit_group
from cli.text import print_json, printable


def configure(parser: argparse.ArgumentParser) -> None:
    add_manifest(parser)
    add_matrix(parser)
    add_follow(parser)
    add_pause_before(parser)
    add_source_date_epoch(parser)
    add_require(parser)
    reuse = parser.add_mutually_exclusive_group()
    reuse.add_argument("--fresh", action="store_true", help="reuse no layer of another build")
    reuse.add_argument(
        "--fresh-from", metavar="CHECKPOINT", help="reuse no layers from this checkpoint on"
    )
    add_grow(reuse)
    add_locked(parser)
    parser.add_argument(
        "--priority",
        metavar="NUMBER",
        type=int,
        default=0,
        help="builds with a higher number start first (default: 0)",
    )
    parser.add_argument(
        "--idempotency-key",
        metavar="KEY",
        help="a second submit with this key returns the first build instead of creating another",
    )

    parser.add_argument(
        "--packages-of",
        metavar="BUILD",
        action="append",
        default=[],
        help="use the packages that this build captured; nothing is asked of repositories",
    )


def run(args: argparse.Namespace) -> int:
    """Submit, and print the id alone on a line."""
    body = {
        **manifest_body(args),
        "pause_before": args.pause_before,
        "fresh": args.fresh,
        "fresh_from": args.fresh_from,
        "priority": args.priority,
        "idempotency_key": args.idempotency_key,
    }
    if args.packages_of:
        body["packages_of"] = args.packages_of
    if args.matrix:
        return submit_group(args, body)
    build = send(args.socket, "/v1/builds", body)
    if args.json:
        print_json(build)
    else:
        print(printable(build["id"]), flush=True)
    if not (args.follow or args.json) and sys.stderr.isatty():
        print(printable(f"To follow it: dcctl follow {build['id']}"), file=sys.stderr)
    return follow_if_asked(args, build)
