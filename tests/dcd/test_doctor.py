"""How long the examination of a host takes: its checks run side by side, and none of them blocks it."""

import time
from pathlib import Path

import pytest

from dcd import doctor
from store.host import tools

SLOW = ("mksquashfs", "xorriso", "mke2fs", "zstd", "xz", "cpio")


@pytest.fixture
def slow_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host whose tools answer after the number of seconds in the file `seconds`."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in SLOW:
        script = programs / name
        script.write_text(f"#!/bin/sh\n/bin/sleep $(/bin/cat {tmp_path}/seconds)\necho 1.2.3\n")
        script.chmod(0o755)
    monkeypatch.setattr(tools, "TOOL_PATH", str(programs))
    return tmp_path


def test_slow_checks_run_side_by_side_and_in_the_order_for_people(slow_host: Path) -> None:
    (slow_host / "seconds").write_text("1")
    begun = time.monotonic()
    found = doctor.examine(slow_host / "state")
    assert time.monotonic() - begun < len(SLOW) - 1
    names = [check.name for check in found]
    assert [name for name in names if name in SLOW] == list(SLOW)
    assert [check.value for check in found if check.name in SLOW] == ["1.2.3"] * len(SLOW)
    assert names[-1] == "apt sources"


def test_a_check_that_does_not_answer_is_reported_and_waited_for_no_longer(
    slow_host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (slow_host / "seconds").write_text("8")
    monkeypatch.setattr(doctor, "LIMIT_SECONDS", 4.0)
    begun = time.monotonic()
    checks = {check.name: check for check in doctor.examine(slow_host / "state")}
    assert time.monotonic() - begun < 6
    late = [name for name in SLOW if "no answer within 4 seconds" in checks[name].value]
    assert late
    assert {checks[name].status for name in late} == {"warning"}
    assert checks["space"].status in ("ok", "warning")
    assert "free in" in checks["space"].value


@pytest.mark.parametrize(("mode", "status"), [(0o711, "ok"), (0o755, "ok"), (0o700, "warning")])
def test_secrets_whose_owners_the_daemon_cannot_see_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, status: str
) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets").chmod(mode)
    monkeypatch.setattr(doctor, "DIRECTORIES", (tmp_path / "secrets",))
    found = doctor._secrets()
    assert found is not None
    assert found[0] == status
    assert status == "ok" or found[2].startswith("chmod 0711 ")


def test_a_server_without_secrets_is_told_nothing_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "DIRECTORIES", (tmp_path / "absent",))
    assert doctor._secrets() is None
