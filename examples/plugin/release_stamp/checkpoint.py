"""`StampRelease`: writes into the image which release it is."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from dcd.checkpoints.interface import Checkpoint, Context, Report
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.doc import DataObjectCache, DataObjectDict, distro
from dcd.platform.inside import write
from release_stamp.data_object import Release


@dataclass(frozen=True)
class StampRelease(Checkpoint):
    """Write the manifest's `<release>` into the image, as JSON.

    Later checkpoints find the version as `%{//release-stamp.version}`.
    """

    DESCRIPTION = "Stamp the image with its release"
    VERSION = 1
    READS = ("//release", "//distro.name")

    path: str = "/etc/image-release"
    """The file of the image that is written."""

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        if not self.path.startswith("/"):
            yield self.fault(
                doc,
                "path",
                f"{self.path!r} is not an absolute path of the image",
                "",
                '<arg name="path">/etc/image-release</arg>',
            )
        if _release(doc) is None:
            yield self.fault(
                doc,
                None,
                "the manifest does not say which release it makes",
                "",
                'add <release version="1.0"/> to the <distro>',
            )

    def get_progress_estimate(self) -> float:
        return 0.1

    def execute(self, context: Context) -> None:
        release = _release(context.doc)
        assert release is not None  # check has seen to it
        stamp = {
            "name": distro(context.doc).name,
            "version": release.version,
            "codename": release.codename,
            "supported": release.supported,
        }
        context.report(Report(message=f"stamping {self.path} with {release.version}"))
        write(context.pkg_image, self.path, json.dumps(stamp, indent=2) + "\n")
        context.doc.persistent.insert_children(DataObjectDict("release-stamp", stamp))


def _release(doc: DataObjectCache) -> Release | None:
    found = doc.volatile.get_descendants(class_type=Release, max_count=1)
    return found[0] if found else None
