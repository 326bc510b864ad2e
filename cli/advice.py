"""The next steps for a failed or paused build, and its files that have changed since the submit.

A build uses the manifest and its files as submitted. dcctl compares the digests in the build's view with the
present files, with the user's permissions; it skips files that it cannot read.
"""

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from cli.capture import open_regular
from cli.client import Json
from cli.stream import events
from cli.text import coloured, print_indented, printable, short_path, timestamp
from cli.trees import KINDS, TreeFaults, tree_digest

MARGIN_SECONDS = 300.0
"""A file last changed longer than this before the submit is not read again."""


def print_next_steps(socket_path: str, build: Json, stream: TextIO) -> None:
    """Print how to inspect and how to continue a failed or paused build."""
    identity = build["id"]
    if build["state"] == "paused":
        print(f"To continue: dcctl resume {identity}", file=stream)
    if build["state"] != "failed":
        return
    root = "" if os.geteuid() == 0 else " (as root)"
    print(f"To inspect it: dcctl shell {identity}{root}", file=stream)
    edited = printable(short_path(build["manifest_path"]))
    lines = _changes(socket_path, build) or [
        f"After an edit: dcctl resume {identity} --manifest {edited}"
    ]
    for line in [*lines, f"To run the checkpoint again unchanged: dcctl retry {identity}"]:
        print(line, file=stream)


def print_failure(build: Json, stream: TextIO) -> None:
    """Print the error of a failed build, first the place in the user's file if it is known, as a compiler
    does: `FILE:LINE: error: BRIEF`."""
    error = build["error"]
    if place := failure_place(build):
        where, brief = printable(place), printable(error["brief"])
        print(f"{where}: {coloured('error', 'error', stream)}: {brief}", file=stream)
        print_indented([error["details"], error["resolution"]], stream)
    else:
        print_indented([error["brief"], error["details"], error["resolution"]], stream)


def failure_place(build: Json) -> str:
    """The place that a failure is about, `FILE:LINE`: the one in the error that is in the manifest or a file
    that it names, else that of the failed checkpoint; "" if neither is known."""
    error = f"{build['error']['brief']}\n{build['error']['details']}"
    files = "|".join(re.escape(str(path)) for path in named_files(build))
    # The last one is the most exact: a line of a script after the place of the script.
    if found := re.findall(rf"(?<![\w/])({files})(?::| line )([0-9]+)", error):
        file, line = found[-1]
        return f"{short_path(file)}:{line}"
    failed = [item for item in build["checkpoints"] if item["state"] == "failed"]
    file, _, line = str(failed[-1].get("place", "") if failed else "").rpartition(":")
    return f"{short_path(file)}:{line}" if file else ""


def warn_of_changes(socket_path: str, build: Json) -> None:
    """Warn on stderr of files that have changed since the submit, with the command that uses the
    change."""
    for line in _changes(socket_path, build):
        print(f"dcctl: warning: {line}", file=sys.stderr)


def has_changed(socket_path: str, build: Json) -> bool:
    """Whether the manifest or a file that it names has changed since the submit."""
    return bool(_changes(socket_path, build))


def named_files(build: Json) -> list[Path]:
    """The manifest and the files that it names."""
    manifest = Path(build["manifest_path"])
    return [manifest, *(manifest.parent / item["path"] for item in build["inputs"])]


def _changes(socket_path: str, build: Json) -> list[str]:
    """A line for each changed file, with the command that uses the change."""
    manifest, submitted = build["manifest_path"], _submitted(socket_path, build["id"])
    command = f"dcctl resume {build['id']} --manifest {short_path(manifest)}"
    # Relative paths in the manifest start at its directory.
    directory = Path(manifest).parent
    changed = [
        f"{short_path(path)} {how} since the submit: {command}"
        for item in build["inputs"]
        if (how := _change(path := str(directory / item["path"]), item, submitted))
    ]
    if _touched(manifest, submitted) > 0:
        changed.insert(0, f"{short_path(manifest)} was written after the submit: {command}")
    return [printable(line).replace("\n", " ") for line in changed]


def _submitted(socket_path: str, identity: str) -> float:
    """Unix time when the build got its manifest: at the submit, or at a resume with another one."""
    return max(
        timestamp(event["time"])
        for event in events(socket_path, identity)
        if event["type"] in ("BuildSubmitted", "BuildResumed")
        and event["data"]["manifest"] is not None
    )


def _change(path: str, item: Json, submitted: float) -> str:
    """The change to a captured file: "has changed", "was removed" or ""."""
    is_file = not Path(path).is_dir()  # a directory is not touched by changes deep in it
    if not item.get("sha256") or (is_file and _touched(path, submitted) < -MARGIN_SECONDS):
        return ""
    try:
        if Path(path).is_dir():
            digests = set(_tree_digests(path))
            return "has changed" if digests and item["sha256"] not in digests else ""
        with open_regular(path) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return "was removed"
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return ""
    return "" if sha256 == item["sha256"] else "has changed"


def _tree_digests(path: str) -> Iterator[str]:
    """The digests of a directory as each kind of input."""
    for kind in KINDS:
        with suppress(TreeFaults):
            yield tree_digest(path, kind)


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
