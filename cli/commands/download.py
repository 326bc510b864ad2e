"""`dcctl download`: copy the artifacts of a build.

Copy the artifacts of a build, or those that NAME names, into a directory; each is compared with its
digest. A transfer that was interrupted continues where it stopped, and a file that is there already
is not copied again.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from cli.client import ClientError, Json, build_path, request
from cli.commands.options import add_build
from cli.download import fetch
from cli.text import print_json, print_table, size


def configure(parser: argparse.ArgumentParser) -> None:
    add_build(parser)
    parser.add_argument("names", metavar="NAME", nargs="*", help="an artifact's name")
    add_directory(parser, Path())


def add_directory(
    parser: argparse.ArgumentParser, default: Path | None = None, told: str = "the present one"
) -> None:
    """-o, the directory for artifacts, as `args.directory`."""
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIRECTORY",
        dest="directory",
        type=Path,
        default=default,
        help=f"the directory for the files; it is created (default: {told})",
    )


def run(args: argparse.Namespace) -> None:
    """Copy the files and list them."""
    answer = request(args.socket, "GET", build_path(args.build))
    copied = download(args.socket, answer, args.directory, args.names)
    print_copied(copied, as_json=args.json)


def download(
    socket_path: str, build: Json, directory: Path, names: Sequence[str] = ()
) -> list[Json]:
    """Copy these artifacts of `build` (as the API describes it), or all. Returns a description of each file.
    Raises ClientError."""
    chosen = _chosen(build, names)
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


def _chosen(build: Json, names: Sequence[str]) -> list[Json]:
    artifacts = {item["name"]: item for item in build["artifacts"]}
    if not artifacts:
        why = f"it is {build['state']} and has delivered nothing"
        if build["removed_at"]:
            why = "it was removed, and its artifacts with it"
        raise ClientError("not-found", f"build {build['id']} has no artifact to download", why)
    if unknown := [name for name in names if name not in artifacts]:
        brief = f"build {build['id']} has no artifact {unknown[0]}"
        raise ClientError("not-found", brief, f"it has {', '.join(artifacts)}")
    return [artifacts[name] for name in dict.fromkeys(names or artifacts)]
