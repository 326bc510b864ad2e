"""A soak of a farm: real members on a real database, which die, freeze, lose their network and their database
at random, while people submit, move, pause and cancel builds through any of them.

    python -m tests.faults.farm_soak --minutes 30

Needs root, and what the tests need. In the end all members come back, every build ends, and the promises of
docs/promises.md are examined with queries of this module's own: it exits with 1 when one does not hold. The
numbers go to standard output as JSON.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg

from cli import client
from cli.client import ClientError
from dcd.farm.install import create_queue
from dcd.platform.host_labels import host_labels
from store.eventlog.postgresql.administration import init
from store.eventlog.postgresql.log import PostgresqlLog
from store.eventlog.postgresql.members import add, role_of
from tests.conftest import Daemon
from tests.farms import violations
from tests.network import Network
from tests.postgresql import Cluster

HOSTS = ("a", "b", "c", "d")
REMOTE = ("c", "d")
"""Those that reach the database over the network that is cut."""

LOST_SECONDS = 4.0
LONGEST_SECONDS = 3 * LOST_SECONDS
"""Of the absence of a member, or of the network."""

SHORT_SECONDS = LOST_SECONDS / 2
"""Of the absence of the database. After it no member calls another one lost for a while."""

CALM_SECONDS = 12.0
"""The longest time between two strikes: while something is away always, no build can move or be lost."""

MOST_LIVING = 10
"""Builds that have not ended."""

ANSWER_SECONDS = 15.0
END_SECONDS = 600.0
"""The time for all builds to end once nothing happens any more."""

STEP = """<checkpoint name="{name}" mod_path="dcd/checkpoints/custom_script"
 checkpoint_class="CustomScript"><args>: {build}; sleep {seconds:.1f}</args></checkpoint>"""
STEPS = ("one", "two", "three")


class Soak:
    """A farm, what people were told of it, and what happened to it."""

    def __init__(self, place: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.happened: Counter[str] = Counter()
        self.told: dict[int, str] = {}
        """The hashes of the events that people were shown, by position."""
        self.submitted: list[str] = []
        self.away: dict[str, Callable[[], None]] = {}
        """What brings back what is away: members, `database`, and `network`."""
        self.back_at: dict[str, float] = {}
        self.over = threading.Event()
        self.network = Network(use=1)
        self.cluster = Cluster()
        with (self.cluster.data / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {Network.range} trust\n")
        self._serve()
        with psycopg.connect(self.cluster.dsn(), autocommit=True) as connection:
            connection.execute("CREATE DATABASE farm TEMPLATE template0")
        self.administrator = self.cluster.dsn("farm")
        init(self.administrator)
        create_queue(self.administrator)
        self.members: dict[str, Daemon] = {}
        for host in HOSTS:
            add(self.administrator, host, sorted(host_labels()))
            (place / host).mkdir()
            member = self.members[host] = Daemon(place / host)
            dsn = self.cluster.dsn("farm", role_of(host))
            if host in REMOTE:
                dsn = dsn.replace(f"host={self.cluster.place}", f"host={self.network.server}")
            member.tables = f'[farm]\ndatabase = "{dsn}"\nlost_seconds = {LOST_SECONDS}\n'
            member.launch = subprocess.Popen
            member.spawn()
        for member in self.members.values():
            member.wait_until_ready()

    def _serve(self) -> None:
        self.cluster.start(f"listen_addresses={self.network.server}", namespace=self.network.space)

    def remove(self) -> None:
        """End all processes, and remove what is not in the directory."""
        for member in self.members.values():
            if member.process is not None and member.process.poll() is None:
                member.process.send_signal(signal.SIGCONT)
                member.kill()
        self.cluster.remove()
        self.network.remove()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the database as its administrator."""
        with psycopg.connect(self.administrator) as connection:
            return connection.execute(query).fetchall()

    # People

    def ask(self, method: str, path: str, **more: Any) -> Any:
        """The answer of a member that is there; None when it refuses, or does not answer."""
        there = [host for host in HOSTS if host not in self.away]
        socket = self.members[self.chance.choice(there)].socket
        try:
            return client.request(str(socket), method, path, timeout_seconds=ANSWER_SECONDS, **more)
        except ClientError:
            self.happened["refused or unanswered"] += 1
            return None

    def people(self, chance: random.Random) -> None:
        """Give commands, and look at builds, until it is over."""
        while not self.over.wait(chance.uniform(0.1, 0.6)):
            living = []
            with suppress(psycopg.Error):
                living = [str(build) for (build,) in self.rows(_LIVING)]
                if len(living) < MOST_LIVING:
                    self.submit(chance)
            if living:
                build = chance.choice(living)
                wish = chance.choice(("look",) * 6 + ("move", "move", "pause", "resume", "cancel"))
                if wish == "look" or (wish == "cancel" and chance.random() < 0.5):
                    self.look(build)
                elif self.ask("POST", client.build_path(build, wish), body=_BODIES.get(wish)):
                    self.happened[wish] += 1

    def submit(self, chance: random.Random) -> None:
        """Submit a build, and remember it if that is acknowledged."""
        name = f"soak-{chance.getrandbits(48):x}"
        steps = "".join(
            STEP.format(name=step, build=name, seconds=chance.uniform(0.2, 3)) for step in STEPS
        )
        text = f'<dc><distro name="soak"><execution>{steps}</execution></distro></dc>'
        body = {"manifest": {"path": "/soak.xml", "text": text}}
        if answer := self.ask("POST", "/v1/builds", body=body):
            self.submitted.append(answer["id"])

    def look(self, build: str) -> None:
        """Remember the events that a member shows of a build."""
        path = client.build_path(build, "events")
        if answer := self.ask("GET", path, query={"limit": 1000}):
            for event in answer["events"]:
                assert self.told.setdefault(event["position"], event["hash"]) == event["hash"]

    # Fate

    def strike(self) -> None:
        """Let one thing happen to what is there."""
        there = [host for host in HOSTS if host not in self.away]
        fate = self.chance.choice(("kill", "kill", "freeze", "stop", "crash", "cut", "drain"))
        host = self.chance.choice(there)
        member = self.members[host]
        process = member.process
        assert process is not None
        match fate:
            case "crash" if "database" not in self.away:
                self.cluster.stop(signal.SIGQUIT)
                self._leaves("database", self._serve, SHORT_SECONDS)
            case "cut" if "network" not in self.away:
                self.network.cut()
                self._leaves("network", self.network.join, LONGEST_SECONDS)
            case "drain":
                path = f"/v1/hosts/{host}/{self.chance.choice(('drain', 'resume', 'resume'))}"
                if self.ask("POST", path) is None:
                    return
            case "kill" | "freeze" | "stop" if len(there) > 1 and process.poll() is None:
                if fate == "kill":
                    member.kill()
                elif fate == "stop":
                    process.send_signal(signal.SIGTERM)
                else:
                    process.send_signal(signal.SIGSTOP)
                wake = lambda: process.send_signal(signal.SIGCONT)  # noqa: E731
                back = wake if fate == "freeze" else lambda: self._spawn(member)
                self._leaves(host, back, LONGEST_SECONDS)
            case _:
                return
        self.happened[fate] += 1

    def _leaves(self, what: str, back: Callable[[], None], longest_seconds: float) -> None:
        self.away[what] = back
        self.back_at[what] = time.monotonic() + self.chance.uniform(0, longest_seconds)

    def _spawn(self, member: Daemon) -> None:
        assert member.process is not None
        member.process.wait(60)
        member.wait_for_launcher()
        member.spawn()

    def bring_back(self, everything: bool = False) -> None:
        """Bring back what has been away for its time, and start members that have ended by themselves, as
        the supervisor of a host does."""
        for what in [each for each in self.away if each not in HOSTS] + list(HOSTS):
            if what in self.away and (everything or self.back_at[what] < time.monotonic()):
                self.away[what]()
                del self.away[what]
        for host, member in self.members.items():
            if host not in self.away and member.process and member.process.poll() is not None:
                self.happened["ended by themselves"] += 1
                self._spawn(member)

    def run(self, seconds: float) -> None:
        """Let people and fate do what they do for so long, then let everything end."""
        ends = time.monotonic() + seconds
        crowd = [
            threading.Thread(target=self.people, args=(random.Random(self.chance.random()),))
            for _ in range(2)
        ]
        for person in crowd:
            person.start()
        try:
            strikes_at = 0.0
            while (now := time.monotonic()) < ends:
                if now > strikes_at:
                    self.strike()
                    strikes_at = now + self.chance.uniform(0, CALM_SECONDS)
                time.sleep(0.2)
                self.bring_back()
        finally:
            self.over.set()
            for person in crowd:
                person.join()
        self.bring_back(everything=True)
        deadline = time.monotonic() + END_SECONDS
        while living := self.rows(_LIVING):
            assert time.monotonic() < deadline, f"these builds do not end: {living}"
            time.sleep(1)
            self.bring_back()
            for host in HOSTS:
                self.ask("POST", f"/v1/hosts/{host}/resume")
            for (build,) in living:
                self.look(build)
            for (build,) in self.rows(_STANDING):
                self.ask("POST", client.build_path(build, "resume"), body={})

    # What must be true

    def wrong(self, directory: Path) -> list[str]:
        """The promises that do not hold now that all builds have ended."""
        events = self.rows(
            "SELECT position, build, type, data, hash FROM dcd.events ORDER BY position"
        )
        found = [*violations(self.administrator), *out_of_order(row[1:4] for row in events)]
        written = {position: digest for position, *_, digest in events}
        lost = [
            position for position, digest in self.told.items() if written.get(position) != digest
        ]
        found += [f"event {position} was shown, and is lost or another one" for position in lost]
        there = {build for _, build, kind, *_ in events if kind == "BuildSubmitted"}
        found += [f"{build} was acknowledged and is lost" for build in {*self.submitted} - there]
        directory.mkdir()
        with PostgresqlLog(self.cluster.dsn("farm", role_of("a")), directory) as log:
            found += log.verify_all()
        for left in (
            lambda: self.rows("SELECT id, args FROM queue.procrastinate_jobs"),
            lambda: [each for member in self.members.values() for each in member.leaks()],
        ):
            deadline = time.monotonic() + 60
            while (remains := left()) and time.monotonic() < deadline:
                time.sleep(1)
            found += [f"left behind: {each}" for each in remains]
        for host, member in self.members.items():
            text = member.log.read_text()
            found += [f"{host}: {line[-500:]}" for line in text.splitlines() if "Traceback" in line]
        return found

    def numbers(self) -> dict[str, Any]:
        """What happened: to members and database, by people, and in the log."""
        kinds = dict(self.rows("SELECT type, count(*) FROM dcd.events GROUP BY type"))
        causes = dict(self.rows(_CAUSES))
        return {
            "members": len(HOSTS),
            "builds": kinds["BuildSubmitted"],
            "builds acknowledged": len(self.submitted),
            "events": sum(kinds.values()),
            "events shown to people": len(self.told),
            "takings": kinds.get("BuildPlaced", 0),
            "by type": dict(sorted(kinds.items())),
            "interruptions": causes,
            "happened": dict(sorted(self.happened.items())),
        }


