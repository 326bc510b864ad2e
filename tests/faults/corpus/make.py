"""Makes a corpus: `python tests/faults/corpus/make.py NAME` writes NAME.sql and NAME.json.

Run once for each released revision of the event log, with the code of that release (NAME is the revision),
and when there is a new event or a new version of one (NAME is REVISION-WORDS). The files never change
afterwards. The log holds every event type. The JSON says what the code made of it, which every later version
must make of it too.
"""

import json
import sqlite3
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from statemachine import commands as do
from statemachine.build import CheckpointRecord
from statemachine.commands import Change, decide, submit
from statemachine.events import (
    Actor,
    ArtifactPublished,
    BuildCancelled,
    BuildCompleted,
    BuildPlaced,
    BuildSubmitted,
    CheckpointCompleted,
    CheckpointReused,
    CheckpointStarted,
    InputFile,
    LayerDamaged,
    Payload,
    ResourceClaimed,
)
from statemachine.keys import chain, with_external
from statemachine.machine import BuildMachine
from statemachine.plan import Ingredient, Locked, Plan, PlannedCheckpoint
from statemachine.results import Artifact, ErrorInfo
from store.eventlog import EventLog, SqliteLog
from store.eventlog.sqlite.schema import APPLICATION_ID

HERE = Path(__file__).parent
PERSON = Actor(uid=1000, gid=1000, pid=4711, user="ada")
DAEMON = Actor()
BOOT = "3c9c2f10-0000-4000-8000-000000000001"


def plan(*names: str, code: str = "1") -> Plan:
    """A plan whose last checkpoint has external state."""
    return chain(
        PlannedCheckpoint(
            name,
            description=f"does {name}",
            mod_path="dcd/checkpoints/custom_script",
            checkpoint_class="CustomScript",
            key="",
            ingredients=(
                Ingredient("class", "class", "11"),
                Ingredient("code", "code", code, line=7),
                *([Ingredient("external", "bookworm", "22")] if name == names[-1] else []),
            ),
            args=("true",),
            kwargs={"network": True, "environment": ["A=ä"], "timeout_seconds": 1.5},
            estimate_seconds=12.5,
            network=True,
            tools=("tar",),
            disk_bytes=1 << 20,
        )
        for name in names
    )


class History:
    """Appends what commands come to, an event a second."""

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def submit(self, build: str, submitted: BuildSubmitted) -> None:
        self._append(build, 0, submit(submitted), PERSON)

    def do(self, build: str, *changes: Change, actor: Actor = DAEMON) -> None:
        for change in changes:
            machine = BuildMachine.rehydrate(self.log.read_build(build))
            self._append(build, machine.state.sequence, decide(machine, change), actor)

    def run(self, build: str, **external: str) -> None:
        """Start and complete the next checkpoint."""
        self.start(build, **external)
        iso = Artifact("live.iso", "media/live.iso", "iso", 5, "33")
        self.do(build, self.completed(build, 2.5, artifacts=(iso,), size_bytes=4096))

    def start(self, build: str, host: str = "", **external: str) -> str:
        state = BuildMachine.rehydrate(self.log.read_build(build)).state
        record = state.next
        assert record is not None
        index = state.index(record.name)
        planned = with_external(state.plan, index, external) if external else state.plan
        key = planned.checkpoints[index].key
        attempt = state.next_attempt(record.name)
        log = f"/var/lib/dcd/logs/{build}/{record.name}.{attempt}.log"
        self.do(
            build,
            CheckpointStarted(record.name, attempt, key, log, BOOT, external, host=host),
        )
        return record.name

    def completed(self, build: str, seconds: float, **result: Any) -> CheckpointCompleted:
        running = self._running(build)
        return CheckpointCompleted(running.name, running.attempts, running.key, seconds, **result)

    def claimed(self, build: str, kind: str, name: str) -> ResourceClaimed:
        running = self._running(build)
        return ResourceClaimed(running.name, running.attempts, kind, name)

    def _running(self, build: str) -> CheckpointRecord:
        running = BuildMachine.rehydrate(self.log.read_build(build)).state.running
        assert running is not None
        return running

    def _append(
        self, build: str, sequence: int, payloads: tuple[Payload, ...], actor: Actor
    ) -> None:
        self.time += timedelta(seconds=1)
        self.log.append(build, sequence, payloads, actor, self.time).result()


