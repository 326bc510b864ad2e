"""`TransferCPIO`: files and directories from one place of the workspace to another.

The name is the original's, which used cpio(1). Hard links, devices, extended attributes and holes are kept;
`software_data` to install names files and directories (with all below them) of the source, and to
uninstall those that are left out. Software of type DIR that names nothing is all of its source.
"""

from dcd.checkpoints.areas import area_path
from dcd.checkpoints.interface import Checkpoint, Context, Needs, Report
from dcd.manifest.doc import DataObjectCache, software_for
from dcd.manifest.objects.software import Destination, Dir, Software, SoftwareData, Source
from dcd.manifest.tokens import has_token
from dcd.platform.copying import Copied, copy_entries
from statemachine.errors import CheckpointError, InvalidManifest


class TransferCPIO(Checkpoint):
    """Copy what the `software` of the checkpoint's name lists, from its source `dir` to its destination
    `dir` (the image area and the boot archive, where they are not given)."""

    DESCRIPTION = "Copy files and directories within the workspace"
    VERSION = 1

    def __init__(self, name: str) -> None:
        super().__init__(name)

    def needs(self, doc: DataObjectCache) -> Needs:
        software = self._software(doc)
        sizes = (data.size or 0 for data in software.get_descendants(class_type=SoftwareData))
        return Needs(disk_bytes=sum(sizes))

    def check(self, doc: DataObjectCache) -> None:
        software = self._software(doc)
        for data in software.get_descendants(class_type=SoftwareData):
            if data.action not in ("install", "uninstall"):
                raise InvalidManifest(
                    f"{data.action} means nothing for a copy",
                    str(data.origin or ""),
                    'use action="install", or "uninstall" for what is left out',
                )
        if not software.names("install") and software.type != "DIR":
            raise InvalidManifest(
                f"{self.name} has nothing to copy",
                str(software.origin or ""),
                'add <software_data action="install"> with a <name> for each file or directory',
            )
        for place in software.get_descendants(class_type=Dir):
            check_place(place)

    def execute(self, context: Context, dry_run: bool = False) -> None:
        software = self._software(context.doc)
        source = _path_of(software, Source) or "{PKG_IMAGE_PATH}"
        destination = _path_of(software, Destination) or "{BOOT_ARCHIVE}"
        names = software.names("install")
        if dry_run:
            what = f"{len(names)} entries" if names else "all"
            context.report(Report(message=f"would copy {what} from {source} to {destination}"))
            return
        names = names or sorted(found.name for found in area_path(context, source).iterdir())

        def report(done: int, copied: Copied) -> None:
            message = f"copied {copied.entries} files, {copied.size_bytes >> 20} MiB"
            context.report(Report(done / len(names), message))

        target = area_path(context, destination)
        target.mkdir(parents=True, exist_ok=True)
        copied = copy_entries(
            area_path(context, source),
            target,
            names,
            excluded=software.names("uninstall"),
            on_name=report,
        )
        if copied.lost:
            raise CheckpointError(
                f"{len(copied.lost)} attributes of files could not be copied",
                "\n".join(copied.lost[:20]),
                "keep the state directory on a file system that has extended attributes",
            )

    def _software(self, doc: DataObjectCache) -> Software:
        software = software_for(doc, self.name)
        if software is None:
            raise InvalidManifest(
                f"{self.name} needs a <software> of its name",
                "",
                f'add <software name="{self.name}" type="CPIO">...</software>',
            )
        return software


def check_place(place: Dir) -> None:
    """Raise `InvalidManifest` for a directory that is not in the workspace."""
    if not has_token(place.path) or ".." in place.path.split("/"):
        raise InvalidManifest(
            f"{place.path!r} is not in the workspace",
            str(place.origin or ""),
            "begin it with an area, such as {PKG_IMAGE_PATH} or {BOOT_ARCHIVE}",
        )


def _path_of(software: Software, side: type[Source] | type[Destination]) -> str | None:
    for found in software.get_children(class_type=side):
        for place in found.get_children(class_type=Dir):
            return place.path
    return None
