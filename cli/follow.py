"""Showing a build until it ends, fails or is paused, for `--follow`.

Shows two status lines on a terminal (`cli.draw`) with the last lines of the running checkpoint's log below,
elsewhere a line with the time for each event and each line of a log, with `json` a JSON object for each event
and progress message (of type `progress`). `quiet` hides the logs. Events before the newest
resume are not shown. Ends with the result, and for a failure the reason, the remedy and the last lines
of the log. Returns the exit code of the build's state. Ctrl-C stops only the display.
"""

import argparse
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TextIO

from cli.advice import print_failure, print_next_steps
from cli.client import Json, build_path, read, request
from cli.commands.options import wants_reports
from cli.exit_codes import ExitCode, at_rest
from cli.log_lines import LogLines
from cli.picture import Line, Picture
from cli.stream import Message, events, follow
from cli.text import (
    headline,
    is_terminal,
    print_json,
    print_remarks,
    printable,
    size,
)

PROGRESS_SECONDS = 10.0
"""The minimum interval between progress lines without a terminal."""

LOG_TAIL_LINES = 10
LOG_TAIL_BYTES = 8 * 1024

VERBS = {"completed": "completed in ", "reused": "reused from ", "failed": "failed after "}


def follow_if_asked(args: argparse.Namespace, build: Json) -> int:
    """With `--follow` or a report, show the build on stderr, as `follow_build`; else return the code of
    success."""
    if not (args.follow or wants_reports(args)):
        return ExitCode.OK
    code = follow_build(args.socket, build, stream=sys.stderr, as_json=args.json, quiet=args.quiet)
    return reported(args, build, code)


def reported(args: argparse.Namespace, build: Json, code: int) -> int:
    """The exit code of a build that was followed, once the reports on it are written."""
    if wants_reports(args) and code != ExitCode.INTERRUPTED:
        from cli.reports import write_reports  # imports an XML library

        write_reports(args, {build["id"]: ""})
    return code


def follow_build(
    socket_path: str,
    build: Json,
    *,
    stream: TextIO,
    as_json: bool = False,
    quiet: bool = False,
    advice: str = "",
    ends: Collection[str] = (),
) -> int:
    """Show `build` (as the API describes it) on `stream` until it ends, fails or is paused. With `advice`,
    what to do after Ctrl-C or a failure, neither the artifacts nor the usual next steps are shown. After one
    of the states `ends` nothing is."""
    identity = build["id"]
    shown: set[tuple[str, int]] = set()
    messages = follow(socket_path, identity, after=_before_newest_resume(socket_path, identity))
    try:
        if as_json:
            for message in messages:
                if message.kind == "event":
                    print_json(message.data)
                elif message.kind == "progress":
                    print_json({"type": "progress", **message.data})
        else:
            shown = _show(messages, Picture(build), stream, None if quiet else socket_path)
    except KeyboardInterrupt:
        usual = f"The build continues; to follow it again: dcctl follow {identity}"
        print(f"\n{advice or usual}", file=sys.stderr)
        return ExitCode.INTERRUPTED
    final = request(socket_path, "GET", build_path(identity))
    if not as_json and final["state"] not in ends:
        _print_verdict(socket_path, final, stream, shown)
        if not advice:
            _print_artifacts(final, stream)
            print_next_steps(socket_path, final, stream)
        elif final["state"] != "completed":
            print(advice, file=stream)
    return at_rest(final)


def _before_newest_resume(socket_path: str, identity: str) -> int:
    """The position of the event before the one that last resumed the build; 0 without one."""
    position = newest = 0
    for event in events(socket_path, identity):
        if event["type"] == "BuildResumed":
            newest = position
        position = event["position"]
    return newest


def _show(
    messages: Iterable[Message], picture: Picture, stream: TextIO, logs_from: str | None
) -> set[tuple[str, int]]:
    """Show the messages, and lines of logs from the daemon on that socket. Returns the attempts whose log
    stays in sight."""
    shown = set()
    on_terminal = is_terminal(stream)
    if on_terminal:
        from cli.draw import drawing  # imports rich, which is needed only for drawing

        display = drawing(picture, stream)
    else:
        display = _plain(stream)
    lines: LogLines | None = None
    with display as print_line, ExitStack() as held:

        def show_log(name: str, text: str) -> None:
            picture.tail.append(text)
            print_line(Line("log", name, text))

        for message in messages:
            line = _line(picture, message)
            if lines and message.kind == "event" and _ends(message.data, lines):
                lines.close() if on_terminal else lines.end()
                lines = None
            if line:
                print_line(line)
            started = picture.log_of(message.data) if message.kind == "event" else None
            if started and logs_from:
                name, number = started
                identity = picture.view["id"]
                lines = LogLines(logs_from, identity, name, number, partial(show_log, name))
                held.callback(lines.close)
                shown.add(started)
    return set() if on_terminal else shown


