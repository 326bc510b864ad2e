"""Building again: the unchanged manifest, the last checkpoint changed, one package added.

Each round starts a daemon without layers and with an empty package store, and builds the example's live
image; that is the cold build. The changed manifests are built after it by the same daemon. The script with
the same package added is run in the same round: it always starts from nothing.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.daemon import Daemon, daemon
from benchmarks.examples import with_package, without_boots
from benchmarks.figure import Figure, ratios
from benchmarks.live_image import bare_build, packages_of
from benchmarks.memory import MOST_MIB, fill, leave, watched
from benchmarks.rounds import Rounds

MOST_UNCHANGED_SECONDS = 1.0
MOST_RATIO = 0.35
UNCHANGED_TIMES = 5
LAST = "create-iso"
"""The last checkpoint that the example lists."""
ADDED, GROWN = "htop", "tmux"


def added(scratch: Path, rounds: Rounds) -> Iterator[Figure]:
    """The seconds of each, the ratio of one package added to the cold build, and dcd's memory."""
    manifest, image = without_boots(scratch, "debian-live.xml")
    larger = replace(image, packages=(*image.packages, ADDED))
    last = last_changed(manifest)
    bare: list[float] = []
    cold: list[float] = []
    unchanged: list[float] = []
    changed_last: list[float] = []
    one_added: list[float] = []
    grown: list[float] = []
    memory: list[float] = []
    for number in rounds:
        directory = scratch / f"round-{number}"
        fill(scratch)
        seconds, packages = bare_build(directory / "bare", larger)
        bare.append(seconds)
        leave(directory / "bare")
        fill(scratch)
        with daemon(directory / "dcd") as running, watched(running) as used_bytes:
            cold.append(running.build(manifest)[1])
            unchanged += [_reuse(running, manifest) for _ in range(UNCHANGED_TIMES)]
            changed_last.append(_reuse(running, last, LAST))
            status, seconds = running.build(with_package(manifest, ADDED))
            one_added.append(seconds)
            if packages_of(status) != packages:
                raise RuntimeError("the two images do not hold the same packages")
            status, seconds = running.build(with_package(manifest, GROWN), "--grow")
            grown.append(seconds)
            if not status["checkpoints"][0]["grown_from"]:
                raise RuntimeError("the image did not grow")
        memory.append(max(used_bytes) / (1 << 20))
        leave(directory)
    yield Figure("one package grown / cold build", "", ratios(grown, cold), most=MOST_RATIO)
    yield Figure("one package added / cold build", "", ratios(one_added, cold), note="not grown")
    yield Figure("one package added / bare tools", "", ratios(one_added, bare))
    yield Figure("bare tools, with the package", "s", tuple(bare))
    yield Figure("cold build", "s", tuple(cold))
    yield Figure("one package added", "s", tuple(one_added), note="not grown")
    yield Figure("one package grown", "s", tuple(grown), note="--grow")
    yield Figure("unchanged manifest", "s", tuple(unchanged), most=MOST_UNCHANGED_SECONDS)
    yield Figure("last checkpoint changed", "s", tuple(changed_last), note="the ISO is made again")
    note = "daemon and workers beside the tools, highest of each round"
    yield Figure("memory", "MiB", tuple(memory), most=MOST_MIB, note=note)


def _reuse(running: Daemon, manifest: Path, changed: str = "") -> float:
    """Build again; the seconds. All checkpoints before the `changed` one must be reused."""
    status, seconds = running.build(manifest)
    states = [checkpoint["state"] for checkpoint in status["checkpoints"]]
    names = [checkpoint["name"] for checkpoint in status["checkpoints"]]
    first = names.index(changed) if changed else len(names)
    expected = ["reused"] * first + ["completed"] * (len(names) - first)
    if states != expected:
        raise RuntimeError(f"not what should be reused: {states}")
    return seconds


def last_changed(manifest: Path) -> Path:
    """A copy of the manifest beside it, with another argument of its last checkpoint."""
    tree = ElementTree.parse(manifest)  # noqa: S314 - our own
    last = tree.findall(".//execution/checkpoint")[-1]
    argument = ElementTree.SubElement(ElementTree.SubElement(last, "kwargs"), "arg")
    argument.set("name", "volume_id")
    argument.text = "CHANGED"
    changed = manifest.with_name("last-changed.xml")
    tree.write(changed)
    return changed
