"""`dcd farm`, on the database of a farm."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dcd import farm_command
from dcd.main import main
from store.eventlog import SqliteLog
from tests.postgresql import Cluster
from tests.store.eventlog.conftest import Postgresql


@pytest.fixture
def empty(server: Cluster) -> Any:
    """A database that is not that of a farm."""
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE nothing")
        yield server.dsn("nothing")
        connection.execute("DROP DATABASE nothing WITH (FORCE)")


def test_a_farm_from_nothing(
    empty: str,
    tmp_path: Path,
    submit: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "events").mkdir()
    with SqliteLog(tmp_path / "events/events.db") as log:
        submit(log, "b1").run(1)
        count = log.position
    member = ["farm", "member"]
    assert main([*member, "list", "--database", empty]) == 9
    assert "dcd farm init" in capsys.readouterr().err
    assert main(["farm", "init", empty]) == 0
    assert main(["farm", "init", empty, "--json"]) == 0
    importing = ["farm", "import", empty, "--state-dir", str(tmp_path), "--host"]
    assert main([*importing, "b1.example"]) == 0
    said = capsys.readouterr().out
    assert "the database is ready" in said and '{"new": false}' in said
    assert f"imported and verified {count} events" in said
    assert main([*importing, "b1.example"]) == 6
    assert main([*importing, "B 1"]) == 2
    assert main([*member, "list", "--database", empty]) == 0
    assert "no members" in capsys.readouterr().out

    assert main([*member, "add", "b1.example", "kvm", "amd64", "--database", empty]) == 0
    assert main([*member, "add", "b1.example", "tool:*", "--database", empty]) == 0
    assert main([*member, "list", "--database", empty, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])["members"]
    assert [(each["host"], each["labels"]) for each in shown] == [("b1.example", ["tool:*"])]
    assert main([*member, "list", "--database", empty]) == 0
    assert "b1.example  never  tool:*" in capsys.readouterr().out
    assert main([*member, "remove", "b1.example", "--database", empty]) == 0
    assert main([*member, "remove", "b1.example", "--database", empty]) == 7


def test_only_an_administrator_adds_members(
    farm: Postgresql, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["farm", "member", "add", "more", "--database", farm.dsn]) == 9
    assert "needs an administrator" in capsys.readouterr().err
    assert main(["farm", "member", "add", "no name!", "--database", farm.administrator]) == 2


def test_without_the_libraries_the_command_says_what_to_install() -> None:
    code = (
        "import importlib.util as util, sys\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name == 'psycopg' else find(name, *more)\n"
        "from dcd.main import main\n"
        "sys.exit(main(['farm', 'member', 'list']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 11
    assert farm_command.INSTALL in done.stderr
