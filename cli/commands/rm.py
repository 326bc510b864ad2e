"""`dcctl rm`: remove builds that have ended or failed.

Remove the artifacts and logs of builds and remove the builds from the list; their events are kept.
Layers are kept until `dcctl gc`, and longer if another build names them. A failed build is
cancelled first; a queued, running or paused one only with --cancel. Removing a removed build is no
error. If one of several builds cannot be removed, the others still are, and the exit code is that
of the first error.
"""

import argparse
import time

from cli.client import ClientError, Json, build_path, request
from cli.commands.options import add_build
from cli.exit_codes import ExitCode
from cli.text import headline, print_error, print_json, print_json_error

ENDED = ("completed", "cancelled")
POLL_SECONDS = 0.2
CANCEL_SECONDS = 300.0
"""The time for a cancelled build to end; the daemon kills its processes long before."""


def configure(parser: argparse.ArgumentParser) -> None:
    add_build(parser, several=True)
    parser.add_argument(
        "--cancel", action="store_true", help="cancel builds that have not ended, then remove them"
    )


def run(args: argparse.Namespace) -> int:
    """Remove each build, and print its state."""
    code = ExitCode.OK
    for build in args.builds:
        try:
            removed = _remove(args.socket, build, cancel=args.cancel)
        except ClientError as error:
            (print_json_error if args.json else print_error)(error)
            code = code or error.exit_code
            continue
        if args.json:
            print_json(removed)
        else:
            print(headline(removed), flush=True)  # the error says when it was removed, and by whom
    return code


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
