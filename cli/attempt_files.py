"""The files of an attempt beside its log: serial consoles and pictures of guests, for `dcctl logs`."""

import argparse
import sys
from collections.abc import Callable

from cli.client import ClientError, Json, build_path, read, request
from cli.text import print_json, printable, tool_output

CONSOLE = "text/plain"
"""The media type of a serial console."""


def print_files(args: argparse.Namespace) -> None:
    """Print the consoles, or the file that is named, of the attempt; with --json the list of its files.
    Raises ClientError."""
    checkpoint, attempt = _attempt(args)
    path = ("logs", checkpoint, str(attempt), "files")
    files = request(args.socket, "GET", build_path(args.build, *path))["files"]
    chosen = [
        file["name"]
        for file in files
        if (
            file["media_type"].startswith(CONSOLE)
            if args.file is None
            else file["name"] == args.file
        )
    ]
    if args.json:
        print_json([file for file in files if file["name"] in chosen])
        return
    if not chosen:
        raise _none(args, checkpoint, attempt, [file["name"] for file in files])
    if args.follow and len(chosen) > 1:
        raise ClientError(
            "usage",
            f"{len(chosen)} consoles cannot be followed at once",
            ", ".join(chosen),
            f"choose one with --file {chosen[0]}",
        )
    if args.file is not None and sys.stdout.isatty() and not _is_text(files, args.file):
        raise ClientError(
            "usage",
            f"{args.file} is not text",
            "",
            f"write it to a file: dcctl logs {args.build} {checkpoint} --file {args.file} > {args.file}",
        )
    with tool_output(sys.stdout, raw=args.raw) as write:
        for name in chosen:
            if len(chosen) > 1:
                write(f"==> {printable(name)} <==\n".encode())
            _copy(args, build_path(args.build, *path, name), write)


def _copy(args: argparse.Namespace, path: str, write: Callable[[bytes], None]) -> None:
    """Write the content of a file; with --follow until the attempt has ended."""
    if args.follow:
        for piece in read(args.socket, path, query={"follow": "true"}):
            write(piece)
        return
    offset, begin = 0, -1
    while offset > begin:  # the daemon limits the size of a response
        begin = offset
        for piece in read(args.socket, path, query={"offset": offset}):
            write(piece)
            offset += len(piece)


def _attempt(args: argparse.Namespace) -> tuple[str, int]:
    """The checkpoint and the attempt: by default the newest, of the checkpoint that ran last."""
    ran = [
        (item["name"], item["attempts"])
        for item in request(args.socket, "GET", build_path(args.build))["checkpoints"]
        if item["attempts"] and args.checkpoint in (None, item["name"])
    ]
    if args.checkpoint is not None and args.attempt is not None:
        return args.checkpoint, args.attempt
    if not ran:
        what = args.checkpoint or "any checkpoint"
        raise ClientError("not-found", f"build {args.build} has not run {what}")
    name, attempts = ran[-1]
    return name, args.attempt or attempts


def _none(
    args: argparse.Namespace, checkpoint: str, attempt: int, names: list[Json]
) -> ClientError:
    what = "serial console" if args.file is None else f"file {args.file}"
    return ClientError(
        "not-found",
        f"attempt {attempt} of {checkpoint} has no {what}",
        f"its files are {', '.join(names)}" if names else "it has left no files",
        "checkpoints that boot guests, such as VerifyBoot, have consoles" if not names else "",
    )


def _is_text(files: list[Json], name: str) -> bool:
    return any(file["name"] == name and file["media_type"].startswith("text/") for file in files)
