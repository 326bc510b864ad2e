"""The examples as benchmarks build them, and the scripts that make the same with bare tools."""

import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from dcd.manifest.doc import software_for
from dcd.manifest.objects.software import Image as ImageArea
from dcd.planning.load import load
from dcd.platform.apt import host_codename

EXAMPLES = Path(__file__).parents[1] / "examples"


@dataclass(frozen=True, slots=True)
class Image:
    """What the manifest says that a script has to know."""

    suite: str
    variant: str
    packages: tuple[str, ...]


def without_boots(scratch: Path, name: str) -> tuple[Path, Image]:
    """A copy of the example without verify-boot, beside the files that it names. It is for the host's
    own release, from the host's own sources, as it stands."""
    copies = scratch / "examples"
    shutil.rmtree(copies, ignore_errors=True)
    shutil.copytree(EXAMPLES, copies)
    manifest = copies / name
    tree = ElementTree.parse(manifest)  # noqa: S314 - our own
    (execution,) = tree.findall(".//execution")
    for checkpoint in execution.findall("checkpoint[@checkpoint_class='VerifyBoot']"):
        execution.remove(checkpoint)
    tree.write(manifest)
    doc = load(manifest.read_text(), str(manifest)).doc
    software = software_for(doc, "transfer-deb")
    assert software is not None
    (area,) = software.get_descendants(class_type=ImageArea)
    return manifest, Image(host_codename(), area.variant or "", tuple(software.names("install")))


APART = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc"),
)
"""A script that is killed, or whose benchmark is, must leave no process and no mount behind, above all none
of the host's in a directory that is about to be removed. Source: unshare(1), setpriv(1)."""


def run_script(script: Path, directory: Path, *arguments: str) -> float:
    """Run a script on a directory of its own; the seconds that it took."""
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / "script.log"
    started = time.monotonic()
    with log.open("wb") as output:
        ended = subprocess.run(
            [*APART, script, directory, *arguments], stdout=output, stderr=output, check=False
        )
    seconds = time.monotonic() - started
    if ended.returncode != 0:
        raise RuntimeError(f"the script failed:\n{log.read_text()[-3000:]}")
    return seconds
