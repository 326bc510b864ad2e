"""`TransferCPIO`: files and directories from one place of the workspace to another.

The name is the original's, which used cpio(1). Hard links, devices, extended attributes and holes are kept;
`software_data` to install names files and directories (with all below them) of the source, and to
uninstall those that are left out. What does not exist is skipped with a warning. Software of type DIR that
names nothing is all of its source.
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
from dcd.platform.copying import Copied, copy_entries, refuse_losses
from dcd.platform.inside import entry
from statemachine.errors import CheckpointError

_NAMED = 50
"""How many entries that do not exist are named."""


@dataclass(frozen=True)
class TransferCPIO(Checkpoint):
    """Copy what the `software` of the checkpoint's name lists, from its source `dir` to its destination
    `dir` (the image area and the boot archive, where they are not given)."""

    DESCRIPTION = "Copy files and directories within the workspace"
    VERSION = 2
    NAMED = ("software",)

    def needs(self, doc: DataObjectCache) -> Needs:
        return Needs(disk_bytes=listed_bytes(software_of(doc, self)))

    def provides(self, doc: DataObjectCache) -> products.Provided:
        software = software_of(doc, self)
        return products.in_area(_path_of(software, Destination) or "{BOOT_ARCHIVE}")

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        yield from check_software(doc, self)
        software = software_for(doc, self.name)
        if software is None:
            return
        for data in software.get_descendants(class_type=SoftwareData):
            if data.action not in ("install", "uninstall"):
                yield error(
                    data.place_of("action"),
                    f"{data.action} means nothing for a copy",
                    "",
                    'use action="install", or "uninstall" for what is left out',
                )
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
        names = software.names("install")
        names = names or sorted(found.name for found in area_path(context, source).iterdir())

        def report(done: int, copied: Copied) -> None:
            message = f"copied {copied.entries} files, {copied.size_bytes >> 20} MiB"
            context.report(Report(done / len(names), message))

        names = self._present(context, area_path(context, source), names)
        target = area_directory(context, destination)
        copied = copy_entries(
            area_path(context, source),
            target,
            names,
            excluded=software.names("uninstall"),
            on_name=report,
        )
        refuse_losses(copied.lost)

    def _present(self, context: Context, source: Path, names: Sequence[str]) -> list[str]:
        """The names that exist. Lists of the original name files that packages no longer bring; the
        original skipped these. Raises `CheckpointError` when none exists."""
        absent = [name for name in names if _absent(source, name)]
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


def _absent(source: Path, name: str) -> bool:
    return not os.path.lexists(entry(source, name))


def _path_of(software: Software, side: type[Source] | type[Destination]) -> str | None:
    for found in software.get_children(class_type=side):
        for place in found.get_children(class_type=Dir):
            return place.path
    return None