def write_history(log: EventLog) -> None:
    """Builds that between them meet every event."""
    history = History(log)
    three = plan("transfer", "configure", "iso")
    first = BuildSubmitted(
        name="live",
        manifest="<dc><distro name='live'/></dc>",
        manifest_path="/home/ada/live.xml",
        plan=three,
        inputs=(InputFile("/home/ada/motd", "44", 0o755),),
        parameters={"hostname": "büro"},
        pause_before="configure",
        priority=3,
        idempotency_key="nightly",
    )
    history.submit("aaaaaaaaaa", first)
    history.do("aaaaaaaaaa", do.Start())
    history.run("aaaaaaaaaa")
    history.do("aaaaaaaaaa", do.Pause("paused before configure as requested"))
    history.do("aaaaaaaaaa", do.Resume(), do.Start(), actor=PERSON)
    name = history.start("aaaaaaaaaa")
    error = ErrorInfo("sh failed", "its last lines: no", "mend it")
    history.do("aaaaaaaaaa", do.FailCheckpoint(name, error, 1.25))
    new = do.Replacement("<dc/>", "/home/ada/new.xml", plan("transfer", "iso", code="1"))
    history.do("aaaaaaaaaa", do.Resume(replacement=new), do.Start(), actor=PERSON)
    name = history.start("aaaaaaaaaa", bookworm="55")
    history.do("aaaaaaaaaa", do.InterruptCheckpoint(name, "daemon-died"))
    history.run("aaaaaaaaaa", bookworm="55")
    iso = Artifact("live.iso", "/var/lib/dcd/artifacts/aaaaaaaaaa/live.iso", "iso", 5, "33")
    history.do("aaaaaaaaaa", ArtifactPublished(iso), BuildCompleted(6.25))

    history.submit("bbbbbbbbbb", BuildSubmitted("live", "<dc/>", "/live.xml", three, fresh=True))
    history.do("bbbbbbbbbb", do.Start())
    key = three.checkpoints[0].key
    history.do("bbbbbbbbbb", CheckpointReused("transfer", key, "aaaaaaaaaa", external={}))
    name = history.start("bbbbbbbbbb")
    history.do("bbbbbbbbbb", do.RequestPause(), actor=PERSON)
    history.do("bbbbbbbbbb", history.completed("bbbbbbbbbb", 1.0), do.Pause("as requested"))
    history.do("bbbbbbbbbb", do.Resume(from_checkpoint="transfer"), actor=PERSON)
    history.do("bbbbbbbbbb", do.Start())
    name = history.start("bbbbbbbbbb")
    full = "no space left while making a workspace"
    history.do("bbbbbbbbbb", do.InterruptCheckpoint(name, "no-space", full))

    history.submit("cccccccccc", BuildSubmitted("other", "<dc/>", "/other.xml", plan("only")))
    history.do("cccccccccc", do.Start())
    name = history.start("cccccccccc")
    history.do("cccccccccc", do.RequestCancel(), actor=PERSON)
    history.do("cccccccccc", do.InterruptCheckpoint(name, "cancelled"), BuildCancelled())
    history.do("cccccccccc", do.Remove(), actor=PERSON)

    history.submit("dddddddddd", BuildSubmitted("hard", "<dc/>", "/hard.xml", plan("only")))
    history.do("dddddddddd", do.Start())
    for cause in ("daemon-died", "machine-rebooted", "worker-died"):
        name = history.start("dddddddddd")
        history.do(
            "dddddddddd", history.claimed("dddddddddd", "iscsi-tgt", "iqn.2026-11.invalid.dcd:d")
        )
        history.do("dddddddddd", do.InterruptCheckpoint(name, cause, "the worker was killed"))

    pauses = BuildSubmitted("pauses", "<dc/>", "/p.xml", plan("one", "two"), pause_before="two")
    history.submit("eeeeeeeeee", pauses)
    history.do("eeeeeeeeee", do.Start())
    history.do("eeeeeeeeee", do.WithdrawPause())

    lock = Locked(("66" * 32,), {"less": "590-2"})
    history.submit(
        "ffffffffff", BuildSubmitted("locked", "<dc/>", "/l.xml", plan("only"), locked=lock)
    )
    history.do("ffffffffff", do.Start())
    key = plan("only").checkpoints[0].key
    history.do("ffffffffff", LayerDamaged("only", key, "aaaaaaaaaa", "pkg_image/etc/motd: sha256"))
    history.start("ffffffffff")
    history.do(
        "ffffffffff",
        history.completed("ffffffffff", 1.0, resolved="77" * 32, content="88" * 32),
    )

    history.submit("gggggggggg", BuildSubmitted("moved", "<dc/>", "/m.xml", plan("only")))
    history.do("gggggggggg", BuildPlaced("a", 1), do.Start())
    name = history.start("gggggggggg", host="a")
    history.do("gggggggggg", BuildPlaced("b", 2), do.InterruptCheckpoint(name, "host-lost"))
    history.start("gggggggggg", host="b")
    history.do("gggggggggg", do.RequestMove("c"))


def summary(log: EventLog, build: str) -> dict[str, object]:
    """What a fold makes of a build, in words that later versions can say too."""
    state = BuildMachine.rehydrate(log.read_build(build)).state
    return {
        "state": str(state.lifecycle),
        "reason": state.reason,
        "sequence": state.sequence,
        "hash": state.hash,
        "pause_before": state.pause_before,
        "checkpoints": [[c.name, str(c.state), c.key, c.attempts] for c in state.checkpoints],
        "published": [artifact.name for artifact in state.published],
    }


def main(name: str) -> None:
    """Write the corpus of this version."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "events.db"
        with SqliteLog(path) as log:
            write_history(log)
            states = {build: summary(log, build) for build in sorted({e.build for e in log.read()})}
        with sqlite3.connect(path) as database:
            statements = [f"PRAGMA application_id={APPLICATION_ID};", *database.iterdump()]
    (HERE / f"{name}.sql").write_text("\n".join(statements) + "\n")
    (HERE / f"{name}.json").write_text(json.dumps(states, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
