"""The examples as benchmarks build them, and the scripts that make the same with bare tools."""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.rounds import Rounds
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


def with_package(manifest: Path, package: str, name: str | None = None) -> Path:
    """A copy of the manifest beside it, which installs one package more, and is called `name`."""
    tree = ElementTree.parse(manifest)  # noqa: S314 - our own
    (listed,) = tree.findall(".//software_data[@action='install']")
    ElementTree.SubElement(listed, "name").text = package
    (distro,) = tree.findall("distro")
    distro.set("name", name or str(distro.get("name")))
    copy = manifest.with_name(f"{manifest.stem}-{package}.xml")
    tree.write(copy)
    return copy


APART = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc"),
)
"""A script that is killed, or whose benchmark is, must leave no process and no mount behind, above all none
of the host's in a directory that is about to be removed. Source: unshare(1), setpriv(1)."""


def measured_apart(module: str, root: Path, rounds: Rounds) -> Any:
    """What a module prints as JSON when it runs on a system, in a mount namespace of its own."""
    arguments = [module, str(root), str(rounds.most), str(rounds.until)]
    measured = subprocess.run(
        [*APART, sys.executable, "-m", *arguments], stdout=subprocess.PIPE, check=True
    )
    return json.loads(measured.stdout)


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
