"""`dcctl build`: build an image and copy its files.

Build an image from a manifest and copy its products into a directory, in one command. It uses the
daemon that answers; without one it starts a private daemon, which ends with the command and keeps
its state for the next time. A build that was interrupted or has failed is continued by the same
command, with the present files. With --watch the image is built again whenever the manifest or a
file that it names changes, with one line for each build, until Ctrl-C. With --matrix every
combination of the values is built, and copied into a directory of its own, such as trixie-amd64.
"""

import argparse
import os
import re
import stat
import sys
import time
from collections.abc import Iterable
from itertools import product
from pathlib import Path

from cli.advice import has_changed, named_files
from cli.capture import send
from cli.client import ClientError, Json, Unreachable, build_path, builds, request
from cli.commands.download import add_directory, download, print_copied
from cli.commands.options import (
    add_locked,
    add_manifest,
    add_matrix,
    add_quiet,
    add_reports,
    add_require,
    add_source_date_epoch,
    add_state_dir,
    manifest_body,
)
from cli.exit_codes import ExitCode
from cli.follow import follow_build, reported
from cli.groups import follow_group, reported_group
from cli.stream import follow
from cli.text import duration, print_error, print_json, print_json_error, printable, short_path

UNFINISHED = ("queued", "running", "pausing", "paused", "failed")

WATCH_SECONDS = 0.3
"""The interval between two looks at the files."""

Seen = dict[Path, tuple[int, int, int] | None]
"""Inode, size and time of change in nanoseconds of files; None for one that is missing."""


def configure(parser: argparse.ArgumentParser) -> None:
    add_manifest(parser)
    add_matrix(parser)
    add_directory(parser, told="one with the name of the distribution")
    add_source_date_epoch(parser)
    add_require(parser)
    add_reports(parser)
    parser.add_argument("--fresh", action="store_true", help="reuse no layer of another build")
    add_quiet(parser)
    parser.add_argument(
        "--watch", action="store_true", help="build again whenever the files change"
    )
    add_locked(parser)
    add_state_dir(parser)


def run(args: argparse.Namespace) -> int:
    """Build, follow and copy; with --watch again and again."""
    from cli.private import (  # starts processes: not for other commands
        default_directory,
        some_daemon,
    )

    if args.matrix and args.watch:
        raise ClientError("usage", "--watch is for one build", "", "leave out --matrix or --watch")
    directory = args.state_dir or default_directory()
    with some_daemon(args.socket, directory) as args.socket:
        return _watched(args) if args.watch else _once(args)


def _once(args: argparse.Namespace) -> int:
    if args.matrix:
        return _matrix(args)
    build = _continued(args) or _submitted(args)
    code = follow_build(
        args.socket,
        build,
        stream=sys.stderr,
        quiet=args.quiet,
        advice="To continue the build, also after an edit: the same command again",
    )
    if reported(args, build, code) is not ExitCode.OK:
        return code
    final = request(args.socket, "GET", build_path(build["id"]))
    copied = download(args.socket, final, args.directory or Path(final["name"]))
    if args.json:
        print_json({"build": final, "files": copied})
    else:
        print_copied(copied, as_json=False)
    return ExitCode.OK


def _matrix(args: argparse.Namespace) -> int:
    """Build every cell, and copy the products of each into a directory of its own."""
    group = _continued_group(args) or send(
        args.socket,
        "/v1/groups",
        {**manifest_body(args), "fresh": args.fresh, "matrix": args.matrix},
    )
    advice = "To continue the builds, also after an edit: the same command again"
    code = follow_group(args.socket, group, stream=sys.stderr, advice=advice)
    if reported_group(args, group, code) == ExitCode.INTERRUPTED:
        return code
    done = []
    for build, directory in zip(group["builds"], directories(group), strict=True):
        final = request(args.socket, "GET", build_path(build["id"]))
        if final["state"] == "completed":
            target = (args.directory or Path(final["name"])) / directory
            target.parent.mkdir(parents=True, exist_ok=True)
            done.append({"build": final, "files": download(args.socket, final, target)})
    if args.json:
        print_json({"group": group["id"], "builds": done})
    else:
        for each in done:
            print_copied(each["files"], as_json=False)
    return code


def directories(group: Json) -> list[str]:
    """A name for each cell of a group that is fit for a directory: `trixie-amd64`."""
    names: list[str] = []
    for build in group["builds"]:
        name = "-".join(re.sub(r"[^\w.+]+", "_", value) for value in build["cell"].values())
        name = name.lstrip(".")[:100]
        names.append(name if name and name not in names else build["id"])
    return names


def _continued_group(args: argparse.Namespace) -> Json | None:
    """This user's newest unfinished group of this manifest with these axes, parameters and profiles, whose
    builds continue; None when a new one is needed."""
    if args.fresh:
        return None
    axes = {axis["name"]: axis["values"] for axis in args.matrix}
    cells = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    for summary in builds(args.socket, UNFINISHED):
        if "-" not in summary["id"] or summary["actor"]["uid"] != os.geteuid():
            continue
        group = request(args.socket, "GET", f"/v1/groups/{summary['id'].partition('-')[0]}")
        if [build["cell"] for build in group["builds"]] != cells:
            continue
        views = [request(args.socket, "GET", build_path(one["id"])) for one in group["builds"]]
        if all(_is_of(args, view) for view in views):
            return group if _all_continue(args, views) else None
    return None


def _is_of(args: argparse.Namespace, build: Json) -> bool:
    """Whether a build of a group is of this manifest with these parameters and profiles."""
    chosen = build["cell"].get("profile")
    parameters = {
        name: value for name, value in build["parameters"].items() if name not in build["cell"]
    }
    found = (build["manifest_path"], parameters, {*build["profiles"]})
    profiles = {*args.profiles} | ({chosen} if chosen else set())
    return found == (str(Path(args.manifest).absolute()), dict(args.parameters), profiles)


