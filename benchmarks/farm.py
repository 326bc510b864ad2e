"""A farm: how soon a submitted build starts, what its log takes, and what three members gain.

The database and the members are real, on one machine. The checkpoints wait instead of computing, since the
members share its processors.
"""

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.daemon import Daemon, daemon
from benchmarks.figure import Figure, ratios
from benchmarks.history import completed
from benchmarks.rounds import Rounds
from cli import client
from dcd.farm.install import create_queue
from dcd.platform.host_labels import host_labels
from statemachine.events import Actor, ArtifactPublished
from statemachine.results import Artifact
from store.eventlog.postgresql.administration import init
from store.eventlog.postgresql.connection import connect
from store.eventlog.postgresql.log import PostgresqlLog
from store.eventlog.postgresql.members import add, role_of
from tests.postgresql import Cluster

MEMBERS = ("a", "b", "c")
MOST_START_SECONDS = 0.2
LEAST_EVENTS = 700.0
MOST_RATIO = 0.45
STARTS = 20
IMAGES = 12
STEPS = 4
STEP_SECONDS = 1.0
TOGETHER = 10
"""So many builds of each member append at once."""
APPENDS = 100
"""Of each of these builds."""
PAUSE_SECONDS = 0.02
"""Between two questions whether the builds have ended."""

STEP = """<checkpoint name="step-{number}" mod_path="dcd/checkpoints/custom_script"
 checkpoint_class="CustomScript"><args>: {name}; sleep {seconds}</args></checkpoint>"""


def farm(scratch: Path, rounds: Rounds) -> Iterator[Figure]:
    """See the module. One machine with its own log is the reference for the start."""
    with daemon(scratch / "single") as running:
        yield Figure("submit to start, one machine", "s", _starts(running, [running]))
    with _database(scratch.parent) as cluster:
        with _members(cluster, scratch / "start", MEMBERS) as members:
            starts = _starts(members[0], members)
        note = f"{len(MEMBERS)} members, from BuildSubmitted to CheckpointStarted"
        yield Figure("submit to start", "s", starts, most=MOST_START_SECONDS, note=note)
        seconds: dict[int, list[float]] = {1: [], len(MEMBERS): []}
        for number in rounds:
            # Each side is first in every other round.
            for many in (1, len(MEMBERS))[:: 1 if number % 2 == 0 else -1]:
                place = scratch / f"images-{many}-{number}"
                with _members(cluster, place, MEMBERS[:many]) as members:
                    _build(
                        cluster, members, 1, seconds=0.0
                    )  # queues are listened to, code is loaded
                    seconds[many].append(_build(cluster, members, IMAGES))
        three, one = seconds[len(MEMBERS)], seconds[1]
        name = f"{IMAGES} images, {len(MEMBERS)} members / one"
        yield Figure(name, "", ratios(three, one), most=MOST_RATIO)
        note = f"{STEPS} checkpoints of {STEP_SECONDS:g} s each"
        yield Figure(f"{IMAGES} images, one member", "s", tuple(one), note=note)
        yield Figure(f"{IMAGES} images, {len(MEMBERS)} members", "s", tuple(three), note=note)
        for together in (1, TOGETHER):
            rates = tuple(_rate(cluster, scratch / f"log-{together}-{n}", together) for n in rounds)
            note = f"{together} builds of each of {len(MEMBERS)} members at once"
            least = LEAST_EVENTS if together == TOGETHER else None
            yield Figure("event log in PostgreSQL", "events/s", rates, least=least, note=note)


@contextmanager
def _database(directory: Path) -> Iterator[Cluster]:
    """A server with the database `farm`, to which the members belong."""
    cluster = Cluster(directory=directory)
    try:
        cluster.start()
        with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
            connection.execute("CREATE DATABASE farm")
        administrator = cluster.dsn("farm")
        init(administrator)
        create_queue(administrator)
        for host in MEMBERS:
            add(administrator, host, sorted(host_labels()))
        yield cluster
    finally:
        cluster.remove()


