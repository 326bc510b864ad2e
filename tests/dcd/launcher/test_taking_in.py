"""The packages of a completed attempt are taken in while its layer is described, and before it has a name."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dcd.launcher.operations import Operations
from dcd.launcher.orders import AttemptOrder
from dcd.worker.request import WorkerRequest
from statemachine.errors import DcdError
from store.artifacts import Artifacts
from store.layers import LayerRecord
from store.layers.copy import CopyTrees
from store.layers.directory import LayerDirectory
from store.layers.integrity import Contents
from store.logs import AttemptLogs
from store.packages import Packages
from store.resolved import Resolved, ResolvedPackage, encoded

KEY = "1" * 64
CONTENT = b"content of a package"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SECONDS = 30


@pytest.fixture
def operations(tmp_path: Path) -> Operations:
    layers = LayerDirectory(tmp_path / "layers/copy", CopyTrees())
    layers.directory.parent.mkdir()
    layers.prepare()
    packages = Packages(tmp_path / "packages")
    packages.prepare()
    artifacts, logs = Artifacts(tmp_path / "artifacts"), AttemptLogs(tmp_path / "logs")
    logs.prepare()
    return Operations(layers, artifacts, logs, tmp_path / "blobs", packages, "state")


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Nothing is taken in before this is set."""
    opened, take_in = threading.Event(), Packages.take_in

    def when_opened(packages: Packages, lent: Any) -> int:
        assert opened.wait(SECONDS)
        return take_in(packages, lent)

    monkeypatch.setattr(Packages, "take_in", when_opened)
    yield opened
    opened.set()


def attempt(operations: Operations, build: str, number: int = 1) -> WorkerRequest:
    name = f"{build}.0.{number}"
    operations.layers.begin(None, name)
    place = ("dcd/checkpoints/custom_script", "CustomScript")
    return operations.attempt(AttemptOrder(build, "one", number, *place, "", name, packages=True))


def download(request: WorkerRequest, directory: Path) -> str:
    """Do what a transfer does. Returns the digest of its list."""
    assert request.packages is not None
    file = directory / "p.deb"
    file.write_bytes(CONTENT)
    request.packages.keep(file)
    package = ResolvedPackage("deb", "p", "1", "all", SHA256, len(CONTENT), "", True)
    return request.packages.add(encoded(Resolved((package,))))


def record(resolved: str) -> LayerRecord:
    return LayerRecord(KEY, None, "b", "one", 1, 1.0, resolved=resolved)


def started(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_a_layer_is_described_meanwhile_and_named_afterwards(
    operations: Operations,
    gate: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    describe = Contents.record

    def opening(contents: Contents, *arguments: Any) -> Any:
        described = describe(contents, *arguments)
        assert not operations.packages.has(SHA256)
        gate.set()
        return described

    monkeypatch.setattr(Contents, "record", opening)
    request = attempt(operations, "b")
    listed = download(request, tmp_path)
    operations.ended(request, completed=True)
    layer = operations.commit("b.0.1", record(listed), None)
    assert operations.layers.find(KEY) == layer
    assert {each.sha256 for each in operations.packages.stored()} == {SHA256, listed}


def test_a_layer_whose_packages_cannot_be_stored_gets_no_name(
    operations: Operations,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(packages: Packages, lent: Any) -> int:
        raise OSError("the disk is broken")

    monkeypatch.setattr(Packages, "take_in", fail)
    request = attempt(operations, "b")
    listed = download(request, tmp_path)
    operations.ended(request, completed=True)
    with pytest.raises(DcdError, match="does not have"):
        operations.commit("b.0.1", record(listed), None)
    assert "packages are not kept: the disk is broken" in capsys.readouterr().err
    assert operations.layers.find(KEY) is None
    # Nobody holds its workspace, and without the packages it can become a layer.
    assert operations.commit("b.0.1", record(""), None) == operations.layers.find(KEY)


def test_the_next_attempt_of_the_build_waits_and_one_of_another_build_does_not(
    operations: Operations, gate: threading.Event, tmp_path: Path
) -> None:
    request = attempt(operations, "b")
    download(request, tmp_path)
    operations.ended(request, completed=True)
    had: list[bool] = []

    def next_attempt() -> None:
        lent = attempt(operations, "b", 2).packages
        had.append(lent is not None and lent.has(SHA256))

    waiting = started(next_attempt)
    assert attempt(operations, "other").packages is not None
    assert had == []
    gate.set()
    waiting.join(SECONDS)
    assert had == [True]


def test_those_of_an_attempt_that_is_not_completed_are_taken_in_at_its_end(
    operations: Operations, tmp_path: Path
) -> None:
    request = attempt(operations, "b")
    download(request, tmp_path)
    operations.ended(request)
    assert operations.packages.has(SHA256)
