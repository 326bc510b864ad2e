"""Workers of a daemon that is not root: forked into a user namespace, and gone with the launcher."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import Daemon
from tests.dcd.test_without_root import as_nobody, building, manifest

__all__ = ["building"]

pytestmark = [pytest.mark.root, pytest.mark.daemon]


def marked(daemon: Daemon) -> dict[int, bytes]:
    """The processes with the daemon's mark, each with its command line."""
    mark = f"DCD_ATTEMPT={(daemon.state_dir / 'id').read_text()}:".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and mark in (entry / "environ").read_bytes():
                found[int(entry.name)] = (entry / "cmdline").read_bytes()
        except OSError:
            continue
    return found


def eventually(daemon: Daemon, *, running: bool) -> dict[int, bytes]:
    deadline = time.monotonic() + 30
    while bool(found := marked(daemon)) != running:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found


def test_a_forked_worker_ends_with_the_launcher_and_not_with_the_zygote(
    building: Daemon, tmp_path: Path
) -> None:
    build = building.submit(manifest(tmp_path, "test -e {MEDIA_DIR}/never || sleep 600"))
    commands = eventually(building, running=True)
    assert all(b"dcd.worker.zygote" in command for command in commands.values())
    children = Path(f"/proc/{building.launcher()}/task").glob("*/children")
    direct = [int(pid) for each in children for pid in each.read_text().split()]
    (worker,) = set(direct) & set(commands)
    # It leads the process group of the worker that waits.
    (zygote,) = (
        pid
        for pid in set(direct) - {worker}
        if b"dcd.worker.zygote" in Path(f"/proc/{pid}/cmdline").read_bytes()
        and os.getpgid(pid) == pid
    )
    os.kill(zygote, signal.SIGKILL)
    time.sleep(0.5)
    assert worker in marked(building)

    building.kill_launcher()
    eventually(building, running=False)
    building.start(as_nobody(building.state_dir.parents[1] / "scratch"))
    assert building.run("cancel", build).returncode == 0
