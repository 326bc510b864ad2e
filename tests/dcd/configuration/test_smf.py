"""Settings through svcprop, and what a failed start tells SMF."""

from pathlib import Path

import pytest

from dcd import configuration
from dcd.configuration import InvalidConfiguration, smf
from statemachine.errors import DcdError, PermissionDenied, Unavailable, Unprepared

INSTANCE = {"SMF_FMRI": "svc:/application/dcd:default"}


def stand_in(directory: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    tool = directory / "svcprop"
    tool.write_text(f"#!/bin/sh\n{text}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")


def test_settings_come_from_the_instances_property_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(
        tmp_path,
        monkeypatch,
        '[ "$*" = "-p config svc:/application/dcd:default" ] || exit 3\n'
        "echo 'config/max_running_builds count 5'",
    )
    effective = configuration.from_smf(smf.settings(INSTANCE))
    assert effective.configuration.max_running_builds == 5
    assert effective.origins["max_running_builds"] == "property config/max_running_builds"


def test_what_svcprop_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, 'echo "svcprop: Pattern doesn\'t match" >&2; exit 1')
    with pytest.raises(Unprepared, match="exit status 1: svcprop: Pattern doesn't match"):
        smf.settings(INSTANCE)
    with pytest.raises(Unprepared, match="SMF_FMRI is not set"):
        smf.settings({})
    (tmp_path / "svcprop").unlink()
    with pytest.raises(Unprepared, match="No such file"):
        smf.settings(INSTANCE)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidConfiguration("dcd.toml", ["x"]), 96),
        (PermissionDenied("x"), 100),
        (Unavailable("x"), 95),
        (Unprepared("x"), 95),
        (DcdError("x"), 1),
    ],
)
def test_what_a_retry_cannot_mend_leads_to_maintenance(error: DcdError, status: int) -> None:
    assert smf.exit_status(error) == status
