"""How long the examination of a host takes: its checks run side by side, and none of them blocks it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dcd import doctor
from store.host import tools

pytestmark = pytest.mark.slow

SLOW = ("mksquashfs", "xorriso", "mke2fs", "zstd", "xz", "cpio")


@pytest.fixture
def slow_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A host whose tools answer as soon as the shell line in the file `ready` succeeds."""
    programs = tmp_path / "bin"
    programs.mkdir()
    ready = tmp_path / "ready"
    for name in SLOW:
        script = programs / name
        script.write_text(
            f"#!/bin/sh\n: >{tmp_path}/asked-{name}\n"
            f"until . {ready}; do /bin/sleep 0.1; done\necho 1.2.3\n"
        )
        script.chmod(0o755)
    monkeypatch.setattr(tools, "TOOL_PATH", str(programs))
    yield tmp_path
    ready.write_text("true")


def test_slow_checks_run_side_by_side_and_in_the_order_for_people(
    slow_host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # None answers before all have been asked.
    (slow_host / "ready").write_text(
        " && ".join(f"[ -e {slow_host}/asked-{name} ]" for name in SLOW)
    )
    monkeypatch.setattr(doctor, "LIMIT_SECONDS", 100.0)
    found = doctor.examine(slow_host / "state")
    names = [check.name for check in found]
    assert [name for name in names if name in SLOW] == list(SLOW)
    assert [check.value for check in found if check.name in SLOW] == ["1.2.3"] * len(SLOW)
    assert names[-1] == "apt sources"
    state = slow_host / "state"
    assert f"works in {state}/layers" in {check.name: check.value for check in found}["layers"]
    assert not state.exists(), "an examination leaves nothing"
    assert list(slow_host.glob(".dcd-doctor-*")) == []


def test_a_check_that_does_not_answer_is_reported_and_waited_for_no_longer(
    slow_host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (slow_host / "ready").write_text("false")
    monkeypatch.setattr(doctor, "LIMIT_SECONDS", 4.0)
    checks = {check.name: check for check in doctor.examine(slow_host / "state")}
    late = [name for name in SLOW if "no answer within 4 seconds" in checks[name].value]
    assert late == list(SLOW)
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
