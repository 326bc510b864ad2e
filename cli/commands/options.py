"""Arguments shared by several commands."""

import argparse
import os
from pathlib import Path

from cli.capture import read_manifest
from cli.client import Json
from cli.locks import read_lock


def add_build(
    parser: argparse.ArgumentParser, *, several: bool = False, some: bool = False
) -> None:
    """BUILD, as `args.build`; with `several` BUILD..., as the list `args.builds`, which with `some` may be
    empty."""
    text = "the build's id or a unique prefix of it"
    if several:
        parser.add_argument("builds", metavar="BUILD", nargs="*" if some else "+", help=text)
    else:
        parser.add_argument("build", metavar="BUILD", help=text)


def add_manifest(parser: argparse.ArgumentParser) -> None:
    """MANIFEST and its parameters."""
    parser.add_argument("manifest", metavar="MANIFEST", help="the manifest file")
    add_parameters(parser)


def add_parameters(parser: argparse.ArgumentParser) -> None:
    """--set and --profile, for the manifest's parameters and profiles."""
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        dest="parameters",
        type=_assignment,
        action="append",
        default=[],
        help="set the manifest's parameter NAME; may be repeated",
    )
    parser.add_argument(
        "--profile",
        metavar="NAME",
        dest="profiles",
        type=_names,
        action="extend",
        default=[],
        help="select the manifest's profile NAME, or several (A,B); may be repeated",
    )


def add_matrix(parser: argparse.ArgumentParser) -> None:
    """--matrix, for a group of builds."""
    parser.add_argument(
        "--matrix",
        metavar="NAME=A,B",
        type=_axis,
        action="append",
        default=[],
        help="build once for each of these values of the parameter NAME, or of the profiles (NAME: "
        "profile); repeated, for each combination",
    )


def add_require(parser: argparse.ArgumentParser) -> None:
    """--require."""
    parser.add_argument(
        "--require",
        metavar="LABEL",
        action="append",
        default=[],
        help="build on a host with this label, such as arm64 or kvm, beside those in the manifest; may be "
        "repeated",
    )


def add_source_date_epoch(parser: argparse.ArgumentParser) -> None:
    """--source-date-epoch, by default $SOURCE_DATE_EPOCH."""
    parser.add_argument(
        "--source-date-epoch",
        metavar="SECONDS",
        type=_seconds,
        default=os.environ.get("SOURCE_DATE_EPOCH") or None,
        help="the build's time, in seconds since 1970, if the manifest sets none "
        "(default: $SOURCE_DATE_EPOCH, else the newest date of the repositories)",
    )


def add_grow(parser: argparse._ActionsContainer) -> None:
    """--grow."""
    parser.add_argument(
        "--grow",
        action="store_true",
        help="add packages to the result of an earlier build that has a part of them, if there is one; "
        "the result is marked as grown",
    )


def add_pause_before(parser: argparse.ArgumentParser) -> None:
    """--pause-before."""
    parser.add_argument("--pause-before", metavar="CHECKPOINT", help="pause before this checkpoint")


def add_follow(parser: argparse.ArgumentParser) -> None:
    """--follow, until the end of the build."""
    parser.add_argument(
        "--follow",
        action="store_true",
        help="show the build until it ends, fails or is paused; the exit code is that of its state",
    )
    add_quiet(parser)
    add_reports(parser, " (with --follow implied)")


def add_reports(parser: argparse.ArgumentParser, also: str = "") -> None:
    """--junit and --summary."""
    for option, what in (
        ("--junit", "a JUnit report with a test case for each checkpoint"),
        ("--summary", "a summary in Markdown"),
    ):
        parser.add_argument(
            option, metavar="FILE", type=_report, help=f"write {what} when the build stops{also}"
        )


def wants_reports(args: argparse.Namespace) -> bool:
    """Whether a report is asked for."""
    return bool(getattr(args, "junit", None) or getattr(args, "summary", None))


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """--quiet, for a display of a build."""
    parser.add_argument(
        "--quiet", action="store_true", help="do not show the logs of the checkpoints that run"
    )


def add_state_dir(parser: argparse.ArgumentParser) -> None:
    """--state-dir, for a command that starts a private daemon."""
    parser.add_argument(
        "--state-dir",
        metavar="DIRECTORY",
        type=Path,
        default=None,
        help="the directory of the private daemon (default: dcd in $XDG_STATE_HOME or ~/.local/state)",
    )


def add_locked(parser: argparse.ArgumentParser, *, offline: bool = True) -> None:
    """--locked, and --offline."""
    parser.add_argument(
        "--locked",
        metavar="FILE",
        type=Path,
        help="use exactly the packages in this lock (dcctl lock), and refuse when the manifest or a "
        "repository has changed since",
    )
    if offline:
        parser.add_argument(
            "--offline",
            action="store_true",
            help="with --locked: take all packages from the daemon's package store, without any network",
        )


def manifest_body(args: argparse.Namespace) -> dict[str, Json]:
    """The part of a request with the manifest, its parameters and its lock."""
    body: dict[str, Json] = {"manifest": read_manifest(args.manifest)}
    if getattr(args, "locked", None) is not None:  # not an option of all commands
        body["lock"] = read_lock(args.locked)
    if getattr(args, "offline", False):
        body["offline"] = True
    if args.parameters:
        body["parameters"] = dict(args.parameters)
    if args.profiles:
        body["profiles"] = sorted(set(args.profiles))
    if getattr(args, "source_date_epoch", None) is not None:
        body["source_date_epoch"] = args.source_date_epoch
    if getattr(args, "grow", False):
        body["grow"] = True
    if getattr(args, "require", None):
        body["require"] = args.require
    return body


def _seconds(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a time in seconds since 1970")
    return int(text)


def _axis(text: str) -> dict[str, Json]:
    name, sign, values = text.partition("=")
    if not name or not sign:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=A,B")
    return {"name": name, "values": [value.strip() for value in values.split(",")]}


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME, or several names with commas")
    return names


def _report(text: str) -> Path:
    """The path of a report, checked before anything is built for it."""
    path = Path(text)
    if path.is_dir() or not path.absolute().parent.is_dir():
        what = "a directory" if path.is_dir() else "in a directory that does not exist"
        raise argparse.ArgumentTypeError(f"{text!r} is {what}")
    return path


def _assignment(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not name or not sign:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value
