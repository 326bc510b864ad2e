"""Where a private daemon keeps its state: in a directory of its user alone."""

import os
from pathlib import Path

import pytest

from cli.client import ClientError
from cli.private import _create, _require_own, some_daemon


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The socket of a service that does not run."""
    monkeypatch.delenv("DCD_SOCKET", raising=False)
    monkeypatch.setattr("cli.private.service_socket", lambda: str(tmp_path / "none.sock"))
    return str(tmp_path / "none.sock")


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_a_directory_that_others_may_write_to_is_refused(
    nobody: str, tmp_path: Path, mode: int
) -> None:
    directory = tmp_path / "state"
    directory.mkdir()
    directory.chmod(mode)
    with (
        pytest.raises(ClientError, match="does not keep its state") as failed,
        some_daemon(nobody, directory),
    ):
        pass
    assert f"{mode:04o}" in failed.value.details
    assert "chmod go-w" in failed.value.resolution
    assert list(directory.iterdir()) == []


@pytest.mark.root
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    _require_own(directory)
    os.chown(directory, 1234, 1234)
    with pytest.raises(ClientError) as failed:
        _require_own(directory)
    assert "1234" in failed.value.details


def test_the_log_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "daemon.log").symlink_to("precious")
    with pytest.raises(OSError, match="symbolic links"):
        _create(tmp_path / "daemon.log")
    assert (tmp_path / "precious").read_text() == "kept"
