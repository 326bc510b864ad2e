"""Suites of the engine and of faults with portable workers, as on a host without util-linux.

The daemon's Python lacks what it lacks on illumos. This is a part of the suites, so that it takes a minute.
All of them: `DCD_TEST_WORKER=portable PYTHONPATH=tests/no_linux pytest tests/dcd/engine tests/faults`; there,
tests that mount are skipped.
"""

import time
from pathlib import Path
from typing import Any

import pytest

from tests import conftest
from tests.dcd.engine import test_builds_run as runs
from tests.dcd.engine.test_distro_const import zfs_dataset
from tests.dcd.test_missing_tools import UTIL_LINUX, Hide, hide
from tests.faults import test_kill_daemon as kills
from tests.faults.conftest import frail, frail_zygote, injector, witness, zygote

__all__ = ["frail", "frail_zygote", "hide", "injector", "witness", "zfs_dataset", "zygote"]

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.fixture(autouse=True)
def portable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(conftest.WORKER, "portable")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


class TestWithoutUtilLinux:
    """With its programs hidden."""

    @pytest.fixture(autouse=True)
    def hidden(self, cold_daemon: conftest.Daemon, hide: Hide) -> None:
        cold_daemon.wrapper = hide(UTIL_LINUX)

    test_runs = staticmethod(runs.test_build_runs_its_checkpoints_in_order_each_on_the_layer_before)
    test_reuses = staticmethod(runs.test_unchanged_manifest_reuses_every_layer)
    test_cancels = staticmethod(runs.test_cancel_stops_the_attempt_and_all_that_it_started)
    test_interrupts = staticmethod(runs.test_stop_interrupts_what_takes_longer_than_the_grace)
    test_resumes = staticmethod(runs.test_failed_build_says_why_and_resume_runs_only_what_failed)


@pytest.mark.parametrize("part", ["launcher"])
def test_killed_in_every_checkpoint(
    cold_daemon: Any, witness: Any, write_manifest: Any, tmp_path: Path, part: str
) -> None:
    kills.test_killed_in_every_checkpoint_the_build_goes_on_from_the_interrupted_one(
        cold_daemon, witness, write_manifest, tmp_path, part
    )


def test_layers_are_snapshots_of_zfs(
    cold_daemon: conftest.Daemon, write_manifest: Any, zfs_dataset: tuple[str, Path], tmp_path: Path
) -> None:
    _, place = zfs_dataset
    cold_daemon.state_dir = place / "state"
    daemon = cold_daemon.start()
    waiting = f"test -e {tmp_path}/flag || (touch {tmp_path}/flag; sleep 1000)"
    one = "touch {PKG_IMAGE_PATH}/one"
    manifest = write_manifest(("one", one), ("two", waiting), ("three", "ls {PKG_IMAGE_PATH}"))
    build = daemon.submit(manifest)
    deadline = time.monotonic() + 60
    while not (tmp_path / "flag").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    daemon.kill()
    daemon.start()
    final = daemon.wait(build, "completed")
    assert [each["attempts"] for each in final["checkpoints"]] == [1, 2, 1]
    assert b'"backend": "zfs"' in daemon.log.read_bytes()
    assert [each for each in daemon.leaks() if " fuse.zfs " not in each] == []
    assert daemon.stop() == 0
