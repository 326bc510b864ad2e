"""(a) The whole live build through dcd beside the same tools run bare; (b) building it again.

Both sides start from nothing but a warm page cache, in turns, so that whatever else the machine and the
mirror do meets both. dcd's time is from the start of `dcctl submit` to the end of `dcctl follow`; the
script's is its whole run. The boots of verify-boot are left out: they take as long as they take. Both
images must hold the same packages, or the comparison is void.
"""

import shutil
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.daemon import Daemon, children_cpu_seconds, daemon
from benchmarks.examples import Image, run_script, without_boots
from benchmarks.figure import Figure
from dcd.platform.apt import host_apt, sources_for
from dcd.platform.asking import ask_releases

SCRIPT = Path(__file__).with_name("bare-live-build.sh")
MOST_RATIO = 1.05
MOST_REUSE_SECONDS = 2.0
REUSE_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Side:
    """One build on one side: wall and CPU seconds."""

    wall: float
    cpu: float


def live_build(scratch: Path, rounds: int) -> Iterator[Figure]:
    """(a): the ratio, both sides, and where dcd's time goes."""
    manifest, image = without_boots(scratch, "debian-live.xml")
    bare: list[Side] = []
    through_dcd: list[Side] = []
    checkpoints: dict[str, list[float]] = {}
    for number in range(rounds):
        work = scratch / f"round-{number}"
        packages: dict[str, str] = {}
        # Each side is first in every other round.
        for side in ("bare", "dcd")[:: 1 if number % 2 == 0 else -1]:
            used = children_cpu_seconds()
            if side == "bare":
                wall, packages[side] = _bare(work / side, image)
                bare.append(Side(wall, children_cpu_seconds() - used))
            else:
                wall, packages[side], status = _through_dcd(work / side, manifest)
                through_dcd.append(Side(wall, children_cpu_seconds() - used))
                for checkpoint in status["checkpoints"]:
                    checkpoints.setdefault(checkpoint["name"], []).append(checkpoint["seconds"])
        if packages["bare"] != packages["dcd"]:
            raise RuntimeError("the two images do not hold the same packages")
        shutil.rmtree(work)
    ratio = statistics.median(s.wall for s in through_dcd) / statistics.median(s.wall for s in bare)
    yield Figure("dcd / bare tools", "", (ratio,), most=MOST_RATIO, note="wall time, medians")
    yield Figure("bare tools", "s", tuple(side.wall for side in bare))
    yield Figure("dcd", "s", tuple(side.wall for side in through_dcd))
    yield Figure("bare tools", "s", tuple(side.cpu for side in bare), note="CPU time")
    yield Figure("dcd", "s", tuple(side.cpu for side in through_dcd), note="CPU time, with daemon")
    for name, seconds in checkpoints.items():
        yield Figure(f"checkpoint {name}", "s", tuple(seconds))


def rebuild(scratch: Path, rounds: int) -> Iterator[Figure]:
    """(b): the unchanged manifest, and one whose last checkpoint is changed."""
    manifest, image = without_boots(scratch, "debian-live.xml")
    check = [_repository_check(image) for _ in range(max(rounds, REUSE_ROUNDS))]
    with daemon(scratch / "rebuild") as running:
        running.build(manifest)
        unchanged = [_reuse(running, manifest, 0) for _ in range(max(rounds, REUSE_ROUNDS))]
        changed = []
        for number in range(max(rounds, REUSE_ROUNDS)):
            _change_last(manifest, f"CHANGED-{number}")
            changed.append(_reuse(running, manifest, 1))
    allowed = statistics.median(check) + MOST_REUSE_SECONDS
    yield Figure("repository check alone", "s", tuple(check), note="InRelease of each source")
    yield Figure("unchanged manifest", "s", tuple(unchanged), most=allowed)
    yield Figure("last checkpoint changed", "s", tuple(changed), note="the ISO is made again")


def _bare(directory: Path, image: Image) -> tuple[float, str]:
    """The seconds that the script took, and the packages of its image."""
    seconds = run_script(SCRIPT, directory, image.suite, image.variant, *image.packages)
    return seconds, (directory / "packages.tsv").read_text()


def _through_dcd(directory: Path, manifest: Path) -> tuple[float, str, dict[str, Any]]:
    """The seconds that dcd took, the packages of its image, and the build's status."""
    with daemon(directory) as running:
        status, seconds = running.build(manifest)
        artifacts = {artifact["name"]: artifact for artifact in status["artifacts"]}
        packages = Path(artifacts["packages.tsv"]["path"]).read_text()
    return seconds, packages, status


def _reuse(running: Daemon, manifest: Path, to_run: int) -> float:
    """Build again; the seconds. All but the last `to_run` checkpoints must be reused."""
    status, seconds = running.build(manifest)
    states = [checkpoint["state"] for checkpoint in status["checkpoints"]]
    expected = ["reused"] * (len(states) - to_run) + ["completed"] * to_run
    if states != expected:
        raise RuntimeError(f"not what should be reused: {states}")
    return seconds


def _change_last(manifest: Path, volume_id: str) -> None:
    tree = ElementTree.parse(manifest)  # noqa: S314 - our own
    last = tree.findall(".//execution/checkpoint")[-1]
    for given in last.findall("kwargs"):
        last.remove(given)
    argument = ElementTree.SubElement(ElementTree.SubElement(last, "kwargs"), "arg")
    argument.set("name", "volume_id")
    argument.text = volume_id
    tree.write(manifest)


def _repository_check(image: Image) -> float:
    started = time.monotonic()
    host = host_apt()
    ask_releases(sources_for(host.sources, image.suite), host)
    return time.monotonic() - started
