"""`dcctl download`: copy the artifacts of a build.

Copy the products of a build, or the artifacts that NAME names, into a directory; each is compared
with its digest. A transfer that was interrupted continues where it stopped, and a file that is
there already is not copied again. With --all the evidence comes too: console logs and screenshots.
"""

import argparse
from pathlib import Path

from cli.client import ClientError, Json, build_path, request
from cli.commands.options import add_build
from cli.download import fetch
from cli.text import print_json, print_table, size


def configure(parser: argparse.ArgumentParser) -> None:
    add_build(parser)
    parser.add_argument("names", metavar="NAME", nargs="*", help="an artifact's name")
    add_directory(parser)
    parser.add_argument("--all", action="store_true", help="copy the evidence too")


def add_directory(parser: argparse.ArgumentParser) -> None:
    """-o, the directory for artifacts, as `args.directory`."""
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIRECTORY",
        dest="directory",
        type=Path,
        default=Path(),
        help="the directory for the files; it is created (default: the present one)",
    )


def run(args: argparse.Namespace) -> None:
    """Copy the files and list them."""
    answer = request(args.socket, "GET", build_path(args.build))
    copied = download(args.socket, answer, args.directory, args.names, evidence=args.all)
    print_copied(copied, as_json=args.json)


def download(
    socket_path: str, build: Json, directory: Path, names: list[str], *, evidence: bool = False
) -> list[Json]:
    """Copy these artifacts of `build` (as the API describes it), or all its products. Returns a
    description of each file. Raises ClientError."""
    chosen = _chosen(build, names, evidence=evidence)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClientError(
            "usage", f"cannot create {directory}", error.strerror or str(error)
        ) from None
    return [
        {
            "name": item["name"],
            "path": str((directory / item["name"]).absolute()),
            "size_bytes": item["size_bytes"],
            "sha256": item["sha256"],
            "copied": fetch(socket_path, build["id"], item, directory),
        }
        for item in chosen
    ]


def print_copied(copied: list[Json], *, as_json: bool) -> None:
    """Print what `download` returned."""
    if as_json:
        print_json(copied)
        return
    rows = [
        (size(item["size_bytes"]), "copied" if item["copied"] else "unchanged", item["path"])
        for item in copied
    ]
    print_table(("SIZE", "STATUS", "FILE"), rows, right=(0,))


def _chosen(build: Json, names: list[str], *, evidence: bool) -> list[Json]:
    artifacts = {item["name"]: item for item in build["artifacts"]}
    if unknown := [name for name in names if name not in artifacts]:
        raise ClientError(
            "not-found",
            f"build {build['id']} has no artifact {unknown[0]}",
            _reason_for_none(build) or f"it has {', '.join(artifacts)}",
        )
    if names:
        return [artifacts[name] for name in dict.fromkeys(names)]
    chosen = [item for item in artifacts.values() if evidence or not item["evidence"]]
    if not chosen:
        why = _reason_for_none(build) or "it has delivered evidence only; --all copies that"
        raise ClientError("not-found", f"build {build['id']} has no product to download", why)
    return chosen


def _reason_for_none(build: Json) -> str:
    if build["removed_at"]:
        return "it was removed, and its artifacts with it"
    return "" if build["artifacts"] else f"it is {build['state']} and has delivered nothing"
