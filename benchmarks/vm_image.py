"""The disk of a virtual machine and its seven formats, through dcd beside the same tools run bare.

Both sides begin with an image area that is ready and end with everything checked, held against the disk and
digested. dcd's time is from the start of create-disk to the end of the build, as the event log has them;
the script's is its whole run. They take turns, so that whatever else the machine does meets both. The
image areas must hold the same packages, or the comparison is void.
"""

import json
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.daemon import Daemon, children_cpu_seconds, daemon
from benchmarks.examples import run_script, without_boots
from benchmarks.figure import Figure, ratios
from benchmarks.rounds import Rounds

SCRIPT = Path(__file__).with_name("bare-vm-build.sh")
MOST_RATIO = 0.65
FIRST = "create-disk"


def vm_disk(scratch: Path, rounds: Rounds) -> Iterator[Figure]:
    """The ratio, both sides, and where dcd's time goes."""
    manifest, image = without_boots(scratch, "debian-vm.xml")
    by_hand = scratch / "bare"
    run_script(SCRIPT, by_hand, "prepare", image.suite, image.variant, *image.packages)
    bare: list[float] = []
    bare_cpu: list[float] = []
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
                if side == "bare":
                    used = children_cpu_seconds()
                    bare.append(run_script(SCRIPT, by_hand, "disk"))
                    bare_cpu.append(children_cpu_seconds() - used)
                    continue
                status, _ = running.build(manifest, "--fresh-from", FIRST)
                through_dcd.append(_seconds_from(running, status["id"], FIRST))
                for checkpoint in status["checkpoints"]:
                    if checkpoint["state"] == "completed":
                        seconds = checkpoints.setdefault(checkpoint["name"], [])
                        seconds.append(checkpoint["seconds"])
                running.ctl("rm", status["id"])
    shutil.rmtree(by_hand)
    yield Figure("dcd / bare tools", "", ratios(through_dcd, bare), most=MOST_RATIO)
    yield Figure("bare tools", "s", tuple(bare))
    yield Figure("dcd", "s", tuple(through_dcd))
    yield Figure("bare tools", "s", tuple(bare_cpu), note="CPU time")
    for name, seconds in checkpoints.items():
        yield Figure(f"checkpoint {name}", "s", tuple(seconds))


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