@contextmanager
def _members(cluster: Cluster, place: Path, hosts: Sequence[str]) -> Iterator[list[Daemon]]:
    """The daemons of members, with state directories of their own."""
    with ExitStack() as running:
        yield [
            running.enter_context(daemon(place / host, _settings(cluster, host))) for host in hosts
        ]


def _settings(cluster: Cluster, host: str) -> str:
    return f'[farm]\ndatabase = "{cluster.dsn("farm", role_of(host))}"\n'


def _starts(asked: Daemon, members: Sequence[Daemon]) -> tuple[float, ...]:
    """Seconds from the submit of a build to the start of its checkpoint, while no other runs. The first has
    workers to start and code to load, and does not count."""
    found = []
    for number in range(STARTS + 1):
        build = _submit(members[number % len(members)], f"start-{number}", 1, 0.0)
        path = client.build_path(build)
        while client.request(str(asked.socket), "GET", path)["state"] != "completed":
            time.sleep(PAUSE_SECONDS)
        events = client.request(str(asked.socket), "GET", client.build_path(build, "events"))
        times = {event["type"]: _time(event) for event in events["events"]}
        found.append(times["CheckpointStarted"] - times["BuildSubmitted"])
    return tuple(found[1:])


def _time(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()


def _build(
    cluster: Cluster, members: Sequence[Daemon], count: int, seconds: float = STEP_SECONDS
) -> float:
    """Submit so many builds, which have nothing in common, and wait for all; the seconds."""
    began = time.monotonic()
    for number in range(count):
        asked = members[number % len(members)]
        _submit(asked, f"image-{number}-{asked.socket}-{count}", STEPS, seconds)
    with connect(cluster.dsn("farm")) as connection:
        unfinished = "SELECT count(*) FROM builds WHERE state <> 'completed'"
        while connection.execute(unfinished).fetchone() != (0,):
            time.sleep(PAUSE_SECONDS)
    return time.monotonic() - began


def _submit(running: Daemon, name: str, steps: int, seconds: float) -> str:
    text = "".join(STEP.format(number=n, name=name, seconds=seconds) for n in range(steps))
    manifest = {
        "path": "/image.xml",
        "text": f'<dc><distro name="image"><execution>{text}</execution></distro></dc>',
    }
    answer = client.request(str(running.socket), "POST", "/v1/builds", body={"manifest": manifest})
    return str(answer["id"])


def _rate(cluster: Cluster, place: Path, together: int) -> float:
    """Events a second that processes append, each as another member, with so many builds of each at once."""
    begin = multiprocessing.Barrier(len(MEMBERS) + 1)
    appending = [
        multiprocessing.Process(target=_append, args=(cluster, place, host, together, begin))
        for host in MEMBERS
    ]
    for process in appending:
        process.start()
    begin.wait()
    began = time.monotonic()
    for process in appending:
        process.join()
    if any(process.exitcode for process in appending):
        raise RuntimeError("not all events could be appended")
    return len(MEMBERS) * together * APPENDS / (time.monotonic() - began)


def _append(cluster: Cluster, place: Path, host: str, together: int, begin: Any) -> None:
    """As the owner of builds, append one event at a time to each, and wait for it."""
    actor, now = Actor(), datetime.now(UTC)
    artifact = Artifact("image.iso", "/artifacts/image.iso", "iso", 1, "0" * 64)
    directory = place / host
    directory.mkdir(parents=True)
    builds = [f"{place.name}-{host}-{number}" for number in range(together)]
    with PostgresqlLog(cluster.dsn("farm", role_of(host)), directory) as log:
        epochs = []
        for build in builds:
            log.append(build, 0, completed(0, 6)[:1], actor, now).result()
            epochs.append(log.take(build, host))
        begin.wait()
        for sequence in range(2, 2 + APPENDS):
            pending = [
                log.append(build, sequence, [ArtifactPublished(artifact)], actor, now, epoch)
                for build, epoch in zip(builds, epochs, strict=True)
            ]
            for future in pending:
                future.result()
