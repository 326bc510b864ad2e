"""Without a farm nothing of it is imported, and its libraries need not be there."""

import subprocess
import sys
from typing import Any

from tests.conftest import Daemon

PROGRAM = """
import sys
import dcd.serve, dcd.main
print([name for name in sys.modules if name.split(".")[0] in ("procrastinate", "psycopg", "psycopg_pool")
       or name.split(".")[:2] == ["dcd", "farm"]])
"""


def test_the_daemon_of_a_single_machine_imports_nothing_of_a_farm() -> None:
    told = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True)
    assert told.stdout.decode().strip() == "[]"


def test_a_single_machine_has_no_hosts(daemon: Daemon) -> None:
    assert daemon.json("hosts") == {"hosts": [], "waits": []}
    assert daemon.ctl("hosts") == "this daemon is no member of a farm\n"
    assert "docs/explanation/farm.md" in daemon.run("hosts", "drain", "a").stderr
    assert daemon.run("hosts", "drain").returncode == 2


def test_nothing_moves_on_a_single_machine(daemon: Daemon, write_manifest: Any) -> None:
    build = daemon.submit(write_manifest(("one", "true")), "--pause-before", "one")
    told = daemon.run("move", build, "--to", "b")
    assert told.returncode == 2
    assert "this daemon is no member of a farm" in told.stderr
