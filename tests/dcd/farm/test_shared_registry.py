"""What `doctor` says of a registry for layers: Debian's own, with a login, and behind a proxy with faults."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dcd.farm.shared_registry import reading_registry, said
from dcd.main import main
from statemachine.errors import CheckpointError
from tests.dcd.checkpoints.publishing import faulty, free_port
from tests.dcd.farm.registries import RunningRegistry, registry

ME = ("me", "word")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


def test_an_empty_registry_that_takes_the_login_is_well(running: RunningRegistry) -> None:
    reading_registry(running.url, ME).check()


@pytest.mark.parametrize("login", [None, ("me", "other"), ("nobody", "word")])
def test_a_registry_that_refuses_the_login_says_so(
    running: RunningRegistry, login: tuple[str, str] | None
) -> None:
    with pytest.raises(CheckpointError, match="refuses the credentials") as caught:
        reading_registry(running.url, login).check()
    assert "farm_registry_login" in caught.value.resolution
    assert "word" not in said(caught.value)


def test_a_registry_that_answers_500_or_is_none_says_so(running: RunningRegistry) -> None:
    with faulty(running.port) as proxy:
        proxy.answers = [500]
        with pytest.raises(CheckpointError, match="does not work as the registry") as caught:
            reading_registry(f"http://{proxy.host}/dcd", ME).check()
        assert "500" in said(caught.value)
        proxy.answers = [404]
        with pytest.raises(CheckpointError, match="does not have the place"):
            reading_registry(f"http://{proxy.host}/dcd", ME).check()
        assert proxy.sent("PUT") == proxy.sent("POST") == []


def test_dcd_doctor_asks_the_registry_of_a_configuration(
    running: RunningRegistry,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dcd.doctor.examine", lambda *_: [])
    monkeypatch.setenv("DCD_SECRET_REGISTRY", "me:word")
    file = tmp_path / "dcd.toml"
    for url, value in (
        (running.url, f"{running.url} answers"),
        (f"http://127.0.0.1:{free_port()}/dcd", "Connection refused"),
    ):
        file.write_text(f'[farm]\nregistry = "{url}"\nregistry_login = "DCD_SECRET_REGISTRY"\n')
        assert main(["doctor", "--config", str(file)]) == 0
        assert value in capsys.readouterr().out
    monkeypatch.delenv("DCD_SECRET_REGISTRY")
    assert main(["doctor", "--config", str(file)]) == 0
    assert "DCD_SECRET_REGISTRY" in capsys.readouterr().out