def _all_continue(args: argparse.Namespace, views: list[Json]) -> bool:
    """Continue the builds of a group. False: their files have changed, or one was cancelled or removed, and
    the rest is cancelled; new builds use what they have made."""
    left = [view for view in views if view["state"] != "completed"]
    gone = any(view["state"] == "cancelled" or view.get("removed_at") for view in views)
    if gone or any(has_changed(args.socket, view) for view in left):
        for view in left:
            if view["state"] in UNFINISHED:
                request(args.socket, "POST", build_path(view["id"], "cancel"))
        return False
    print(f"continuing group {printable(views[0]['group'])}", file=sys.stderr)
    for view in left:
        if view["state"] in ("failed", "paused"):
            command = "retry" if view["state"] == "failed" else "resume"
            request(args.socket, "POST", build_path(view["id"], command), body={})
    return True


def _submitted(args: argparse.Namespace) -> Json:
    body = {**manifest_body(args), "fresh": args.fresh}
    return send(args.socket, "/v1/builds", body)


def _continued(args: argparse.Namespace) -> Json | None:
    """This user's newest unfinished build of this manifest with these parameters and profiles, which
    continues; None when a new one is needed."""
    if args.fresh or args.locked:  # an unfinished one may have other packages
        return None
    wanted = (str(Path(args.manifest).absolute()), dict(args.parameters), {*args.profiles})
    for summary in builds(args.socket, UNFINISHED):
        if summary["actor"]["uid"] != os.geteuid():
            continue
        build = request(args.socket, "GET", build_path(summary["id"]))
        found = (build["manifest_path"], build["parameters"], {*build.get("profiles", ())})
        if found == wanted:
            return _resumed(args, build)
    return None


def _resumed(args: argparse.Namespace, build: Json) -> Json | None:
    """The build, resumed with the present files if it has stopped; None when it runs with other files,
    and is cancelled."""
    identity, edited = build["id"], has_changed(args.socket, build)
    moving = build["state"] not in ("paused", "failed")
    if moving and edited:
        print(f"cancelling build {printable(identity)}: its files have changed", file=sys.stderr)
        request(args.socket, "POST", build_path(identity, "cancel"))
        return None
    print(f"continuing build {printable(identity)}", file=sys.stderr)
    if moving:
        return build
    path = build_path(identity, "resume")
    if edited:
        body = manifest_body(args)
        body.pop("require", None)  # those of the submit stay
        resumed = send(args.socket, path, body)
    elif build["state"] == "failed":
        return request(args.socket, "POST", build_path(identity, "retry"))
    else:
        resumed = request(args.socket, "POST", path, body={})
    return resumed["build"]


def _watched(args: argparse.Namespace) -> int:
    """Build again after each change, until Ctrl-C."""
    watched = [Path(args.manifest).absolute()]
    try:
        while True:
            seen = snapshot(watched)
            began = time.monotonic()
            try:
                build = _continued(args) or _submitted(args)
                for _ in follow(args.socket, build["id"]):
                    pass
                build = request(args.socket, "GET", build_path(build["id"]))
                watched = named_files(build)
                reported(args, build, ExitCode.OK)
                _print_result(args, build, time.monotonic() - began)
                seen |= snapshot(path for path in watched if path not in seen)
            except ClientError as error:
                if isinstance(error, Unreachable):
                    raise
                (print_json_error if args.json else print_error)(error)
                unread = error.extra.get("missing") or []
                seen |= snapshot(Path(item["path"]) for item in unread)
            while snapshot(seen) == seen:
                time.sleep(WATCH_SECONDS)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


def snapshot(paths: Iterable[Path]) -> Seen:
    """The present state of files, to find out whether they change."""
    seen: Seen = {}
    for path in paths:
        try:
            status = path.stat()
            seen[path] = (status.st_ino, status.st_size, status.st_ctime_ns)
            if stat.S_ISDIR(status.st_mode):
                seen[path] = _state_of_tree(path)
        except (OSError, ValueError):
            seen[path] = None
    return seen


def _state_of_tree(root: Path) -> tuple[int, int, int]:
    """The same of a directory with all it contains: the newest change counts."""
    found = [root.stat()]
    for directory, _, names in os.walk(root):
        found.append(Path(directory).stat())
        found += [Path(directory, name).lstat() for name in names]
    newest = max(status.st_ctime_ns for status in found)
    return found[0].st_ino, len(found), newest


def _print_result(args: argparse.Namespace, build: Json, seconds: float) -> None:
    """One line: what ran, and the result."""
    copied = []
    if build["state"] == "completed":
        copied = download(args.socket, build, args.directory or Path(build["name"]))
    if args.json:
        print_json({"build": build, "files": copied})
        return
    states = {item["name"]: item["state"] for item in build["checkpoints"]}
    ran = [name for name, state in states.items() if state == "completed"]
    reused = sum(1 for state in states.values() if state == "reused")
    did = f"ran {', '.join(ran) or 'nothing'} ({reused} reused) in {duration(seconds)}"
    if build["state"] == "completed":
        fresh = [short_path(item["path"]) for item in copied if item["copied"]]
        result = f"new: {', '.join(fresh)}" if fresh else "the files are unchanged"
    else:
        error = build["error"] or {"brief": build["reason"]}
        result = f"{build['state']}: {error['brief']} (dcctl status {build['id']})"
    line = f"{time.strftime('%H:%M:%S')} {build['name']}: {did}; {result}"
    print(printable(line).replace("\n", " "), flush=True)
