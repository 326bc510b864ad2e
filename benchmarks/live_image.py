"""The whole live build through dcd beside the same tools run bare.

Both sides start without results and with the same files in the page cache, in turns, on one file system; so
whatever else the machine and the mirror do meets both. The first round warms the machine up and does not
count. dcd starts with no layers and an empty package store; its daemon has run for a few seconds, as that of
a build server has for days. Its time is from the start of `dcctl submit` to
the end of `dcctl follow`; the script's is its whole run. The boots of verify-boot are left out: they take as
long as they take. Both images must hold the same packages, or the comparison is void.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.daemon import children_cpu_seconds, daemon
from benchmarks.examples import Image, run_script, without_boots
from benchmarks.figure import Figure, ratios
from benchmarks.memory import fill, leave
from benchmarks.rounds import Rounds

SCRIPT = Path(__file__).with_name("bare-live-build.sh")
MOST_RATIO = 0.75

SETTLE_SECONDS = 5.0
"""The daemon has prepared itself for builds by then."""


@dataclass(frozen=True, slots=True)
class Side:
    """One build on one side: wall and CPU seconds."""

    wall: float
    cpu: float


def live_build(scratch: Path, rounds: Rounds) -> Iterator[Figure]:
    """The ratio, both sides, and where dcd's time goes."""
    manifest, image = without_boots(scratch, "debian-live.xml")
    bare: list[Side] = []
    through_dcd: list[Side] = []
    checkpoints: dict[str, list[float]] = {}
    _pair(scratch / "warm", manifest, image, ("bare", "dcd"))
    for number in rounds:
        # Each side is first in every other round.
        order = ("bare", "dcd")[:: 1 if number % 2 == 0 else -1]
        sides, status = _pair(scratch / f"round-{number}", manifest, image, order)
        bare.append(sides["bare"])
        through_dcd.append(sides["dcd"])
        for checkpoint in status["checkpoints"]:
            checkpoints.setdefault(checkpoint["name"], []).append(checkpoint["seconds"])
    ours, theirs = [side.wall for side in through_dcd], [side.wall for side in bare]
    yield Figure("dcd / bare tools", "", ratios(ours, theirs), most=MOST_RATIO)
    yield Figure("bare tools", "s", tuple(theirs))
    yield Figure("dcd", "s", tuple(ours))
    ours, theirs = [side.cpu for side in through_dcd], [side.cpu for side in bare]
    yield Figure("dcd / bare tools", "", ratios(ours, theirs), note="CPU time")
    yield Figure("bare tools", "s", tuple(theirs), note="CPU time")
    yield Figure("dcd", "s", tuple(ours), note="CPU time, with daemon")
    for name, seconds in checkpoints.items():
        yield Figure(f"checkpoint {name}", "s", tuple(seconds))


def bare_build(directory: Path, image: Image) -> tuple[float, str]:
    """Run the script; the seconds that it took, and the packages of its image."""
    seconds = run_script(SCRIPT, directory, image.suite, image.variant, *image.packages)
    return seconds, (directory / "packages.tsv").read_text()


def packages_of(status: dict[str, Any]) -> str:
    """The packages of a build's image, as the script lists them."""
    (listed,) = (each for each in status["artifacts"] if each["name"] == "packages.tsv")
    return Path(listed["path"]).read_text()


def _pair(
    work: Path, manifest: Path, image: Image, order: tuple[str, ...]
) -> tuple[dict[str, Side], dict[str, Any]]:
    """One build on each side, in this order; the status of dcd's."""
    sides: dict[str, Side] = {}
    packages: dict[str, str] = {}
    status: dict[str, Any] = {}
    for side in order:
        fill(work.parent)
        used = children_cpu_seconds()
        if side == "bare":
            wall, packages[side] = bare_build(work / side, image)
        else:
            with daemon(work / side) as running:
                time.sleep(SETTLE_SECONDS)
                status, wall = running.build(manifest)
                packages[side] = packages_of(status)
        sides[side] = Side(wall, children_cpu_seconds() - used)
        leave(work / side)
    if packages["bare"] != packages["dcd"]:
        raise RuntimeError("the two images do not hold the same packages")
    return sides, status
