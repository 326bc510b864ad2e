"""distro_const: the original's command line as a front end to the daemon.

    distro_const build [-v] [-r CHECKPOINT] [-p CHECKPOINT] [-l] MANIFEST

The options mean the same as in the original: without options all checkpoints run, -p (--pause) pauses
before a checkpoint, -r (--resume) resumes from a checkpoint, -l (--list) lists the resumable
checkpoints, -v is --verbose. There are two differences: valid results are reused, and the build
continues in the daemon when this command is interrupted. Exits 0 when the build has completed or is
paused as requested, else 1.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from cli.capture import read_manifest, send
from cli.client import ClientError, Json, build_path, default_socket, read, request
from cli.follow import follow_build
from cli.stream import follow
from cli.text import headline, print_error, printable, tool_output

PROGRAM = "distro_const"
ENDED = ("completed", "cancelled")
RESUMABLE = ("paused", "failed")
LOGGED = ("CheckpointCompleted", "CheckpointFailed", "CheckpointInterrupted")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Exit with status 1, the original's only status for a failure."""
        self.print_usage(sys.stderr)
        self.exit(1, f"{PROGRAM}: error: {message}\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = _Parser(prog=PROGRAM, description="Build an image with the dcd daemon.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    build = commands.add_parser(
        "build", help="build an image", description="Build an image from a manifest."
    )
    build.add_argument("-v", "--verbose", action="store_true", help="show the output of tools")
    build.add_argument("-r", "--resume", metavar="CHECKPOINT", help="resume from this checkpoint")
    build.add_argument("-p", "--pause", metavar="CHECKPOINT", help="pause before this checkpoint")
    build.add_argument(
        "-l",
        "--list",
        dest="listing",
        action="store_true",
        help="list the checkpoints from which the build can be resumed",
    )
    build.add_argument("manifest", metavar="MANIFEST", help="the manifest file")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run with these arguments (default: the process's). Returns the exit status."""
    args = build_parser().parse_args(argv)
    try:
        return _run(default_socket(), args)
    except ClientError as error:
        print_error(error, PROGRAM)
    except KeyboardInterrupt:
        pass
    return 1


def _run(socket: str, args: argparse.Namespace) -> int:
    body: dict[str, Json] = {"manifest": read_manifest(args.manifest)}
    if args.listing:
        situation = _Progress(socket, body)
        _print_resumable(situation.checkpoints)
        for item in situation.unknown:
            print(printable(f"{item['name']}: {item['reason']}"), file=sys.stderr)
        return 0
    build = None
    if args.resume:
        build = _resumed(_Progress(socket, body), args.resume, args.pause)
    if build is None:
        options = {"pause_before": args.pause, "fresh_from": args.resume}
        build = send(socket, "/v1/builds", {**body, **options})
    if args.verbose:
        _show_logs(socket, build["id"])
    else:
        follow_build(socket, build, stream=sys.stdout)
    state = request(socket, "GET", build_path(build["id"]))["state"]
    as_asked = state == "completed" or (state == "paused" and args.pause is not None)
    return 0 if as_asked else 1


class _Progress:
    """The state of a manifest: its newest build, unless that has ended, and its checkpoints, each with
    its name, whether the build can be resumed from it, and its description."""

    def __init__(self, socket: str, body: dict[str, Json]) -> None:
        self.socket = socket
        self.body = body
        plan = send(socket, "/v1/plan", body)
        self.name = plan["name"]
        self.build = _open_build(socket, self.name, body["manifest"]["path"])
        recorded = []
        if self.build is not None:
            path = build_path(self.build["id"], "checkpoints")
            recorded = request(socket, "GET", path)["checkpoints"]
        self.checkpoints: list[tuple[str, bool, str]] = []
        self.unknown = [item for item in plan["checkpoints"] if item["action"] == "unknown"]
        whole = True  # the results of all previous checkpoints exist
        for number, item in enumerate(plan["checkpoints"]):
            known = recorded[number] if number < len(recorded) else None
            if known is not None and known["name"] == item["name"]:
                resumable = whole and known["resumable"]
                whole = resumable and known["state"] in ("completed", "reused")
            else:
                resumable = whole
                whole = whole and item["action"] == "reuse"
            self.checkpoints.append((item["name"], resumable, item["description"]))


def _open_build(socket: str, name: str, path: str) -> Json | None:
    """The newest build of the manifest in the file `path`; None when it does not exist or has ended.
    Older builds that are still paused or failed do not count."""
    before: int | None = None
    while True:
        page = request(socket, "GET", "/v1/builds", query={"limit": 1000, "before": before})
        for listed in page["builds"]:
            if listed["name"] != name:
                continue
            build = request(socket, "GET", build_path(listed["id"]))
            if build["manifest_path"] == path:
                return None if build["state"] in ENDED else build
        before = page["next"]
        if before is None:
            return None


def _resumed(situation: _Progress, checkpoint: str, pause: str | None) -> Json | None:
    """Resume the build from the checkpoint; None when no build can be resumed. Raises ClientError when
    it cannot be resumed from there."""
    possible = [name for name, resumable, _ in situation.checkpoints if resumable]
    if checkpoint not in possible:
        raise ClientError(
            "refused",
            f"cannot resume from {checkpoint}",
            f"it is possible from {', '.join(possible)}",
            "distro_const build -l MANIFEST lists all checkpoints",
        )
    build = situation.build
    if build is None:
        return None
    if build["state"] not in RESUMABLE:
        raise ClientError(
            "refused",
            f"build {build['id']} of {situation.name} is {build['state']}",
            "only a paused or failed build can be resumed",
            f"dcctl follow {build['id']} shows it",
        )
    body = {**situation.body, "from": checkpoint, "pause_before": pause}
    resumed: Json = send(situation.socket, build_path(build["id"], "resume"), body)["build"]
    return resumed


def _print_resumable(table: list[tuple[str, bool, str]]) -> None:
    width = max([len("Checkpoint"), *(len(name) for name, _, _ in table)])
    print(f"{'Checkpoint':<{width}}  Resumable  Description")
    print("-" * (width + 2 + len("Resumable  Description")))
    for name, resumable, description in table:
        mark = "X" if resumable else ""
        print(printable(f"{name:<{width}}  {mark:^9}  {description}".rstrip()))


def _show_logs(socket: str, build: str) -> None:
    """Print the tool output of each checkpoint as it ends, until the build stops."""
    for message in follow(socket, build):
        if message.kind != "event":
            continue
        data = message.data["data"]
        if message.data["type"] == "CheckpointStarted":
            print(printable(f"==== {data['checkpoint']}"), flush=True)
        elif message.data["type"] == "CheckpointReused":
            print(printable(f"==== {data['checkpoint']}: result reused"), flush=True)
        elif message.data["type"] in LOGGED:
            path = build_path(build, "logs", data["checkpoint"], str(data["attempt"]))
            with tool_output(sys.stdout) as write:
                for piece in read(socket, path):
                    write(piece)
    final = request(socket, "GET", build_path(build))
    print(headline(final, sys.stdout))
    if final["error"] and final["state"] == "failed":
        error = final["error"]
        failure = ClientError("failed", error["brief"], error["details"], error["resolution"])
        print_error(failure, PROGRAM)


if __name__ == "__main__":
    sys.exit(main())
