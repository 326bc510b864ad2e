"""`dcctl logs`: print the output of a checkpoint.

Print the log of a checkpoint's newest attempt, or of the attempt that --attempt names. Without
CHECKPOINT, print the log of the build's newest attempt. A terminal shows control characters in the
output of tools as escapes; --raw prints them unchanged, which is the default for a file or a pipe.
With --json, list the logs instead.

--console prints the serial consoles of the guests that a checkpoint boots, also while they boot;
--file prints another file that an attempt has left, such as the picture of a guest's screen
(NAME.png, renewed every few seconds). With --json, list these files instead.
"""

import argparse
import sys
import time
from collections.abc import Callable

from cli.client import ClientError, Json, build_path, read, request
from cli.commands.options import add_build
from cli.text import print_json, tool_output

POLL_SECONDS = 0.5


def configure(parser: argparse.ArgumentParser) -> None:
    add_build(parser)
    parser.add_argument("checkpoint", metavar="CHECKPOINT", nargs="?", help="the checkpoint")
    parser.add_argument("--attempt", metavar="NUMBER", type=int, help="which attempt")
    parser.add_argument(
        "--follow", action="store_true", help="continue until the attempt has ended"
    )
    parser.add_argument(
        "--console",
        action="store_true",
        help="the serial consoles of its guests instead of the log",
    )
    parser.add_argument(
        "--file", metavar="NAME", help="this file of the attempt instead of the log"
    )
    parser.add_argument(
        "--raw", action="store_true", help="print control characters unchanged on a terminal too"
    )


def run(args: argparse.Namespace) -> None:
    """Print the log, or files of the attempt."""
    if args.console or args.file is not None:
        from cli.attempt_files import print_files  # not needed for logs

        print_files(args)
        return
    logs = request(args.socket, "GET", build_path(args.build, "logs"))["logs"]
    chosen = [
        log
        for log in logs
        if args.checkpoint in (None, log["checkpoint"]) and args.attempt in (None, log["attempt"])
    ]
    if args.json:
        print_json(chosen)
        return
    build = request(args.socket, "GET", build_path(args.build))
    if lacking := _lacking(args, build, chosen):
        _copy(args, lacking, 0, lambda piece: None)  # the daemon says where it is
    if not chosen:
        raise _no_log(args, build, logs)
    log = chosen[-1]  # oldest first
    with tool_output(sys.stdout, raw=args.raw) as write:
        offset = _copy(args, log, 0, write)
        while args.follow and _is_running(args, log):
            time.sleep(POLL_SECONDS)
            offset = _copy(args, log, offset, write)
        if args.follow:
            _copy(args, log, offset, write)  # written between the last read and the end


def _copy(args: argparse.Namespace, log: Json, offset: int, write: Callable[[bytes], None]) -> int:
    """Write the log from `offset` on. Returns the offset of the end."""
    path = build_path(args.build, "logs", log["checkpoint"], str(log["attempt"]))
    begin = -1
    while offset > begin:  # the daemon limits the size of a response
        begin = offset
        for piece in read(args.socket, path, query={"offset": offset}):
            write(piece)
            offset += len(piece)
    return offset


def _is_running(args: argparse.Namespace, log: Json) -> bool:
    build = request(args.socket, "GET", build_path(args.build))
    return any(
        item["state"] == "running"
        and item["name"] == log["checkpoint"]
        and item["attempts"] == log["attempt"]
        for item in build["checkpoints"]
    )


def _lacking(args: argparse.Namespace, build: Json, chosen: list[Json]) -> Json | None:
    """The newest attempt that is asked for, if its log is not among those that this member of a farm has."""
    if not build.get("host"):
        return None
    ran = [
        {"checkpoint": item["name"], "attempt": args.attempt or item["attempts"]}
        for item in build["checkpoints"]
        if args.checkpoint in (None, item["name"]) and item["attempts"] >= (args.attempt or 1)
    ]
    here = {(log["checkpoint"], log["attempt"]) for log in chosen}
    return ran[-1] if ran and (ran[-1]["checkpoint"], ran[-1]["attempt"]) not in here else None


def _no_log(args: argparse.Namespace, build: Json, logs: list[Json]) -> ClientError:
    wanted = args.checkpoint or "any checkpoint"
    if args.attempt is not None:
        wanted += f", attempt {args.attempt}"
    brief = f"build {args.build} has no log of {wanted}"
    reused = [
        item
        for item in build["checkpoints"]
        if item["state"] == "reused" and args.checkpoint in (None, item["name"])
    ]
    if reused and args.attempt is None:
        name, source = reused[-1]["name"], reused[-1]["reused_from"]
        why = f"nothing ran: {name} reused the result of build {source}"
        return ClientError("not-found", brief, why, f"dcctl logs {source} {name}")
    there = ", ".join(dict.fromkeys(log["checkpoint"] for log in logs))
    return ClientError(
        "not-found", brief, f"there are logs of {there}" if there else "nothing has run yet"
    )
