"""Four different images: on one daemon at once, and by four scripts one after another.

The images are the example's live image, each with another package. The daemon starts without layers and with
an empty package store, and runs as many builds at once as its settings say by default.
"""

import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.daemon import Daemon, daemon
from benchmarks.examples import with_package, without_boots
from benchmarks.figure import Figure, ratios
from benchmarks.live_image import bare_build, packages_of
from benchmarks.memory import MOST_MIB, fill, leave, watched
from benchmarks.rounds import Rounds

MOST_RATIO = 0.8
PACKAGES = ("htop", "tmux", "strace", "gdisk")


def several(scratch: Path, rounds: Rounds) -> Iterator[Figure]:
    """The ratio, both sides, and the memory of the daemon and its workers."""
    manifest, image = without_boots(scratch, "debian-live.xml")
    manifests = [with_package(manifest, name, f"live-{name}") for name in PACKAGES]
    images = [replace(image, packages=(*image.packages, name)) for name in PACKAGES]
    bare: list[float] = []
    through_dcd: list[float] = []
    memory: list[float] = []
    for number in rounds:
        lists: dict[str, list[str]] = {}
        # Each side is first in every other round.
        for side in ("bare", "dcd")[:: 1 if number % 2 == 0 else -1]:
            work = scratch / f"round-{number}" / side
            fill(scratch)
            if side == "bare":
                built = [bare_build(work / str(n), each) for n, each in enumerate(images)]
                bare.append(sum(seconds for seconds, _ in built))
                lists[side] = [packages for _, packages in built]
            else:
                with daemon(work) as running, watched(running) as used_bytes:
                    seconds, lists[side] = _at_once(running, manifests)
                through_dcd.append(seconds)
                memory.append(max(used_bytes) / (1 << 20))
            leave(work)
        if lists["bare"] != lists["dcd"]:
            raise RuntimeError("the images of the two sides do not hold the same packages")
    yield Figure("dcd / bare tools", "", ratios(through_dcd, bare), most=MOST_RATIO)
    yield Figure("bare tools", "s", tuple(bare))
    yield Figure("dcd", "s", tuple(through_dcd))
    note = "daemon and workers beside the tools, highest of each round"
    yield Figure("memory", "MiB", tuple(memory), most=MOST_MIB, note=note)


def _at_once(running: Daemon, manifests: list[Path]) -> tuple[float, list[str]]:
    """Submit all, and wait for all; the seconds, and the packages of each image."""
    started = time.monotonic()
    builds = [running.ctl("submit", manifest).strip() for manifest in manifests]
    for build in builds:
        try:
            running.ctl("follow", build)
        except subprocess.CalledProcessError:
            raise RuntimeError(f"the build failed:\n{running.ctl('status', build)}") from None
    seconds = time.monotonic() - started
    return seconds, [packages_of(running.json("status", build)) for build in builds]
