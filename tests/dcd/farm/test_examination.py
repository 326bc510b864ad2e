"""What `doctor` says of a farm: bad databases, wrong clocks, other versions. The server is real."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dcd.doctor import HostCheck
from dcd.farm import examination
from dcd.main import main
from store.eventlog.postgresql import members
from store.eventlog.postgresql.connection import connect
from tests.postgresql import Cluster

pytestmark = pytest.mark.slow

LOST_SECONDS = 120.0


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    """A server with a farm of which `a` and `b` are members."""
    cluster = Cluster().start()
    try:
        with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
            connection.execute("CREATE DATABASE farm TEMPLATE template0")
        assert main(["farm", "init", cluster.dsn("farm")]) == 0
        for host in ("a", "b"):
            assert (
                main(["farm", "member", "add", host, "amd64", "--database", cluster.dsn("farm")])
                == 0
            )
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture
def run(server: Cluster) -> Callable[[str], None]:
    def run(statement: str) -> None:
        with psycopg.connect(server.dsn("farm"), autocommit=True) as connection:
            connection.execute(statement)

    return run


@pytest.fixture
def examine(server: Cluster, tmp_path: Path) -> Callable[[], dict[str, HostCheck]]:
    def examine() -> dict[str, HostCheck]:
        found = examination.examine(server.dsn("farm", "dcd-a"), LOST_SECONDS, tmp_path)
        return {each.name: each for each in found}

    return examine


def test_a_farm_without_problems_is_ok(server: Cluster, examine: Any) -> None:
    for host in ("a", "b"):
        with connect(server.dsn("farm", f"dcd-{host}")) as connection:
            members.heartbeat(connection, 10, ["amd64"], examination.version("dcd"))
    found = examine()
    assert {name: each.status for name, each in found.items()} == {
        "farm database": "ok",
        "farm clock": "ok",
        "farm members": "ok",
    }
    assert "without a synchronous standby" in found["farm database"].value
    assert found["farm members"].value == "this is a; 2 up"


@pytest.mark.parametrize(
    ("bad", "good", "value", "remedy"),
    [
        ("ALTER ROLE \"dcd-a\" SET synchronous_commit = off", "ALTER ROLE \"dcd-a\" RESET ALL",
         "synchronous_commit is off", "synchronous_commit = on"),
        ("ALTER ROLE \"dcd-a\" SET default_transaction_read_only = on", "ALTER ROLE \"dcd-a\" RESET ALL",
         "read-only", "primary server"),
        ("UPDATE dcd.farm SET revision = revision + 1", "UPDATE dcd.farm SET revision = revision - 1",
         "used by a newer dcd", "newer version"),
        ("UPDATE dcd.farm SET revision = revision - 1", "UPDATE dcd.farm SET revision = revision + 1",
         "older than this dcd", "dcd farm init"),
        ("ALTER SCHEMA dcd RENAME TO gone", "ALTER SCHEMA gone RENAME TO dcd",
         "not that of a farm", "dcd farm init"),
        ("ALTER ROLE \"dcd-a\" CONNECTION LIMIT 0", "ALTER ROLE \"dcd-a\" CONNECTION LIMIT -1",
         "takes no more connections", "max_connections"),
        ("ALTER ROLE \"dcd-a\" NOLOGIN", "ALTER ROLE \"dcd-a\" LOGIN",
         "refuses the connection", "dcd farm member add"),
        ("UPDATE dcd.members SET role = 'other' WHERE host = 'a'",
         "UPDATE dcd.members SET role = 'dcd-a' WHERE host = 'a'",
         "no member of the farm", "dcd farm member add"),
    ],
)  # fmt: skip
def test_a_database_that_cannot_be_used_is_said_to_be_so_with_the_remedy(
    run: Any, examine: Any, bad: str, good: str, value: str, remedy: str
) -> None:
    run(bad)
    try:
        (found,) = examine().values()
    finally:
        run(good)
    assert (found.name, found.status) == ("farm database", "missing")
    assert value in found.value
    assert remedy in found.remedy
    assert examine()["farm database"].status == "ok"


def test_a_database_of_another_farm_or_none_that_answers_is_said_to_be_so(
    server: Cluster, examine: Any, tmp_path: Path
) -> None:
    (tmp_path / "farm").write_text("another\n")
    (found,) = examine().values()
    assert "another farm" in found.value
    assert "correct [farm] database" in found.remedy
    (gone,) = examination.examine(f"host={tmp_path} dbname=farm", LOST_SECONDS, tmp_path)
    assert "cannot be reached" in gone.value


def test_a_wrong_clock_and_another_version_are_warnings_and_decide_nothing(
    server: Cluster, run: Any, examine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect(server.dsn("farm", "dcd-b")) as connection:
        members.heartbeat(connection, 10, ["amd64"], "0.0.1")
    run("UPDATE dcd.members SET clock_ahead_seconds = -90 WHERE host = 'b'")
    found = examine()["farm members"]
    assert found.status == "warning"
    assert "b: its clock is 90 s behind the database's" in found.value
    assert "b: it runs dcd 0.0.1" in found.value
    present = examination.time.time()
    monkeypatch.setattr(examination.time, "time", lambda: present + 60)
    clock = examine()["farm clock"]
    assert clock.status == "warning"
    assert "60 s ahead of" in clock.value
    assert "NTP" in clock.remedy


def test_a_member_that_is_lost_and_too_few_connections_are_warnings(
    run: Any, examine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("UPDATE dcd.members SET seen_at = now() - interval '1 hour' WHERE host = 'b'")
    monkeypatch.setattr(examination, "CONNECTIONS", 1000)
    found = examine()
    assert "b lost" in found["farm members"].value
    assert "dcd farm member remove b" in found["farm members"].remedy
    assert "max_connections is 60" in found["farm database"].value
    assert "max_connections = 2000" in found["farm database"].remedy


def test_a_member_that_was_never_started_is_a_warning(run: Any, examine: Any) -> None:
    run("UPDATE dcd.members SET seen_at = now() WHERE host = 'a'")
    run("UPDATE dcd.members SET seen_at = NULL WHERE host = 'b'")
    found = examine()["farm members"]
    assert "b never seen" in found.value
    assert "start dcd on b" in found.remedy


def test_dcd_doctor_examines_the_farm_of_a_configuration_without_a_daemon(
    server: Cluster, run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr("dcd.doctor.examine", lambda *_: [])
    file = tmp_path / "dcd.toml"
    file.write_text(
        f'state_dir = "{tmp_path}"\n[farm]\ndatabase = "{server.dsn("farm", "dcd-a")}"\n'
    )
    assert main(["doctor", "--config", str(file)]) == 0
    assert "this is a" in capsys.readouterr().out
    run('ALTER ROLE "dcd-a" NOLOGIN')
    try:
        assert main(["doctor", "--config", str(file)]) == 11
    finally:
        run('ALTER ROLE "dcd-a" LOGIN')
    assert "refuses the connection" in capsys.readouterr().out
