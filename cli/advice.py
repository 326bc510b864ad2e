"""The next steps for a failed or paused build, and its files that have changed since the submit.

A build uses the manifest and its files as submitted. The paths and digests are in its events, so dcctl
compares them with the present files, with the user's permissions; it skips files that it cannot read.
"""

import hashlib
import os
import sys
from pathlib import Path
from typing import NamedTuple, TextIO

from cli.capture import open_regular
from cli.client import Json
from cli.stream import events
from cli.text import printable, short_path, timestamp

MARGIN_SECONDS = 300.0
"""A file last changed longer than this before the submit is not read again."""


class Origin(NamedTuple):
    """The latest source of a build: the manifest's path, its time of submission (Unix time), and the
    captured files as the API reports them."""

    manifest: str
    submitted: float
    inputs: list[Json]


def print_next_steps(socket_path: str, build: Json, stream: TextIO) -> None:
    """Print how to inspect and how to continue a failed or paused build."""
    identity = build["id"]
    if build["state"] == "paused":
        print(f"To continue: dcctl resume {identity}", file=stream)
    if build["state"] != "failed":
        return
    root = "" if os.geteuid() == 0 else " (as root)"
    print(f"To inspect it: dcctl shell {identity}{root}", file=stream)
    origin = _origin(socket_path, identity)
    lines = _changes(identity, origin)
    if not lines:
        edited = printable(short_path(origin.manifest))
        lines = [f"After an edit: dcctl resume {identity} --manifest {edited}"]
    for line in [*lines, f"To run the checkpoint again unchanged: dcctl retry {identity}"]:
        print(line, file=stream)


def warn_of_changes(socket_path: str, build: Json) -> None:
    """Warn on stderr of files that have changed since the submit, with the command that uses the
    change."""
    for line in _changes(build["id"], _origin(socket_path, build["id"])):
        print(f"dcctl: warning: {line}", file=sys.stderr)


def _origin(socket_path: str, identity: str) -> Origin:
    found = Origin("", 0.0, [])
    for event in events(socket_path, identity):
        data = event["data"]
        if event["type"] in ("BuildSubmitted", "BuildResumed") and data["manifest"] is not None:
            path = data["manifest_path"] or ""
            found = Origin(path, timestamp(event["time"]), data["inputs"])
    return found


def _changes(identity: str, origin: Origin) -> list[str]:
    """A line for each changed file, with the command that uses the change."""
    command = f"dcctl resume {identity} --manifest {short_path(origin.manifest)}"
    # Relative paths in the manifest start at its directory.
    directory = Path(origin.manifest).parent
    changed = [
        f"{short_path(path)} {how} since the submit: {command}"
        for item in origin.inputs
        if (how := _change(path := str(directory / item["path"]), item, origin.submitted))
    ]
    if _touched(origin.manifest, origin.submitted) > 0:
        changed.insert(0, f"{short_path(origin.manifest)} was written after the submit: {command}")
    return [printable(line).replace("\n", " ") for line in changed]


def _change(path: str, item: Json, submitted: float) -> str:
    """The change to a captured file: "has changed", "was removed" or ""."""
    if not item.get("sha256") or _touched(path, submitted) < -MARGIN_SECONDS:
        return ""
    try:
        with open_regular(path) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return "was removed"
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return ""
    return "" if sha256 == item["sha256"] else "has changed"


def _touched(path: str, submitted: float) -> float:
    """Seconds from the submit to the last change of the file's content or name; minus infinity when
    unknown. A missing file counts as changed."""
    try:
        # ctime, because a file that is moved over another keeps its old mtime.
        return Path(path).stat().st_ctime - submitted
    except FileNotFoundError:
        return 0.0
    except (OSError, ValueError):
        return float("-inf")
