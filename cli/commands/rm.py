"""`dcctl rm`: remove builds that have ended or failed.

Remove the artifacts and logs of builds and remove the builds from the list; their events are kept.
Layers are kept until `dcctl gc`, and longer if another build names them. A failed build is
cancelled first; a queued, running or paused one only with --cancel. Removing a removed build is no
error. If one of several builds cannot be removed, the others still are, and the exit code is that
of the first error. --failed, --cancelled and --completed choose builds by their state, --older-than
those of them that have not changed for a time.
"""

import argparse
import os
import time
from collections.abc import Iterator

from cli import client
from cli.client import ClientError, Json, build_path, request
from cli.commands.options import add_build
from cli.several import for_each, seconds_of
from cli.text import timestamp

CHOOSABLE = ("failed", "cancelled", "completed")
"""States by which builds may be chosen."""

ENDED = ("completed", "cancelled")
POLL_SECONDS = 0.2
CANCEL_SECONDS = 300.0
"""The time for a cancelled build to end; the daemon kills its processes long before."""


def configure(parser: argparse.ArgumentParser) -> None:
    add_build(parser, several=True, some=True)
    parser.add_argument(
        "--cancel", action="store_true", help="cancel builds that have not ended, then remove them"
    )
    for state in CHOOSABLE:
        parser.add_argument(
            f"--{state}",
            dest="states",
            action="append_const",
            const=state,
            help=f"also your builds that are {state}; for root, all users'",
        )
    parser.add_argument(
        "--superseded",
        action="store_true",
        help="of these, only builds of whose distribution a later one has completed",
    )
    parser.add_argument(
        "--older-than",
        metavar="DURATION",
        type=_duration,
        help="of these, only builds without a change for that long: 12h, 7d, 2w",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only show which builds would be removed"
    )


def run(args: argparse.Namespace) -> int:
    """Remove each build, and print its state."""
    if not args.builds and not args.states:
        raise ClientError(
            "usage",
            "nothing to remove is named",
            "name builds, or choose them by their state",
            "dcctl rm --failed --older-than 7d",
        )
    if (args.older_than is not None or args.superseded) and not args.states:
        raise ClientError(
            "usage",
            "--older-than and --superseded choose among states",
            "",
            "add --failed, --cancelled or --completed",
        )
    chosen = dict.fromkeys([*args.builds, *_chosen(args)])
    if args.dry_run:
        return for_each(args, chosen, lambda build: request(args.socket, "GET", build_path(build)))
    return for_each(args, chosen, lambda build: _remove(args.socket, build, cancel=args.cancel))


def _chosen(args: argparse.Namespace) -> Iterator[str]:
    """The ids of the builds in the wanted states, that this user may remove and that are old enough."""
    if not args.states:
        return
    limit = time.time() - (args.older_than or 0.0)
    for build in list(client.builds(args.socket, tuple(args.states))):
        mine = os.geteuid() in (0, build["actor"]["uid"])
        wanted = not args.superseded or build["superseded_by"]
        if mine and wanted and timestamp(build["updated_at"]) <= limit:
            yield build["id"]


def _duration(text: str) -> float:
    try:
        return seconds_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _remove(socket_path: str, build: str, *, cancel: bool) -> Json:
    view = request(socket_path, "GET", build_path(build))
    identity = view["id"]
    if view["state"] == "failed" or (cancel and view["state"] not in ENDED):
        _cancel(socket_path, identity)
    elif view["state"] not in ENDED:
        raise ClientError(
            "refused",
            f"build {identity} is {view['state']}",
            "only completed, failed and cancelled builds can be removed",
            f"to cancel and remove it: dcctl rm --cancel {identity}",
        )
    return request(socket_path, "DELETE", build_path(identity))


def _cancel(socket_path: str, identity: str) -> None:
    """Cancel the build and wait until it has ended. Raises ClientError when it does not."""
    view = request(socket_path, "POST", build_path(identity, "cancel"))
    limit = time.monotonic() + CANCEL_SECONDS
    while view["state"] not in ENDED:
        if time.monotonic() > limit:
            raise ClientError(
                "refused",
                f"build {identity} is still {view['state']}",
                f"waited {CANCEL_SECONDS:g} seconds for its running checkpoint to end",
                f"check it with dcctl status {identity}; when it is cancelled: dcctl rm {identity}",
            )
        time.sleep(POLL_SECONDS)
        view = request(socket_path, "GET", build_path(identity))
