"""The download of the packages of a transfer, and what apt says against them in terms of the manifest."""

import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress

from dcd.checkpoints.transfer.deb_progress import Progress
from dcd.manifest.objects.software import Software, SoftwareData
from dcd.platform.apt import Source
from dcd.platform.apt_root import (
    ARCHIVES,
    Environment,
    Place,
    WantedFile,
    download,
    download_files,
    similar_packages,
)
from dcd.platform.inside import may_set_owners, resolve
from statemachine.errors import CheckpointError
from store.host.process import ToolFailed

_UNKNOWN = re.compile(
    r"^E: (?:Unable to locate package |Package '|Couldn't find any package by (?:glob|regex) ')"
    r"([^'\s]+)(?:' has no installation candidate|')?$",
    re.MULTILINE,
)
"""apt's messages about unknown packages."""


def fetch_at_once(
    place: Place, environment: Environment, files: Iterable[WantedFile], progress: Progress
) -> set[str]:
    """Fetch packages into the package cache, over several connections. Returns the names of those that are
    there. What fails is left to `fetch`, which tries again and tells why."""
    remote = [file for file in files if file.uri.startswith(("http:", "https:"))]
    # Else apt cannot download as its own user.
    if not remote or not may_set_owners():
        return set()
    archives = resolve(place.root, ARCHIVES)
    incoming = archives / "partial"
    progress.downloading(len(remote))
    with suppress(ToolFailed):
        download_files(environment, remote, incoming, progress.line)
    found = set()
    for file in remote:
        fetched = incoming / file.name
        if fetched.is_file() and fetched.stat().st_size == file.size_bytes:
            os.chown(fetched, 0, 0)
            fetched.rename(archives / file.name)
            found.add(file.name)
    return found


def fetch(
    software: Software,
    wanted: Sequence[str],
    sources: list[Source],
    environment: Environment,
    progress: Progress,
) -> None:
    """Fetch the packages `wanted` and all they depend on into the package cache. Raises `CheckpointError`
    when apt finds no solution, `Unprepared` when a mirror does not serve a package."""
    try:
        download(environment, sources, wanted, progress.line)
    except ToolFailed as error:
        raise _unsolvable(error, software, sources, environment) from error


def _unsolvable(
    error: ToolFailed, software: Software, sources: list[Source], environment: Environment
) -> CheckpointError:
    """apt's error, in terms of the manifest."""
    looked = "looked for in " + ", ".join(
        f"{source.name} {' '.join(source.components)}" for source in sources
    )
    unknown = list(dict.fromkeys(match[1] for match in _UNKNOWN.finditer(error.output)))
    if unknown:
        lines, hints = [], []
        for name in unknown:
            places = [
                str(data.origin or "")
                for data in software.get_descendants(class_type=SoftwareData)
                if name in {re.split(r"[=/]", listed)[0] for listed in data.names}
            ]
            lines.append(": ".join([*filter(None, places), name]))
            similar = [found for found in similar_packages(environment, name) if found != name]
            if similar:
                meant = " or ".join(f"<name>{found}</name>" for found in similar)
                hints.append(f"did you mean {meant} instead of {name}?")
        never = set(unknown) & set(software.names("uninstall"))
        if never:
            hints.append(f"{', '.join(sorted(never))} is listed under uninstall")
        return CheckpointError(
            f"there is no package {', '.join(unknown)}",
            "\n".join([*lines, looked]),
            " ".join(hints) or "correct the name, or add the repository or component that has it",
        )
    return CheckpointError(
        "apt cannot install what the manifest lists",
        f"{error.output}\n{looked}",
        "correct the list of packages, then resume the build with the new manifest",
    )