_LIVING = "SELECT id FROM dcd.builds WHERE state NOT IN ('completed', 'cancelled')"
_STANDING = "SELECT id FROM dcd.builds WHERE state IN ('paused', 'failed')"
_CAUSES = """SELECT data::json->>'cause', count(*) FROM dcd.events
    WHERE type = 'CheckpointInterrupted' GROUP BY 1 ORDER BY 1"""
_BODIES: dict[str, dict[str, str]] = {"move": {}, "pause": {}, "resume": {}}
"""What is sent with a command."""


def out_of_order(events: Iterable[tuple[str, str, str]]) -> list[str]:
    """What owners may not record, in (build, type, data) of events: attempts that did not run, or not on
    their owner, checkpoints out of order, facts of builds that have ended."""
    found = []
    names: dict[str, list[str]] = {}
    owner: dict[str, str] = {}
    runs: dict[str, tuple[str, int] | None] = {}
    done: dict[str, list[str]] = {}
    ended: set[str] = set()
    for build, kind, data in events:
        said = json.loads(data)
        right = True
        match kind:
            case "BuildSubmitted":
                names[build] = [each["name"] for each in said["plan"]["checkpoints"]]
                done[build], runs[build] = [], None
            case "BuildPlaced":
                owner[build] = said["host"]
                right = build not in ended
            case "CheckpointStarted" | "CheckpointReused":
                next_one = names[build][len(done[build]) :][:1]
                right = runs[build] is None and next_one == [said["checkpoint"]]
                if kind == "CheckpointReused":
                    done[build].append(said["checkpoint"])
                else:
                    right = right and said["host"] == owner.get(build)
                    runs[build] = said["checkpoint"], said["attempt"]
            case "CheckpointCompleted" | "CheckpointFailed" | "CheckpointInterrupted":
                right = runs[build] == (said["checkpoint"], said["attempt"])
                runs[build] = None
                if kind == "CheckpointCompleted":
                    done[build].append(said["checkpoint"])
            case "BuildRewound":
                right = said["checkpoint"] in done[build]
                done[build] = done[build][: names[build].index(said["checkpoint"])]
            case "BuildCompleted":
                right = done[build] == names[build] and build not in ended
                ended.add(build)
            case "BuildCancelled":
                right = runs[build] is None and build not in ended
                ended.add(build)
        if not right:
            found.append(f"{build}: {kind} {data}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dcd-soak-") as scratch:
        soak = Soak(Path(scratch), given.seed)
        try:
            soak.run(60 * given.minutes)
            wrong = soak.wrong(Path(scratch) / "examined")
            asked = {"minutes": given.minutes, "seed": given.seed}
            print(json.dumps({**asked, **soak.numbers(), "violations": wrong}, indent=1))
        finally:
            soak.remove()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
