"""`dcctl reproduce`: build a second time in varied surroundings, and compare.

Repeat a completed build with the same plan and inputs, without reuse, in another time zone, under another
host name, with one processor, in another directory and with other clocks; then compare the results of
all checkpoints and the products. With a manifest, build it first. Exit 0 if all are identical; 12 if
not: then the first checkpoint with another result is named, its files, and what differs in them
(content, owner, mode, time, link, xattr, device, type, missing, extra); diffoscope, if it is installed,
shows the first of these files. The build continues if this command is interrupted: give the id of the
second build to continue. An identical second build is removed at the end, unless --keep is given.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence

from cli.capture import send
from cli.client import Json, build_path, request
from cli.commands.options import add_parameters, add_source_date_epoch, manifest_body
from cli.exit_codes import AT_REST, ExitCode, at_rest
from cli.follow import follow_build
from cli.text import count, print_json, print_table, printable

SHOWN_FILES = 20
DIFFOSCOPE_SECONDS = 600
DIFFOSCOPE_LINES = 200


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target",
        metavar="MANIFEST|BUILD",
        help="a manifest file (its name has a dot or a slash), or the id of a build or of its repetition",
    )
    add_parameters(parser)
    add_source_date_epoch(parser)
    parser.add_argument(
        "--from",
        dest="first",
        metavar="CHECKPOINT",
        help="repeat only this checkpoint and those after it",
    )
    parser.add_argument("--keep", action="store_true", help="keep an identical second build")


def run(args: argparse.Namespace) -> int:
    """Build again, compare, and print the comparison."""
    build = _target(args)
    if not build["reproduces"]:
        if code := _completed(args, build):
            return code
        body = {"from": args.first}
        build = request(args.socket, "POST", build_path(build["id"], "reproduce"), body=body)
        _note(f"build {build['reproduces']} is repeated as {build['id']}")
        _note(f"to continue after an interruption: dcctl reproduce {build['id']}")
    if code := _completed(args, build):
        return code
    found = request(args.socket, "GET", build_path(build["id"], "comparison"))
    shown = "" if found["identical"] else _diffoscope(found["example"])
    if args.json:
        print_json({**found, "diffoscope": shown})
    else:
        _print(found, shown)
    if found["identical"] and not args.keep and build.get("removed_at") is None:
        request(args.socket, "DELETE", build_path(build["id"]))
    return ExitCode.OK if found["identical"] else ExitCode.DIFFERENT


def _target(args: argparse.Namespace) -> Json:
    if "/" not in args.target and "." not in args.target:
        return request(args.socket, "GET", build_path(args.target))
    args.manifest = args.target
    build = send(args.socket, "/v1/builds", manifest_body(args))
    _note(f"the first build is {build['id']}")
    return build


def _completed(args: argparse.Namespace, build: Json) -> int:
    """Wait until a build has stopped. Returns 0 when it has completed, else the exit code of its state."""
    if build["state"] in AT_REST and build["state"] != "paused":
        return at_rest(build)
    return follow_build(args.socket, build, stream=sys.stderr, quiet=True)


def _note(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)


def _print(found: Json, diffoscope: str) -> None:
    builds = f"build {found['first']} and its repetition {found['second']}"
    products, checkpoints = found["products"], found["checkpoints"]
    if found["identical"]:
        known = sum(one["identical"] is True for one in checkpoints)
        results = f"{count(len(products), 'product')}, {count(known, 'checkpoint')}"
        print(f"identical: {builds} ({results})")
    else:
        print(f"different: {builds}")
    if found["checkpoint"]:
        print(f"\nThe first checkpoint with another result is {printable(found['checkpoint'])}.")
        _print_files(found["files"], found["different_files"])
    if found["unknown"]:
        print(f"\n{printable(found['unknown'])}")
    if different := [one for one in products if one["first_sha256"] != one["second_sha256"]]:
        print()
        rows = [
            (
                one["name"],
                one["first_sha256"][:16] or "missing",
                one["second_sha256"][:16] or "missing",
            )
            for one in different
        ]
        print_table(("PRODUCT", "FIRST", "SECOND"), rows)
    if found["changed"]:
        print("\nNot the same as for the first build, on this host or in repositories:")
        for text in found["changed"]:
            print(f"  {printable(text)}")
    print(f"\nvaried: {printable(', '.join(found['varied']))}")
    if diffoscope:
        print(f"\n{diffoscope}", end="")


def _print_files(files: Sequence[Json], total: int) -> None:
    print()
    rows = [
        (one["path"], ", ".join(one["kinds"]), _brief(one["first"]), _brief(one["second"]))
        for one in files[:SHOWN_FILES]
    ]
    print_table(("FILE", "DIFFERS IN", "FIRST", "SECOND"), rows)
    if total > len(rows):
        print(f"and {count(total - len(rows), 'more file')}")


def _brief(values: Json) -> str:
    return " ".join(f"{key}={str(value)[:12]}" for key, value in values.items())


def _diffoscope(example: Sequence[str]) -> str:
    """What diffoscope shows about two files, if it is here and may read them."""
    import subprocess  # takes long, for a command that hardly ever needs it

    program = shutil.which("diffoscope")
    if program is None or len(example) != 2:
        return ""
    if not all(os.access(path, os.R_OK) for path in example):
        return "diffoscope cannot read the layers; as root, this command would show what differs\n"
    command = [program, "--no-progress", "--text", "-", "--text-color", "never", *example]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=DIFFOSCOPE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"diffoscope did not end in {DIFFOSCOPE_SECONDS} s\n"
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    more = len(lines) - DIFFOSCOPE_LINES
    rest = [f"... and {more} more lines: {' '.join(command)}"] if more > 0 else []
    return "".join(f"{printable(line)}\n" for line in (*lines[:DIFFOSCOPE_LINES], *rest))
