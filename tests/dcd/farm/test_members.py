"""Members of a farm that die, freeze and lose their database: each build goes to its end, once.

PostgreSQL and the members are real, on one machine; the checkpoints wait instead of computing.
"""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dcd.main import main
from store.eventlog.postgresql.connection import connect
from store.eventlog.postgresql.members import lost, members, placements
from tests.conftest import Daemon
from tests.dcd.farm import other_code
from tests.dcd.farm.other_code import CODE
from tests.network import Network
from tests.postgresql import Cluster

pytestmark = [pytest.mark.faults, pytest.mark.root, pytest.mark.daemon]

LOST_SECONDS = 4.0

MANIFEST = """<dc><distro name="x">{}<execution>
<checkpoint name="one" mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript">
{}</checkpoint></execution></distro></dc>"""

TWO = MANIFEST.replace(
    "</execution>",
    """<checkpoint name="two" mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript">
<args>true</args></checkpoint></execution>""",
)


class Farm:
    """A database and two members: a, on the same host, and b, over a network; `more` are further settings
    of both."""

    def __init__(self, cluster: Cluster, network: Network, directory: Path, more: str = "") -> None:
        self.cluster = cluster
        self.network = network
        with (cluster.data / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {network.range} trust\n")
        self.serve()
        self.dsn = cluster.dsn("farm")
        with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
            connection.execute("CREATE DATABASE farm TEMPLATE template0")
        assert main(["farm", "init", self.dsn]) == 0
        self.members: dict[str, Daemon] = {}
        for host, labels in (
            ("a", ["amd64", "i386", "tool:*"]),
            ("b", ["amd64", "rack:b", "tool:*"]),
        ):
            member_add = ["farm", "member", "add", host, *labels, "--database", self.dsn]
            assert main(member_add) == 0
            place = directory / host
            place.mkdir()
            member = self.members[host] = Daemon(place)
            dsn = cluster.dsn("farm", f"dcd-{host}")
            if host == "b":
                dsn = dsn.replace(f"host={cluster.place}", f"host={network.server}")
            member.tables = (
                f'[farm]\ndatabase = "{dsn}"\n'
                f"labels = {['rack:' + host]}\nlost_seconds = {LOST_SECONDS}\n{more}"
            )
            member.spawn()
        for member in self.members.values():
            member.wait_until_ready()
        self._manifests = directory

    def serve(self) -> None:
        """Start the server."""
        self.cluster.start(f"listen_addresses={self.network.server}", namespace=self.network.space)

    def submit(
        self, seconds: float = 4.0, placed: str = "", through: str = "a", manifest: str = MANIFEST
    ) -> str:
        return self._submit(f"<args>sleep {seconds}</args>", placed, through, manifest)

    def hold(self, manifest: str = MANIFEST) -> str:
        """Submit a build whose first checkpoint runs until `release`."""
        self._gate = self._manifests / secrets.token_hex(4)
        waits = (
            f"<args>until test -e {self._gate}; do sleep 0.1; done</args>"
            f'<kwargs><arglist name="writes"><argitem>{self._manifests}</argitem></arglist></kwargs>'
        )
        return self._submit(waits, "", "a", manifest)

    def release(self) -> None:
        self._gate.touch()

    def _submit(self, content: str, placed: str, through: str, manifest: str) -> str:
        path = self._manifests / "m.xml"
        path.write_text(manifest.format(placed, content))
        return self.members[through].submit(path, "--fresh")

    @contextmanager
    def drained(self, host: str, through: str) -> Iterator[None]:
        """Drain a member, from when it has noticed: until it looks it takes builds and begins checkpoints.
        It takes builds again afterwards, also after a failure: the next test has the same farm."""
        log, teller = self.members[host].log, self.members[through]
        seen = len(log.read_text())
        teller.ctl("hosts", "drain", host)
        try:
            self.until(lambda: '"event": "draining"' in log.read_text()[seen:])
            yield
        finally:
            teller.ctl("hosts", "resume", host)
        self.until(lambda: '"event": "takes builds again"' in log.read_text()[seen:])

    @contextmanager
    def frozen(self, member: Daemon) -> Iterator[None]:
        """Freeze a member meanwhile."""
        assert member.process is not None
        member.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            member.process.send_signal(signal.SIGCONT)

    @contextmanager
    def with_other_code(self, member: Daemon) -> Iterator[None]:
        """Have a member run other code meanwhile."""
        launch = member.launch
        member.stop()
        member.launch = started_with_other_code
        member.start()
        try:
            yield
        finally:
            member.stop()
            member.launch = launch
            member.start()

    @contextmanager
    def without_network(self) -> Iterator[None]:
        """Cut off the network of b meanwhile."""
        self.network.cut()
        try:
            yield
        finally:
            self.network.join()

    def owner(self, build: str) -> str:
        """The member that drives the build, once its checkpoint runs."""
        self.until(lambda: "CheckpointStarted" in self.kinds(build))
        return next(each.host for each in placements(self.dsn) if each.build == build)

    def other(self, host: str) -> Daemon:
        return self.members["b" if host == "a" else "a"]

    def rows(self, query: str, *values: Any) -> list[Any]:
        with connect(self.dsn) as connection:
            return connection.execute(query, values).fetchall()

    def kinds(self, build: str) -> list[str]:
        told = self.rows("SELECT type FROM events WHERE build = %s ORDER BY sequence", build)
        return [kind for (kind,) in told]

    def owners(self, build: str) -> list[str]:
        """The members that have taken the build, in order."""
        query = (
            "SELECT data::json->>'host' FROM events WHERE build = %s AND type = 'BuildPlaced'"
            " ORDER BY sequence"
        )
        return [host for (host,) in self.rows(query, build)]

    def causes(self, build: str) -> list[str]:
        query = "SELECT data::json->>'cause' FROM events WHERE build = %s AND type = 'CheckpointInterrupted'"
        return [cause for (cause,) in self.rows(query, build)]

    def state(self, build: str) -> str:
        return str(self.rows("SELECT state FROM builds WHERE id = %s", build)[0][0])

    def make_late_job(self, build: str) -> None:
        """Make a job like that which a running build had, as a member does whose look at the builds is old.
        Both have the lock of the build, so nobody gets the late one while a lost worker has the other."""
        columns = "queue_name, task_name, priority, lock, queueing_lock, args"
        with connect(self.dsn) as connection:
            connection.execute("SET search_path = queue")
            connection.execute(
                f"INSERT INTO procrastinate_jobs ({columns})"
                f" SELECT {columns} FROM procrastinate_jobs WHERE lock = %s AND status = 'doing'"
                " ON CONFLICT DO NOTHING",  # there was one without this
                [build],
            )

    def until(self, holds: Callable[[], bool], seconds: float = 120.0) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, "".join(
                each.log.read_text()[-1500:] for each in self.members.values()
            )
            time.sleep(0.1)


def started_with_other_code(command: list[str], **options: Any) -> "subprocess.Popen[bytes]":
    arguments = command[command.index("dcd.main") + 1 :]
    return subprocess.Popen([sys.executable, other_code.__file__, *arguments], **options)


def tracebacks(member: Daemon) -> list[str]:
    return [line[-800:] for line in member.log.read_text().splitlines() if "Traceback" in line]


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    cluster, network = Cluster(), Network()
    made: list[Farm] = []
    try:
        made.append(Farm(cluster, network, tmp_path_factory.mktemp("farm")))
        yield made[0]
    finally:
        for member in made[0].members.values() if made else ():
            with suppress(ProcessLookupError):
                member.kill()
        cluster.remove()
        network.remove()


def test_a_build_starts_at_once_and_every_member_takes_commands_for_it(farm: Farm) -> None:
    build = farm.submit(30)
    owner = farm.owner(build)
    queued, started = farm.rows(
        "SELECT time FROM events WHERE build = %s AND type IN ('BuildSubmitted', 'BuildPlaced')"
        " ORDER BY sequence",
        build,
    )
    assert started > queued
    assert farm.other(owner).status(build)["state"] == "running"
    farm.other(owner).ctl("cancel", build)
    farm.until(lambda: farm.state(build) == "cancelled")
    assert farm.causes(build) == ["cancelled"]


def test_a_build_goes_where_its_labels_are(farm: Farm) -> None:
    """The builds of images require many tools: a queue whose name is too long was refused, and all waited."""
    for labels in (["rack:b"], ["rack:b", "tool:chroot", "tool:cp", "tool:losetup", "tool:mount"]):
        asked = "".join(f'<require label="{label}"/>' for label in labels)
        build = farm.submit(0.1, f"<placement>{asked}</placement>")
        farm.until(lambda build=build: farm.state(build) == "completed")
        assert farm.rows("SELECT host FROM placements WHERE build = %s", build) == [("b",)]


def test_a_build_with_captured_files_stays_where_they_are(farm: Farm, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\nexit 0\n")
    given = '<kwargs><arg name="script">script</arg></kwargs>'
    (tmp_path / "m.xml").write_text(MANIFEST.format("", given))
    builds = [farm.members[host].submit(tmp_path / "m.xml", "--fresh") for host in ("a", "b", "a")]
    for build in builds:
        farm.until(lambda build=build: farm.state(build) == "completed")
    where = [farm.rows("SELECT host FROM placements WHERE build = %s", build) for build in builds]
    assert where == [[("a",)], [("b",)], [("a",)]]


def test_people_see_why_a_build_waits_and_what_the_members_do(farm: Farm) -> None:
    placed = '<placement><require label="moon"/><require label="amd64"/></placement>'
    build = farm.submit(0.1, placed)
    told = "waits: no member has amd64+moon; a has amd64; b has amd64"
    assert farm.members["b"].status(build)["reason"] == told
    farm.members["b"].ctl("cancel", build)
    first, second = farm.members["a"].json("hosts")["hosts"]
    assert (first["host"], first["state"], second["host"]) == ("a", "up", "b")
    assert {"amd64", "tool:cp"} <= set(first["labels"])
    assert "rack:a" not in first["labels"], "announced, and not granted"
    assert "rack:b" in second["labels"]


def test_a_member_that_is_drained_hands_its_build_over_after_its_checkpoint(farm: Farm) -> None:
    build = farm.hold()
    host = farm.owner(build)
    other = farm.other(host)
    with farm.drained(host, "b" if host == "a" else "a"):
        more = farm.submit(0.1)
        farm.until(lambda: farm.state(more) == "completed")
        assert farm.rows("SELECT host FROM placements WHERE build = %s", more) != [(host,)]
        farm.release()
        farm.until(lambda: farm.state(build) == "completed")
        assert farm.causes(build) == []
        assert f"{host}     draining" in other.ctl("hosts")
    other.ctl("hosts", "drain", "moon", status=7)


@pytest.mark.parametrize("through", ["owner", "goal"])
def test_a_build_moves_after_its_checkpoint_whoever_hears_the_command(
    farm: Farm, through: str
) -> None:
    build = farm.hold(manifest=TWO)
    owner = farm.owner(build)
    goal = "b" if owner == "a" else "a"
    told = farm.members[owner if through == "owner" else goal].ctl("move", build, "--to", goal)
    assert f"a move to {goal} was requested" in told
    farm.release()
    farm.until(lambda: farm.state(build) == "completed")
    assert farm.owners(build) == [owner, goal]
    assert farm.causes(build) == []
    assert farm.kinds(build).count("BuildRewound") == 1, "the layer is on the other member"
    asked = farm.rows(
        "SELECT actor::json->>'uid' FROM events WHERE build = %s AND type = 'MoveRequested'", build
    )
    assert asked == [(str(os.getuid()),)]


def test_a_move_that_is_not_possible_says_why_and_changes_nothing(farm: Farm) -> None:
    build = farm.submit(30, '<placement><require label="rack:b"/></placement>', manifest=TWO)
    assert farm.owner(build) == "b"
    member = farm.members["a"]
    for goal, told, status in (
        (["--to", "a"], "a lacks rack:b", 6),
        ([], "no member has rack:b", 6),
        (["--to", "b"], "b drives it already", 6),
        (["--to", "moon"], "there is no member moon", 7),
    ):
        refused = member.run("move", build, *goal)
        assert told in refused.stderr
        assert refused.returncode == status
    assert "MoveRequested" not in farm.kinds(build)
    member.ctl("cancel", build)
    farm.until(lambda: farm.state(build) == "cancelled")
    assert "it is cancelled" in member.run("move", build).stderr


@pytest.mark.parametrize("dies", ["owner", "goal"])
def test_a_member_that_is_killed_during_a_move_loses_no_build(farm: Farm, dies: str) -> None:
    farm.until(lambda: min(each.unbroken_seconds for each in members(farm.dsn)) > LOST_SECONDS)
    build = farm.hold(manifest=TWO)
    owner = farm.owner(build)
    goal = "b" if owner == "a" else "a"
    farm.members[owner].ctl("move", build, "--to", goal)
    killed = owner if dies == "owner" else goal
    farm.members[killed].kill()
    farm.release()
    farm.until(lambda: farm.state(build) == "completed")
    assert farm.owners(build) == [owner, goal if dies == "owner" else owner]
    assert farm.causes(build) == (["host-lost"] if dies == "owner" else [])
    farm.members[killed].start()


def test_a_build_stays_with_the_code_that_planned_it_until_no_member_has_it(farm: Farm) -> None:
    """An upgrade member by member: b is upgraded first, then a."""
    a, b = farm.members["a"], farm.members["b"]
    with farm.with_other_code(b):
        farm.until(lambda: {each["code"] for each in a.json("hosts")["hosts"]} > {CODE})
        build = farm.hold(manifest=TWO)
        assert farm.owner(build) == "a"
        with farm.drained("a", "b"):
            keys = {each["name"]: each["key"] for each in a.json("status", build)["checkpoints"]}
            farm.release()
            farm.until(lambda: farm.state(build) == "completed")
        assert farm.owners(build) == ["a", "b"]
        after = {each["name"]: each["key"] for each in b.json("status", build)["checkpoints"]}
        assert [keys[name] == after[name] for name in ("one", "two")] == [False, False]
        (found,) = farm.rows(
            "SELECT data::json->'external'->>'dcd of the host' FROM events"
            " WHERE build = %s AND type = 'CheckpointStarted' AND data LIKE '%%\"host\":\"b\"%%'"
            " ORDER BY sequence LIMIT 1",
            build,
        )
        assert found == (CODE,)


def test_an_outage_of_the_database_loses_no_build_and_moves_none(farm: Farm) -> None:
    """After it everybody looks lost, and a reaper that only looks at the others takes living builds."""
    build = farm.hold()
    farm.owner(build)
    farm.cluster.stop(signal.SIGQUIT)
    farm.release()
    time.sleep(LOST_SECONDS + 1)
    farm.serve()
    with connect(farm.cluster.dsn("farm", "dcd-a")) as connection:
        naive = connection.execute(
            "SELECT count(*) FROM members WHERE seen_at < now() - make_interval(secs => %s)",
            [LOST_SECONDS],
        ).fetchone()
        assert naive != (0,), "the control: by their silence alone, members are lost now"
        assert lost(connection, LOST_SECONDS) == []
    farm.until(lambda: farm.state(build) == "completed")
    assert farm.kinds(build).count("BuildPlaced") == 1
    assert farm.causes(build) == []
    farm.until(lambda: all((each.silent_seconds or 99) < 2 for each in members(farm.dsn)))


def test_a_frozen_member_loses_its_build_and_cleans_up_when_it_wakes(farm: Farm) -> None:
    farm.until(lambda: min(each.unbroken_seconds for each in members(farm.dsn)) > LOST_SECONDS)
    build = farm.hold()
    host = farm.owner(build)
    frozen = farm.members[host]
    with farm.frozen(frozen):
        farm.until(lambda: farm.kinds(build).count("CheckpointStarted") == 2)
        assert farm.causes(build) == ["host-lost"]
    farm.until(lambda: "another member took the build" in frozen.log.read_text())
    farm.until(lambda: frozen.leaks() == [])
    farm.release()
    farm.until(lambda: farm.state(build) == "completed")
    assert farm.kinds(build).count("CheckpointCompleted") == 1
    assert tracebacks(frozen) == []


def test_a_member_that_is_cut_off_loses_its_build_and_learns_of_it(farm: Farm) -> None:
    farm.until(lambda: min(each.unbroken_seconds for each in members(farm.dsn)) > LOST_SECONDS)
    b = farm.members["b"]
    with farm.drained("a", "a"):
        build = farm.hold()
        assert farm.owner(build) == "b"
    seen = len(b.log.read_text())
    with farm.without_network():
        farm.until(lambda: farm.kinds(build).count("CheckpointStarted") == 2)
    assert farm.causes(build) == ["host-lost"]
    farm.until(lambda: "another member took the build" in b.log.read_text()[seen:])
    farm.until(lambda: b.leaks() == [])
    farm.release()
    farm.until(lambda: farm.state(build) == "completed")
    assert farm.kinds(build).count("CheckpointCompleted") == 1
    assert tracebacks(b) == []


def test_the_build_of_a_killed_member_is_continued_by_another(farm: Farm) -> None:
    farm.until(lambda: min(each.unbroken_seconds for each in members(farm.dsn)) > LOST_SECONDS)
    build = farm.hold()
    host = farm.owner(build)
    farm.make_late_job(build)
    farm.members[host].kill()
    farm.release()
    farm.until(lambda: farm.state(build) == "completed")
    assert farm.causes(build) == ["host-lost"]
    assert farm.kinds(build).count("CheckpointCompleted") == 1
    assert farm.owners(build) == [host, "b" if host == "a" else "a"]
    farm.members[host].start()


def test_the_log_has_no_gaps_and_epochs_only_grow(farm: Farm) -> None:
    build = farm.submit(0.1)
    farm.until(lambda: farm.state(build) == "completed")
    assert farm.rows("SELECT count(*) = max(position) FROM events") == [(True,)]
    gaps = "SELECT build FROM events GROUP BY build HAVING count(*) <> max(sequence)"
    assert farm.rows(gaps) == []
