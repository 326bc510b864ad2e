"""The download of the packages of a transfer, and what apt says against them in terms of the manifest."""

import re
from collections.abc import Sequence

from dcd.checkpoints.transfer.deb_progress import Progress
from dcd.manifest.objects.software import Software, SoftwareData
from dcd.platform.apt import Source
from dcd.platform.apt_root import Environment, download, similar_packages
from statemachine.errors import CheckpointError
from store.host.process import ToolFailed

_UNKNOWN = re.compile(
    r"^E: (?:Unable to locate package |Package '|Couldn't find any package by (?:glob|regex) ')"
    r"([^'\s]+)(?:' has no installation candidate|')?$",
    re.MULTILINE,
)
"""apt's messages about unknown packages."""


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
