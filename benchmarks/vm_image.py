"""The disk of a virtual machine and its seven formats, through dcd beside the same tools run bare.

Both sides begin with an image area that is ready and end with everything checked, held against the disk and
digested. dcd's time is from the start of create-disk to the end of the build, as the event log has them;
the script's is its whole run. They take turns, so that whatever else the machine does meets both. The
image areas must hold the same packages, or the comparison is void.

All formats together are compared with the slowest one alone: with the tool's, and with dcd's own, which uses
all processors already.
"""

import json
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.daemon import Daemon, children_cpu_seconds, daemon
from benchmarks.examples import run_script, without_boots
from benchmarks.figure import Figure, ratios
from benchmarks.memory import fill
from benchmarks.rounds import Rounds

SCRIPT = Path(__file__).with_name("bare-vm-build.sh")
MOST_RATIO = 0.65
MOST_OF_SLOWEST = 1.02
SLOWEST = "streamOptimized"
FORMATS = ("convert", "ova")
"""The checkpoints that make the formats."""
FIRST = "create-disk"


def vm_disk(scratch: Path, rounds: Rounds) -> Iterator[Figure]:
    """The ratio, both sides, and where dcd's time goes."""
    manifest, image = without_boots(scratch, "debian-vm.xml")
    alone = slowest_alone(manifest)
    by_hand = scratch / "bare"
    run_script(SCRIPT, by_hand, "prepare", image.suite, image.variant, *image.packages)
    bare: list[float] = []
    bare_cpu: list[float] = []
    bare_slowest: list[float] = []
    own_slowest: list[float] = []
    through_dcd: list[float] = []
    checkpoints: dict[str, list[float]] = {}
    with daemon(scratch / "dcd") as running:
        status, _ = running.build(manifest)
        if _packages(status) != (by_hand / "packages.tsv").read_text():
            raise RuntimeError("the two images do not hold the same packages")
        running.ctl("rm", status["id"])
        for number in rounds:
            # Each side is first in every other round.
            for side in ("bare", "dcd")[:: 1 if number % 2 == 0 else -1]:
                os.sync()  # else a side writes to the disk what the other has left in memory
                fill(scratch)
                if side == "bare":
                    used = children_cpu_seconds()
                    bare.append(run_script(SCRIPT, by_hand, "disk"))
                    bare_cpu.append(children_cpu_seconds() - used)
                    bare_slowest.append(run_script(SCRIPT, by_hand, "slowest"))
                    continue
                status, _ = running.build(manifest, "--fresh-from", FIRST)
                through_dcd.append(_seconds_from(running, status["id"], FIRST))
                for checkpoint in status["checkpoints"]:
                    if checkpoint["state"] == "completed":
                        seconds = checkpoints.setdefault(checkpoint["name"], [])
                        seconds.append(checkpoint["seconds"])
                running.ctl("rm", status["id"])
                status, _ = running.build(alone, "--fresh-from", "convert")
                own_slowest += [
                    checkpoint["seconds"]
                    for checkpoint in status["checkpoints"]
                    if checkpoint["name"] == "convert"
                ]
                running.ctl("rm", status["id"])
    yield Figure("dcd / bare tools", "", ratios(through_dcd, bare), most=MOST_RATIO)
    yield Figure("bare tools", "s", tuple(bare))
    yield Figure("dcd", "s", tuple(through_dcd))
    yield Figure("bare tools", "s", tuple(bare_cpu), note="CPU time")
    together = [sum(pair) for pair in zip(*(checkpoints[name] for name in FORMATS), strict=True)]
    yield Figure(
        "all formats / slowest one alone",
        "",
        ratios(together, bare_slowest),
        most=MOST_OF_SLOWEST,
        note="dcd / bare tools",
    )
    yield Figure(
        "all formats / slowest one alone", "", ratios(together, own_slowest), note="dcd / dcd"
    )
    yield Figure("slowest format alone", "s", tuple(bare_slowest), note="bare tools")
    yield Figure("slowest format alone", "s", tuple(own_slowest), note="dcd")
    for name, seconds in checkpoints.items():
        yield Figure(f"checkpoint {name}", "s", tuple(seconds))


def slowest_alone(manifest: Path) -> Path:
    """A copy of the manifest beside it, which delivers the slowest format alone."""
    tree = ElementTree.parse(manifest)  # noqa: S314 - our own
    (machine,) = tree.findall(".//vm_im")
    for each in machine.findall("vm_format"):
        if each.get("subformat") != SLOWEST:
            machine.remove(each)
    (execution,) = tree.findall(".//execution")
    for checkpoint in execution.findall("checkpoint[@checkpoint_class='CreateOVA']"):
        execution.remove(checkpoint)
    copy = manifest.with_name("slowest.xml")
    tree.write(copy)
    return copy


def _packages(status: dict[str, Any]) -> str:
    artifacts = {artifact["name"]: artifact for artifact in status["artifacts"]}
    return Path(artifacts["packages.tsv"]["path"]).read_text()


def _seconds_from(running: Daemon, build: str, checkpoint: str) -> float:
    """The seconds from the start of a checkpoint to the end of the build."""
    events = [json.loads(line) for line in running.ctl("events", build, "--json").splitlines()]
    [started] = [
        event
        for event in events
        if event["type"] == "CheckpointStarted" and event["data"]["checkpoint"] == checkpoint
    ]
    [completed] = [event for event in events if event["type"] == "BuildCompleted"]
    return (_time(completed) - _time(started)).total_seconds()


def _time(event: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(event["time"])
