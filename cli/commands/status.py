"""`dcctl status`: show a build and its checkpoints.

Show the state of a build and of each of its checkpoints, and its artifacts; of a group,
the builds with their cells.
"""

import argparse
import sys

from cli.advice import failure_place, print_failure, print_next_steps
from cli.client import Json, build_path, request
from cli.commands.options import add_build
from cli.groups import group_of, label, print_group
from cli.text import (
    build_time,
    clock,
    duration,
    headline,
    local_time,
    percent,
    print_indented,
    print_json,
    print_remarks,
    print_table,
    print_variances,
    printable,
    size,
    times,
)


def configure(parser: argparse.ArgumentParser) -> None:
    add_build(parser)


def run(args: argparse.Namespace) -> None:
    """Show the build."""
    if group := group_of(args.socket, args.build):
        print_group(group, as_json=args.json)
        return
    build = request(args.socket, "GET", build_path(args.build))
    if args.json:
        print_json(build)
        return
    print(headline(build))
    print(f"  submitted {local_time(build['submitted_at'])} by {printable(build['actor']['user'])}")
    if ahead := times(build):
        expected = " expected" if build.get("remaining_seconds") is not None else ""
        print(f"  {percent(build)} done, time {ahead}{expected}")
    print(f"  files dated {build_time(build)}")
    if any(item.get("grown_from") for item in build["checkpoints"]):
        print(
            "  grown: it adds packages to the result of an earlier build; --fresh makes all of it"
        )
    if build.get("reproduces"):
        print(f"  repeats build {printable(build['reproduces'])} in varied surroundings")
    if build.get("group"):
        print(f"  cell {printable(label(build['cell']))} of group {build['group']}")
    if profiles := build.get("profiles"):
        print(f"  profiles {printable(', '.join(profiles))}")
    if build.get("host"):
        print(f"  on {printable(build['host'])}")
    if build["pause_before"]:
        print(f"  pauses before {printable(build['pause_before'])}")
    print()
    rows = [
        (item["name"], item["state"], _time(item), str(item["attempts"]), _note(item))
        for item in build["checkpoints"]
    ]
    header = ("CHECKPOINT", "STATE", "TIME", "ATTEMPTS", "NOTE")
    print_table(header, rows, right=(2, 3), wrapped=True)
    if error := build["error"]:
        print()
        if failure_place(build):
            print_failure(build, sys.stdout)
        else:
            print(f"Error: {printable(error['brief'])}")
            print_indented([error["details"], error["resolution"]], sys.stdout)
    if build["artifacts"]:
        print()
        artifacts = [(size(item["size_bytes"]), item["path"]) for item in build["artifacts"]]
        print_table(("SIZE", "ARTIFACT"), artifacts, right=(0,))
    published = [
        (size(each["size_bytes"]), "sent" if each["uploaded"] else "was there", each["url"])
        for item in build["checkpoints"]
        for each in item.get("publications", ())
    ]
    if published:
        print()
        print_table(("SIZE", "STATUS", "PUBLISHED"), published, right=(0,))
    print_remarks(build, sys.stdout)
    print_variances(build["checkpoints"], sys.stdout)
    if build["state"] in ("failed", "paused"):
        print()
        print_next_steps(args.socket, build, sys.stdout)


def _time(checkpoint: Json) -> str:
    running = checkpoint.get("elapsed_seconds")
    return duration(checkpoint["seconds"]) if running is None else clock(running)


def _note(checkpoint: Json) -> str:
    if checkpoint["error"]:
        return str(checkpoint["error"]["brief"])
    if grown := checkpoint.get("grown_from"):
        return f"grown from layer {grown[:12]}"
    if taken := checkpoint.get("taken_from"):
        return (
            f"taken over from {checkpoint['reused_from']} ({taken[:12]}): its inputs are unchanged"
        )
    if checkpoint["reused_from"]:
        return f"from {checkpoint['reused_from']}"
    if checkpoint["state"] in ("pending", "running"):
        return f"about {duration(checkpoint['estimate_seconds'])}"
    return ""
