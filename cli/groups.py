"""Groups of builds: submitting a matrix, the table of its cells, following them, and one exit code.

A group is named where a build is: the ids of its builds begin with that of the group. Following
asks for the whole group again and again, so it survives a restart of the daemon.
"""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO
from urllib.parse import quote

from cli.capture import send
from cli.client import ClientError, Json, Unreachable, request
from cli.commands.options import manifest_body, wants_reports
from cli.exit_codes import AT_REST, ExitCode
from cli.stream import PATIENCE_SECONDS
from cli.text import count, duration, print_json, print_table, printable, timestamp

POLL_SECONDS = 0.5

_WORST = ("failed", "cancelled", "paused")


def group_of(socket_path: str, name: str) -> Json | None:
    """The group of that id or prefix; None when there is none. Raises ClientError."""
    if "-" in name:
        return None  # a build of a group
    try:
        return request(socket_path, "GET", f"/v1/groups/{quote(name, safe='')}")
    except ClientError as error:
        if error.kind in ("not-found", "usage"):  # usage: a daemon without groups
            return None
        raise


def expanded(socket_path: str, names: Iterable[str], states: Sequence[str] = ()) -> Iterator[str]:
    """The names of builds, and in place of a group's name the ids of its builds that are not removed, only in
    these states (none: all)."""
    for name in names:
        group = group_of(socket_path, name)
        if group is None:
            yield name
        else:
            for build in group["builds"]:
                if not build["removed"] and (not states or build["state"] in states):
                    yield build["id"]


def label(cell: Json) -> str:
    """A cell on one line: `suite=trixie architecture=amd64`."""
    return " ".join(f"{name}={value}" for name, value in cell.items())


def reported_group(args: argparse.Namespace, group: Json, code: int) -> int:
    """The exit code of a group that was followed, once the reports on its builds are written."""
    if wants_reports(args) and code != ExitCode.INTERRUPTED:
        from cli.reports import write_reports  # imports an XML library

        write_reports(args, {build["id"]: label(build["cell"]) for build in group["builds"]})
    return code


def matrix_request(args: argparse.Namespace, operation: str) -> tuple[str, dict[str, Json]]:
    """The path and the body of a request about a manifest, or about each cell of a matrix."""
    body = manifest_body(args)
    if not args.matrix:
        return f"/v1/{operation}", body
    return f"/v1/groups/{operation}", {**body, "matrix": args.matrix}


def submit_group(args: argparse.Namespace, body: dict[str, Json]) -> int:
    """Submit a matrix, print the group's id alone on a line, and follow it if asked."""
    if body.get("packages_of"):
        raise ClientError(
            "usage",
            "--packages-of is for one build",
            "a matrix has several",
            "leave out one of them",
        )
    group = send(args.socket, "/v1/groups", {**body, "matrix": args.matrix})
    if args.json:
        print_json(group)
    else:
        print(printable(group["id"]), flush=True)
    if args.follow or wants_reports(args):
        code = follow_group(args.socket, group, stream=sys.stderr, as_json=args.json)
        return reported_group(args, group, code)
    if not args.json and sys.stderr.isatty():
        builds = count(len(group["builds"]), "build")
        print(f"{builds}; to follow them: dcctl follow {printable(group['id'])}", file=sys.stderr)
    return ExitCode.OK


def print_group(group: Json, stream: TextIO | None = None, *, as_json: bool = False) -> None:
    """Print the table of a group's cells."""
    if as_json:
        print_json(group, stream)
        return
    states = [build["state"] for build in group["builds"]]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    print(printable(f"group {group['id']}: {count(len(states), 'build')}, {counts}"), file=stream)
    print(file=stream)
    rows = [
        (
            label(build["cell"]),
            build["id"],
            build["state"],
            f"{build['completed_checkpoints']}/{build['total_checkpoints']}",
            duration(timestamp(build["updated_at"]) - timestamp(build["submitted_at"])),
            build["running"] or build["reason"] or ("removed" if build["removed"] else ""),
        )
        for build in group["builds"]
    ]
    header = ("CELL", "BUILD", "STATE", "DONE", "TIME", "NOTE")
    print_table(header, rows, right=(3, 4), wrapped=True, stream=stream)
    if failed := [build["id"] for build in group["builds"] if build["state"] == "failed"]:
        print(printable(f"\nTo see why one failed: dcctl follow {failed[0]}"), file=stream)
        print(printable(f"To run the failed ones again: dcctl retry {group['id']}"), file=stream)


def exit_code(builds: Sequence[Json]) -> int:
    """The code of the worst build: failed, cancelled, paused, completed."""
    states = {build["state"] for build in builds}
    worst = next((state for state in _WORST if state in states), "completed")
    return AT_REST[worst]


def follow_group(
    socket_path: str, group: Json, *, stream: TextIO, as_json: bool = False, advice: str = ""
) -> int:
    """Print a line for each change of a cell until no build moves, then the table. With `as_json` each
    change is an object. Returns the exit code of the worst build."""
    seen: dict[str, tuple[str, str]] = {}
    try:
        for view in _views(socket_path, group["id"]):
            group = view
            for build in view["builds"]:
                now = (build["state"], build["running"])
                if seen.get(build["id"]) != now:
                    seen[build["id"]] = now
                    _print_change(build, stream, as_json)
            if all(build["state"] in AT_REST for build in view["builds"]):
                break
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        usual = f"The builds continue; to follow them again: dcctl follow {group['id']}"
        print(printable(f"\n{advice or usual}"), file=sys.stderr)
        return ExitCode.INTERRUPTED
    if not as_json:
        print(file=stream)
        print_group(group, stream)
    return exit_code(group["builds"])


def _print_change(build: Json, stream: TextIO, as_json: bool) -> None:
    if as_json:
        print_json({"type": "cell", **build}, stream)
        return
    done = f"{build['completed_checkpoints']}/{build['total_checkpoints']}"
    what = build["running"] or build["reason"]
    line = f"{label(build['cell'])}: {build['state']} {done}{f' {what}' if what else ''}"
    stamp = time.strftime("%H:%M:%S")
    print(stamp, printable(line).replace("\n", " "), file=stream, flush=True)


def _views(socket_path: str, group: str) -> Iterator[Json]:
    """The group again and again; waits for a daemon that was lost."""
    away_since: float | None = None
    while True:
        try:
            view = request(socket_path, "GET", f"/v1/groups/{quote(group, safe='')}")
            away_since = None
            yield view
        except Unreachable:
            now = time.monotonic()
            away_since = away_since or now
            if now - away_since > PATIENCE_SECONDS:
                raise
            time.sleep(POLL_SECONDS)
