"""`dcctl status`: a build and its checkpoints."""

import argparse
import sys

from cli.advice import print_next_steps
from cli.client import Json, build_path, request
from cli.commands.options import add_build
from cli.exit_codes import ExitCode
from cli.text import (
    duration,
    headline,
    local_time,
    print_indented,
    print_json,
    print_table,
    print_undelivered,
    print_warnings,
    printable,
    size,
)

HELP = "show a build and its checkpoints"
DESCRIPTION = "Show the state of a build and of each of its checkpoints, and its artifacts."


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    add_build(parser)


def run(args: argparse.Namespace) -> int:
    """Show the build."""
    build = request(args.socket, "GET", build_path(args.build))
    if args.json:
        print_json(build)
        return ExitCode.OK
    print(headline(build))
    print(f"  submitted {local_time(build['submitted_at'])} by {printable(build['actor']['user'])}")
    if build["pause_before"]:
        print(f"  pauses before {printable(build['pause_before'])}")
    print()
    rows = [
        (item["name"], item["state"], duration(item["seconds"]), str(item["attempts"]), _note(item))
        for item in build["checkpoints"]
    ]
    header = ("CHECKPOINT", "STATE", "TIME", "ATTEMPTS", "NOTE")
    print_table(header, rows, right=(2, 3), wrapped=True)
    _print_error(build["error"])
    _print_artifacts(build["artifacts"])
    print_warnings(build, sys.stdout)
    print_undelivered(build, sys.stdout)
    if build["state"] in ("failed", "paused"):
        print()
        print_next_steps(args.socket, build, sys.stdout)
    return ExitCode.OK


def _note(checkpoint: Json) -> str:
    if checkpoint["error"]:
        return str(checkpoint["error"]["brief"])
    if checkpoint["reused_from"]:
        return f"from {checkpoint['reused_from']}"
    if checkpoint["state"] in ("pending", "running"):
        return f"about {duration(checkpoint['estimate_seconds'])}"
    return ""


def _print_error(error: Json) -> None:
    if error:
        print(f"\nError: {printable(error['brief'])}")
        print_indented([error["details"], error["resolution"]], sys.stdout)


def _print_artifacts(artifacts: list[Json]) -> None:
    if artifacts:
        print()
        rows = [(size(item["size_bytes"]), item["path"]) for item in artifacts]
        print_table(("SIZE", "ARTIFACT"), rows, right=(0,))
