"""A build that waits says for what."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root


def until(happened: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_a_build_that_waits_for_anothers_layer_says_so(
    daemon: Any, write_manifest: Any, tmp_path: Path
) -> None:
    manifest = write_manifest(("one", f"until [ -e {tmp_path}/go-on ]; do sleep 0.1; done"))
    first = daemon.submit(manifest)
    daemon.wait_for_event(first, "CheckpointStarted")
    second = daemon.submit(manifest)
    until(lambda: daemon.status(second)["reason"])
    assert daemon.status(second)["reason"] == (
        "waits for another build, which is creating the same layer"
    )
    (tmp_path / "go-on").touch()
    assert daemon.wait(second)["reason"] == ""
    assert daemon.status(second)["checkpoints"][0]["reused_from"] == first


def test_a_waiting_build_can_be_cancelled(daemon: Any, write_manifest: Any) -> None:
    manifest = write_manifest(("one", "sleep 60"))
    first = daemon.submit(manifest)
    daemon.wait_for_event(first, "CheckpointStarted")
    second = daemon.submit(manifest)
    until(lambda: daemon.status(second)["reason"])
    for build in (second, first):
        daemon.ctl("cancel", build)
        assert daemon.wait(build, "cancelled")["state"] == "cancelled"
