"""Empty farms for tests, on a server of PostgreSQL, and queries that look for what may never be."""

import hashlib
import json
import secrets
from collections.abc import Callable, Iterator

import psycopg
import pytest

from dcd.farm.install import create_queue
from store.eventlog.postgresql.administration import init
from store.eventlog.postgresql.members import add
from tests.postgresql import Cluster

HOSTS = ("here", "there")
"""The members of each farm."""


@pytest.fixture(scope="session")
def initialised() -> Iterator[Cluster]:
    """The files of a server with an empty farm in the database `farm`."""
    cluster = Cluster().start("fsync=off")
    try:
        with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
            connection.execute("CREATE DATABASE farm")
        cluster.stop()
        cluster.start()
        init(cluster.dsn("farm"))
        create_queue(cluster.dsn("farm"))
        for host in HOSTS:
            add(cluster.dsn("farm"), host, ["amd64", "tool:*"])
        cluster.stop()
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture(scope="session")
def server(initialised: Cluster) -> Iterator[Cluster]:
    """A running server, for all tests of a run that do not stop it."""
    cluster = Cluster(initialised).start()
    try:
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture
def new_farm(server: Cluster) -> Iterator[Callable[[], str]]:
    """Makes an empty farm. Returns the name of its database."""
    made: list[str] = []

    def new() -> str:
        name = f"farm_{secrets.token_hex(4)}"
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE farm")
        made.append(name)
        return name

    yield new
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        for name in made:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def violations(administrator: str) -> list[str]:
    """What is wrong in the log of a farm, by queries and hashes of its own: gaps, altered events, epochs that
    do not grow, facts of others than the owner (tests append them as `HOST EPOCH`), checkpoints that
    completed twice."""
    found = []
    with psycopg.connect(administrator) as connection:
        rows = connection.execute(
            "SELECT position, build, sequence, type, version, time, actor, data, hash"
            " FROM dcd.events ORDER BY position"
        ).fetchall()
        (head,) = connection.execute("SELECT position FROM dcd.head").fetchone() or (None,)
    if [row[0] for row in rows] != list(range(1, len(rows) + 1)) or head != len(rows):
        found.append("positions have gaps")
    last: dict[str, tuple[int, str]] = {}
    owners: dict[str, tuple[str, int]] = {}
    completed: set[tuple[str, str]] = set()
    names: dict[str, list[str]] = {}
    for _, build, sequence, kind, version, time, actor, data, digest in rows:
        before, chained = last.get(build, (0, ""))
        if sequence != before + 1:
            found.append(f"{build}: event {sequence} follows {before}")
        hashed = [chained, build, sequence, kind, version, time, actor, data]
        text = json.dumps(hashed, ensure_ascii=False, separators=(",", ":"))
        if hashlib.sha256(text.encode()).hexdigest() != digest:
            found.append(f"{build}: event {sequence} is not what was hashed")
        last[build] = sequence, digest
        said, who = json.loads(data), json.loads(actor)["user"]
        if kind == "BuildPlaced":
            if said["epoch"] != owners.get(build, ("", 0))[1] + 1:
                found.append(f"{build}: epoch {said['epoch']} follows {owners[build]}")
            owners[build] = said["host"], said["epoch"]
        elif kind.startswith("Checkpoint") and " " in who:
            owner = "{} {}".format(*owners[build])
            if who != owner:
                found.append(f"{build}: {kind} by {who}, but {owner} owns it")
        if kind == "BuildSubmitted":
            names[build] = [each["name"] for each in said["plan"]["checkpoints"]]
        elif kind == "BuildRewound":
            again = names[build][names[build].index(said["checkpoint"]) :]
            completed -= {(build, name) for name in again}
        elif kind == "CheckpointCompleted":
            if (build, said["checkpoint"]) in completed:
                found.append(f"{build}: {said['checkpoint']} completed again")
            completed.add((build, said["checkpoint"]))
    return found
