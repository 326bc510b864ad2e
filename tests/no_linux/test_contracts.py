"""The daemon where it takes Linux for illumos: its workers are in process contracts.

Each process of the daemon has what is in `tests/no_linux/illumos` in the place of the kernel's interfaces,
and stand-ins for the tools: see there.
"""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Daemon
from tests.dcd.checkpoints.depot import install, publisher, software, write_stand_in
from tests.dcd.conftest import Mirror, mirror

__all__ = ["mirror"]

pytestmark = [pytest.mark.root, pytest.mark.slow]

HERE = Path(__file__).parent

ESCAPING = (
    "(setsid env -i sleep MARK &); (setsid setsid sh -c 'sleep MARK & sleep MARK' &);"
    " (setsid setpriv --reuid nobody --clear-groups sleep MARK &);"
    " (trap '' TERM HUP INT; sleep MARK)"
)
"""Five processes: without an environment, without a parent, of another user, and one that cannot be asked."""

SLEEPING = 5


@pytest.fixture
def mark() -> str:
    """Seconds to sleep that no other process on this host sleeps."""
    return f"{1000 + os.getpid()}.{time.monotonic_ns()}"


@pytest.fixture
def illumos(tmp_path: Path, cold_daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory of this test's stand-ins. `cold_daemon` takes its host for illumos."""
    shutil.copy(HERE / "sitecustomize.py", tmp_path)
    place = tmp_path / "illumos"
    shutil.copytree(HERE / "illumos", place, ignore=shutil.ignore_patterns("contracts"))
    monkeypatch.setenv("PYTHONPATH", str(place))
    yield place
    (place / "no-kernel").unlink(missing_ok=True)


def sleeping(mark: str) -> list[int]:
    """The processes that sleep for so long."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:2] == [b"sleep", mark.encode()]:
            found.append(int(place.name))
    return found


def until(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def contracts(illumos: Path) -> list[int]:
    return [int(line.split()[0]) for line in (illumos / "contracts").read_text().splitlines()]


def started(daemon: Daemon, write_manifest: Any, mark: str) -> str:
    """A build whose second checkpoint waits, the first time, with five processes that try to escape."""
    flag = daemon.state_dir.parent / "flag"
    line = f"test -e {flag} || (touch {flag}; {ESCAPING.replace('MARK', mark)})"
    build = daemon.submit(write_manifest(("one", "true"), ("two", line), ("three", "true")))
    assert until(lambda: len(sleeping(mark)) == SLEEPING), daemon.log.read_text()[-3000:]
    return build


def completes(daemon: Daemon, build: str) -> None:
    final = daemon.wait(build, "completed")
    assert [each["attempts"] for each in final["checkpoints"]] == [1, 2, 1]


def test_each_attempt_is_in_a_contract_of_its_own_and_nothing_outlives_it(
    illumos: Path, cold_daemon: Daemon, write_manifest: Any, mark: str
) -> None:
    cold_daemon.settings["cancel_grace_seconds"] = 0.2
    daemon = cold_daemon.start()
    build = daemon.submit(write_manifest(("one", "(setsid sleep 0.3 &)"), ("two", "true")))
    assert daemon.wait(build)["state"] == "completed"
    assert len(set(contracts(illumos))) == 2
    assert "dcd.worker.supervisor" in (illumos / "contracts").read_text()
    assert "portable: this system has no Linux namespaces" in daemon.run("doctor").stdout
    build = started(daemon, write_manifest, mark)
    daemon.ctl("cancel", build)
    daemon.wait(build, "cancelled")
    assert sleeping(mark) == []
    assert daemon.leaks() == []
    assert daemon.stop() == 0


def test_hung_tools_end_with_the_daemon(
    illumos: Path, cold_daemon: Daemon, write_manifest: Any, mark: str
) -> None:
    daemon = cold_daemon.start()
    build = started(daemon, write_manifest, mark)
    daemon.kill()
    assert until(lambda: sleeping(mark) == [])
    daemon.start()
    completes(daemon, build)
    assert daemon.leaks() == []
    assert daemon.stop() == 0


def test_what_a_dead_daemon_has_left_is_found_by_its_contract(
    illumos: Path, cold_daemon: Daemon, write_manifest: Any, mark: str
) -> None:
    (illumos / "no-kernel").touch()
    daemon = cold_daemon.start()
    build = started(daemon, write_manifest, mark)
    contract = contracts(illumos)[-1]
    supervisor = int(Path(f"/proc/{contract}/task/{contract}/children").read_text().split()[0])
    assert daemon.process is not None
    victims = (daemon.process.pid, daemon.launcher(), contract, supervisor)
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for victim in victims:
            os.kill(victim, number)
    daemon.process.wait()
    daemon.wait_for_launcher()
    assert len(sleeping(mark)) == SLEEPING
    daemon.start()
    assert sleeping(mark) == []
    completes(daemon, build)
    assert daemon.leaks() == []
    assert daemon.stop() == 0


def test_a_killed_transfer_continues_with_what_it_had_downloaded(
    illumos: Path, cold_daemon: Daemon, mirror: Mirror, tmp_path: Path
) -> None:
    calls = illumos / "calls"
    write_stand_in(illumos / "bin/pkg", calls)
    catalog = mirror.directory / "one/catalog/1"
    catalog.mkdir(parents=True)
    (catalog / "catalog.attrs").write_text('{"parts": {"c": {"signature-sha-1": "1"}}}')
    (mirror.directory / "packages").write_text("base more")
    manifest = tmp_path / "ips.xml"
    manifest.write_text(
        f'<dc><distro name="ips">{software(install("base", "more"), publisher(mirror.uri))}<execution>'
        '<checkpoint name="t" mod_path="solaris_install/transfer/ips" checkpoint_class="TransferIPS"/>'
        "</execution></distro></dc>"
    )
    hang = Path(f"{calls}-hang")
    hang.touch()
    daemon = cold_daemon.start()
    build = daemon.submit(manifest)
    incoming = daemon.state_dir / "packages/incoming"
    assert until(lambda: list(incoming.glob("*/contents/one/file/*/*")) != [])
    daemon.kill()
    daemon.start()
    hang.unlink()
    daemon.wait(build, "completed")
    lines = daemon.ctl("logs", build, "t").splitlines()
    assert {"cached: base", "fetched: more"} <= set(lines)
    assert "from the package store: 1 of 2 files" in daemon.log.read_text() + "\n".join(lines)
    assert daemon.json("df")["package_bytes"] > 0
    again = daemon.submit(manifest, "--fresh")
    daemon.wait(again, "completed")
    assert {"cached: base", "cached: more"} <= set(daemon.ctl("logs", again, "t").splitlines())
    daemon.ctl("rm", build, again)
    daemon.ctl("gc", "--max-bytes", "0")
    assert daemon.json("df")["package_bytes"] == 0
    assert daemon.stop() == 0