def _ends(event: Json, lines: LogLines) -> bool:
    """Whether the event ends the attempt whose lines are shown."""
    data = event["data"]
    ends = ("CheckpointCompleted", "CheckpointFailed", "CheckpointInterrupted")
    return event["type"] in ends and (data["checkpoint"], data["attempt"]) == lines.attempt


def _line(picture: Picture, message: Message) -> Line | None:
    match message.kind:
        case "build":
            picture.view = message.data
        case "event":
            return picture.event(message.data)
        case "progress":
            return picture.report(message.data)
        case "away":
            return Line("note", "the daemon", "does not answer; waiting for it")
        case "back":
            return Line("note", "the daemon", "answers again")
    return None


@contextmanager
def _plain(stream: TextIO) -> Iterator[Callable[[Line], None]]:
    progress_at = float("-inf")
    one_at_a_time = threading.Lock()  # lines of logs come from a thread of their own

    def print_line(line: Line) -> None:
        nonlocal progress_at
        now = time.monotonic()
        with one_at_a_time:
            if line.mark == "progress" and now - progress_at < PROGRESS_SECONDS:
                return
            if line.mark != "log":
                progress_at = now
            stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(line.at))
            between = "| " if line.mark == "log" else VERBS.get(line.mark, "")
            text = f"{line.subject} {between}{line.text}"
            print(stamp, printable(text).replace("\n", " "), file=stream, flush=True)

    yield print_line


def _print_verdict(
    socket_path: str, build: Json, stream: TextIO, shown: Collection[tuple[str, int]]
) -> None:
    print(headline(build, stream), file=stream)
    print_remarks(build, stream)
    if build["state"] == "failed":
        print_failure(build, stream)
        known = build["error"]["details"].splitlines()
        _print_log_tail(socket_path, build, known, shown, stream)


def _print_artifacts(build: Json, stream: TextIO) -> None:
    for artifact in build["artifacts"] if build["state"] == "completed" else ():
        print(f"  {size(artifact['size_bytes']):>10}  {printable(artifact['path'])}", file=stream)


_SHELLS_PLACE = re.compile(r"^\S+:? (line )?\d+: ")
"""The location of an error in a shell script; the log and the error name the script differently."""


def _print_log_tail(
    socket_path: str,
    build: Json,
    told: list[str],
    shown: Collection[tuple[str, int]],
    stream: TextIO,
) -> None:
    """Print the last lines of the failed checkpoint's log, without those that the error has `told`, and its
    location. Of an attempt whose log was `shown`, only the location."""
    failed = [item["name"] for item in build["checkpoints"] if item["state"] == "failed"]
    logs = request(socket_path, "GET", build_path(build["id"], "logs"))["logs"]
    of_failed = [log for log in logs if log["checkpoint"] in failed]
    if not of_failed:
        return
    log = max(of_failed, key=lambda item: item["attempt"])
    readable = "\0" not in log["path"] and os.access(log["path"], os.R_OK)
    where = log["path"] if readable else f"dcctl logs {build['id']} {log['checkpoint']}"
    print(f"Log: {printable(where)}", file=stream)
    if (log["checkpoint"], log["attempt"]) in shown:
        return
    path = build_path(build["id"], "logs", log["checkpoint"], str(log["attempt"]))
    offset = max(log["size_bytes"] - LOG_TAIL_BYTES, 0)
    content = b"".join(read(socket_path, path, query={"offset": offset}))
    lines = content.decode("utf-8", "replace").splitlines()[-LOG_TAIL_LINES:]
    known = {_SHELLS_PLACE.sub("", line.strip()) for line in told}
    for line in lines:
        if _SHELLS_PLACE.sub("", line.strip()) not in known:
            print(f"  | {printable(line)}", file=stream)
