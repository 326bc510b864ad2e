"""`dcctl lock`: write down which packages a manifest uses.

Resolve the packages of a manifest, and write them with versions and digests, and the state of their
repositories, to a file for version control. dcctl submit --locked FILE then builds with exactly these
packages, or says what has changed. The transfers of the manifest run for that, so their packages are in the
daemon's package store afterwards, and the build with the lock reuses their results. With --update an
existing lock is replaced, after its changes are shown and confirmed. Without a daemon that answers a private
one is started, as by dcctl build.
"""

import argparse
import sys
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from cli.capture import send
from cli.client import ClientError, Json, build_path, request
from cli.commands.options import add_manifest, add_state_dir, manifest_body
from cli.exit_codes import ExitCode
from cli.follow import follow_build
from cli.locks import compared, read_lock, write_lock
from cli.text import count, print_json, print_table, printable


def configure(parser: argparse.ArgumentParser) -> None:
    add_manifest(parser)
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        help="the file of the lock (default: MANIFEST with .lock in place of .xml)",
    )
    parser.add_argument(
        "--update",
        action="store_true",
        help="show what would change in an existing lock, and replace it",
    )
    parser.add_argument("--yes", action="store_true", help="with --update: do not ask")
    parser.add_argument("--fresh", action="store_true", help="reuse no layer of another build")
    add_state_dir(parser)


def run(args: argparse.Namespace) -> int:
    """Lock, and write the file."""
    from cli.private import default_directory, some_daemon  # starts processes

    target = args.output or Path(args.manifest).with_suffix(".lock")
    old = _present(target, update=args.update)
    with some_daemon(args.socket, args.state_dir or default_directory()) as args.socket:
        new, code = _made(args, old)
    if new is None:
        return code
    if old is None:
        write_lock(target, new)
        _print_written(args, target, new)
        return ExitCode.OK
    changes = compared(old, new)
    changed = old != new
    written = changed and (args.yes or _confirmed(args, changes))
    if written:
        write_lock(target, new)
    if args.json:
        print_json({"path": str(target.absolute()), "written": written, **changes})
    elif not changed:
        print(f"{printable(str(target))}: no changes")
    else:
        if args.yes:
            _print_changes(changes)
        print(f"{printable(str(target))}: {'updated' if written else 'not changed'}")
    return ExitCode.OK


def _present(target: Path, *, update: bool) -> Json | None:
    if update:
        return read_lock(target)
    if target.exists():
        raise ClientError(
            "refused",
            f"{target} exists already",
            "",
            "dcctl lock --update shows what changes, and replaces it",
        )
    return None


def _made(args: argparse.Namespace, old: Json | None) -> tuple[Json | None, int]:
    """The lock, or the exit code of a build that has not resolved the packages."""
    if old is not None:
        given = dict(args.parameters)
        args.parameters = [*{**old["parameters"], **given}.items()]
        args.profiles = args.profiles or old["profiles"]
    build = send(args.socket, "/v1/locks", {**manifest_body(args), "fresh": args.fresh})
    code = follow_build(
        args.socket,
        build,
        stream=sys.stderr,
        quiet=True,
        advice=f"its log: dcctl logs {build['id']}",
        ends=("paused",),
    )
    if code not in (ExitCode.OK, ExitCode.PAUSED):
        return None, code
    try:
        return request(args.socket, "GET", build_path(build["id"], "lock")), ExitCode.OK
    finally:
        if code == ExitCode.PAUSED:
            request(args.socket, "POST", build_path(build["id"], "cancel"))


def _confirmed(args: argparse.Namespace, changes: dict[str, list[Json]]) -> bool:
    """Show the changes, and ask. Raises ClientError where nobody can answer."""
    if args.json:
        return False
    _print_changes(changes)
    if not sys.stdin.isatty():
        print("nothing is written without --yes", file=sys.stderr)
        return False
    print("Replace the lock? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _print_changes(changes: dict[str, list[Json]]) -> None:
    rows = [
        (each["change"], each["name"], each["architecture"], each["from"] or "", each["to"] or "")
        for each in changes["packages"]
    ]
    if rows:
        print_table(("CHANGE", "PACKAGE", "ARCHITECTURE", "FROM", "TO"), rows)
        print()
    for each in changes["asks"]:
        print(printable(f"{each['change']}: {each['ask']} ({each['checkpoint']})"))
    for each in changes["repositories"]:
        was, now = ((each[side] or "none")[:16] for side in ("from", "to"))
        print(printable(f"repository {each['name']}: {was} -> {now}"))
    for each in changes["keyrings"]:
        was, now = (", ".join(map(_short, each[side])) or "none" for side in ("from", "to"))
        print(printable(f"keyring of {each['name']}: {was} -> {now}"))
    print(_sum(each["change"] for each in changes["packages"]))


def _short(key: str) -> str:
    """The beginning of a digest or fingerprint; of a key in ASCII armor, which all begin alike, that of its
    digest."""
    return (sha256(key.encode()).hexdigest() if key.startswith("-----BEGIN") else key)[:16]


def _sum(found: Iterable[str]) -> str:
    kinds = [*found]
    order = ("added", "removed", "upgraded", "downgraded", "replaced")
    counted = [f"{kinds.count(kind)} {kind}" for kind in order if kind in kinds]
    return ", ".join(counted) or "the same packages"


def _print_written(args: argparse.Namespace, target: Path, lock: Json) -> None:
    packages = sum(len(each["packages"]) for each in lock["transfers"])
    if args.json:
        print_json({"path": str(target.absolute()), "written": True, "packages": packages})
        return
    print(f"{printable(str(target))}: {count(packages, 'package')}")
    print(
        printable(f"To build with it: dcctl submit {args.manifest} --locked {target}"),
        file=sys.stderr,
    )
