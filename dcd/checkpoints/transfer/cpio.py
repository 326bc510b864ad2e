"""`TransferCPIO`: files and directories from one place of the workspace to another.

The name is the original's, which used cpio(1). Hard links, devices, extended attributes and holes are kept.
`software_data` to install names files and directories (with their contents) of the source, and to uninstall
those to leave out. Missing ones are skipped with a warning. Software of type DIR without names is all of its
source.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dcd.checkpoints import products
from dcd.checkpoints.areas import area_directory, area_path
from dcd.checkpoints.interface import Checkpoint, Context, Needs, Report
from dcd.checkpoints.transfer.listed import check_places, check_software, listed_bytes, software_of
from dcd.manifest.diagnostics import Diagnostic, error
from dcd.manifest.doc import DataObjectCache, software_for
from dcd.manifest.objects.software import Destination, Dir, Software, SoftwareData, Source
from dcd.platform.copying import Copied, copy_entries, copy_skeleton, refuse_losses
from dcd.platform.inside import entry
from statemachine.errors import CheckpointError

_SKELETON = ("etc", "var")

_NAMED = 50
"""The most missing entries in messages."""


@dataclass(frozen=True)
class TransferCPIO(Checkpoint):
    """Copy the entries that the `software` of the checkpoint's name lists, from its source `dir` (by default
    the image area) to its destination `dir` (by default the boot archive)."""

    DESCRIPTION = "Copy files and directories within the workspace"
    VERSION = 3
    NAMED = ("software",)

    skeleton: bool = False
    """Copy also what is below etc and var and no regular file (directories, links, devices), as the script
    that initialized boot archives before the Caiman Unified Design did."""

    def needs(self, doc: DataObjectCache) -> Needs:
        return Needs(disk_bytes=listed_bytes(software_of(doc, self)))

    def provides(self, doc: DataObjectCache) -> products.Provided:
        software = software_of(doc, self)
        return products.in_area(_path_of(software, Destination) or "{BOOT_ARCHIVE}")

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        yield from check_software(doc, self, only=False)
        software = software_for(doc, self.name)
        if software is None:
            return
        for data in software.get_descendants(class_type=SoftwareData):
            if data.action not in ("install", "uninstall"):
                remedy = 'use action="install", or "uninstall" for entries to leave out'
                message = f"{data.action} means nothing for a copy"
                yield error(data.place_of("action"), message, "", remedy)
        if not software.names("install") and software.type != "DIR":
            yield error(
                software.origin,
                f"{self.name} has nothing to copy",
                "",
                'add <software_data action="install"> with a <name> for each file or directory',
            )
        yield from check_places(software)

    def execute(self, context: Context) -> None:
        software = software_of(context.doc, self)
        source = _path_of(software, Source) or "{PKG_IMAGE_PATH}"
        destination = _path_of(software, Destination) or "{BOOT_ARCHIVE}"
        origin, target = area_path(context, source), area_directory(context, destination)
        names = software.names("install") or sorted(found.name for found in origin.iterdir())
        names = _present(context, origin, names)

        def report(done: int, copied: Copied) -> None:
            message = f"copied {copied.entries} files, {copied.size_bytes >> 20} MiB"
            context.report(Report(done / len(names), message))

        excluded = software.names("uninstall")
        copied = copy_entries(origin, target, names, excluded=excluded, on_name=report)
        lost = copied.lost
        if self.skeleton:
            lost += copy_skeleton(origin, target, _SKELETON, excluded=excluded).lost
        refuse_losses(lost)


def _present(context: Context, source: Path, names: Sequence[str]) -> list[str]:
    """The names that exist. Like the original, it skips files that packages no longer bring. Raises
    `CheckpointError` when none exists."""
    absent = [name for name in names if not os.path.lexists(entry(source, name))]
    if absent and len(absent) == len(names):
        raise CheckpointError(
            f"none of the {len(names)} entries to copy exists",
            "\n".join(f"{name} (below {source})" for name in absent[:_NAMED]),
            "correct the names, or run the checkpoint that makes them before",
        )
    for name in absent[:_NAMED]:
        context.warn(f"there is no {name}; skipped")
    if len(absent) > _NAMED:
        context.warn(f"and {len(absent) - _NAMED} more; skipped")
    return [name for name in names if name not in set(absent)]


def _path_of(software: Software, side: type[Source] | type[Destination]) -> str | None:
    for found in software.get_children(class_type=side):
        for place in found.get_children(class_type=Dir):
            return place.path
    return None
