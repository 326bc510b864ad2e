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
from typing import NamedTuple, NoReturn

from cli.capture import read_manifest, send
from cli.client import ClientError, Json, build_path, builds, default_socket, read, request
from cli.dataset import deliver
from cli.follow import follow_build
from cli.stream import follow
from cli.text import headline, print_error, printable, tool_output

PROGRAM = "distro_const"
ENDED = ("completed", "cancelled")
RESUMABLE = ("paused", "failed")
LOGGED = ("CheckpointCompleted", "CheckpointFailed", "CheckpointInterrupted")


class Checkpoint(NamedTuple):
    """A checkpoint of the manifest, and whether the build can be resumed from it."""

    name: str
    resumable: bool
    description: str


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
    build = None
    if args.listing or args.resume:
        plan = send(socket, "/v1/plan", body)
        build = _open_build(socket, plan["name"], body["manifest"]["path"])
        checkpoints = _checkpoints(socket, plan, build)
        if args.listing:
            _print_resumable(checkpoints)
            for item in plan["checkpoints"]:
                if item["action"] == "unknown":
                    print(printable(f"{item['name']}: {item['reason']}"), file=sys.stderr)
            return 0
        _require_resumable(args.resume, checkpoints, build)
    if build is not None:
        body |= {"from": args.resume, "pause_before": args.pause}
        build = send(socket, build_path(build["id"], "resume"), body)["build"]
    else:
        body |= {"pause_before": args.pause, "fresh_from": args.resume}
        build = send(socket, "/v1/builds", body)
    if args.verbose:
        _show_logs(socket, build["id"])
    else:
        follow_build(socket, build, stream=sys.stdout, quiet=True)
    state = request(socket, "GET", build_path(build["id"]))["state"]
    _deliver(socket, build["id"])
    as_asked = state == "completed" or (state == "paused" and args.pause is not None)
    return 0 if as_asked else 1


def _deliver(socket: str, build: str) -> None:
    """Copy media and logs into the dataset of the manifest's target; say where they are otherwise. A
    dataset that cannot be used is a warning: the image is built."""
    try:
        delivered = deliver(socket, build)
    except ClientError as error:
        print_error(error, f"{PROGRAM}: warning")
        print(f"dcctl download {build}; dcctl logs {build}", file=sys.stderr)
        return
    for path in (*delivered.media, *delivered.logs) if delivered else ():
        print(printable(str(path)))


def _open_build(socket: str, name: str, path: str) -> Json | None:
    """The newest build of the manifest in the file `path`; None when it does not exist or has ended.
    Older builds that are still paused or failed do not count."""
    for listed in builds(socket):
        if listed["name"] == name:
            build = request(socket, "GET", build_path(listed["id"]))
            if build["manifest_path"] == path:
                return None if build["state"] in ENDED else build
    return None


def _checkpoints(socket: str, plan: Json, build: Json | None) -> list[Checkpoint]:
    """The checkpoints of a planned manifest. One is resumable while the results of all before it exist:
    those of the open build, or without one those that a new build would reuse."""
    recorded = []
    if build is not None:
        recorded = request(socket, "GET", build_path(build["id"], "checkpoints"))["checkpoints"]
    found = []
    whole = True  # the results of all previous checkpoints exist
    for number, item in enumerate(plan["checkpoints"]):
        known = recorded[number] if number < len(recorded) else None
        if known is not None and known["name"] == item["name"]:
            resumable = whole and known["resumable"]
            whole = resumable and known["state"] in ("completed", "reused")
        else:
            resumable = whole
            whole = whole and item["action"] == "reuse"
        found.append(Checkpoint(item["name"], resumable, item["description"]))
    return found


def _require_resumable(checkpoint: str, found: list[Checkpoint], build: Json | None) -> None:
    """Raise ClientError unless the open build, or without one a new one, can start with the checkpoint."""
    possible = [each.name for each in found if each.resumable]
    if checkpoint not in possible:
        raise ClientError(
            "refused",
            f"cannot resume from {checkpoint}",
            f"it is possible from {', '.join(possible)}",
            "distro_const build -l MANIFEST lists all checkpoints",
        )
    if build is not None and build["state"] not in RESUMABLE:
        raise ClientError(
            "refused",
            f"build {build['id']} of {build['name']} is {build['state']}",
            "only a paused or failed build can be resumed",
            f"dcctl follow {build['id']} shows it",
        )


def _print_resumable(table: list[Checkpoint]) -> None:
    width = max(len(each) for each in ("Checkpoint", *(item.name for item in table)))
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
