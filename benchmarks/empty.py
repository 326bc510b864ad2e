"""The cost of a checkpoint that does nothing: from its start to its layer, by its events."""

import json
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from benchmarks.daemon import Daemon, daemon
from benchmarks.figure import Figure
from benchmarks.rounds import Rounds

MOST_SECONDS = 0.05
CHECKPOINTS = 20
_CHECKPOINT = """<checkpoint name="c{number}" mod_path="dcd/checkpoints/custom_script"
 checkpoint_class="CustomScript"><args>true # {number}</args></checkpoint>"""
_MANIFEST = '<dc><distro name="empty"><execution>{checkpoints}</execution></distro></dc>'


def empty(scratch: Path, rounds: Rounds) -> Iterator[Figure]:
    """Twenty checkpoints a round, one after another, on layers of each other; and what a shell takes for the
    same command."""
    steps = "".join(_CHECKPOINT.format(number=number) for number in range(CHECKPOINTS))
    manifest = scratch / "empty.xml"
    manifest.write_text(_MANIFEST.format(checkpoints=steps))
    each: list[float] = []
    share: list[float] = []
    bare: list[float] = []
    with daemon(scratch / "empty") as running:
        for _ in rounds:
            began = time.monotonic()
            for _ in range(CHECKPOINTS):
                subprocess.run(["/bin/sh", "-c", "true"], check=True)
            bare.append((time.monotonic() - began) / CHECKPOINTS)
            status, seconds = running.build(manifest, "--fresh")
            each += _checkpoint_seconds(running, status["id"])
            share.append(seconds / CHECKPOINTS)
    yield Figure("empty checkpoint", "s", tuple(each), most=MOST_SECONDS)
    yield Figure(f"build of {CHECKPOINTS}, for each", "s", tuple(share), note="with dcctl")
    yield Figure("bare shell", "s", tuple(bare))


def _checkpoint_seconds(running: Daemon, build: str) -> list[float]:
    """The seconds from the start of each checkpoint to its completion."""
    started, found = {}, []
    for line in running.ctl("events", build, "--json").splitlines():
        event = json.loads(line)
        at = datetime.fromisoformat(event["time"])
        if event["type"] == "CheckpointStarted":
            started[event["data"]["checkpoint"]] = at
        elif event["type"] == "CheckpointCompleted":
            found.append((at - started[event["data"]["checkpoint"]]).total_seconds())
    return found
