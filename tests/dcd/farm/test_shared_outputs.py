"""Logs, files and artifacts of other members: what is sent of them, and what people get."""

import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dcd.engine.outputs import Outputs
from dcd.engine.sharing import NotShared, SharedOutput
from dcd.engine.stores import Stores
from dcd.farm import shared_outputs
from dcd.farm.shared_layers import BadManifest
from dcd.farm.shared_outputs import (
    artifact_tag,
    attempt_tag,
    build_of_tag,
    read_outputs,
    send_artifact,
    send_outputs,
)
from dcd.farm.sharing import SharedLayers
from statemachine.build import CheckpointRecord, CheckpointState, Lifecycle
from statemachine.errors import NotFound
from statemachine.results import Artifact
from store.artifacts import Artifacts
from store.blobs import Blobs
from store.logs import AttemptLogs
from tests.dcd.farm.registries import Offered


@pytest.fixture
def offered() -> Any:
    return Offered()


def stores(directory: Path) -> Stores:
    made: Any = Stores(
        privileged=None,  # type: ignore[arg-type]
        blobs=Blobs(directory / "blobs"),
        artifacts=Artifacts(directory / "artifacts"),
        logs=AttemptLogs(directory / "logs"),
        packages=None,  # type: ignore[arg-type]
    )
    made.logs.prepare()
    return made


def build(lifecycle: Lifecycle = Lifecycle.COMPLETED, **more: Any) -> Any:
    """A build of one checkpoint, whose attempt was on the member a."""
    record = CheckpointRecord("one", "k", CheckpointState.COMPLETED, attempts=1, host="a")
    running = record if lifecycle is Lifecycle.RUNNING else None
    plain = {"checkpoints": (record,), "attempts": {"one": 1}, "running": running, "host": "a"}
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return SimpleNamespace(**{"id": "b", "lifecycle": lifecycle, "updated_at": at, **plain, **more})


class Shared(NotShared):
    """What a registry in memory has."""

    def __init__(self, offered: Offered) -> None:
        self._offered: Any = offered

    def outputs(self, build: str, checkpoint: str, attempt: int) -> tuple[SharedOutput, ...]:
        found = self._offered.get_manifest(attempt_tag(build, checkpoint, attempt))
        return tuple(read_outputs(found[1])) if found else ()

    def read(self, digest: str, size_bytes: int) -> Any:
        return self._offered.get_blob(digest, size_bytes)


def written(directory: Path, log: bytes = b"line\n", **files: bytes) -> Outputs:
    """A member whose attempt has left a log and files."""
    made = stores(directory)
    evidence = made.logs.begin("b", "one", 1)
    made.logs.path("b", "one", 1).write_bytes(log)
    for name, content in files.items():
        (evidence / name.replace("_", ".")).write_bytes(content)
    return Outputs(made, host="a")


def send(offered: Any, outputs: Outputs) -> bool:
    return send_outputs(
        offered, attempt_tag("b", "one", 1), "a", outputs.of_attempt(build(), "one", 1)
    )


def test_another_member_shows_what_an_attempt_has_left(tmp_path: Path, offered: Any) -> None:
    here = written(tmp_path / "a", guest_log=b"login:", guest_png=b"\x89PNG")
    there = Outputs(stores(tmp_path / "b"), Shared(offered), "b")
    assert send(offered, here)
    state = build()
    (log,) = there.logs(state)
    assert (log.size_bytes, log.path) == (5, "a:logs/b/one.1.log")
    assert there.open_log(state, "one", "1").read() == b"line\n"
    files = there.files(state, "one", "1")
    assert [(file.name, file.size_bytes) for file in files] == [("guest.log", 6), ("guest.png", 4)]
    assert files == here.files(state, "one", "1")
    assert there.open_file(state, "one", "1", "guest.log").read() == b"login:"
    with pytest.raises(NotFound, match="no file 'other'"):
        there.open_file(state, "one", "1", "other")


def test_an_attempt_on_another_member_is_named_with_its_place(tmp_path: Path, offered: Any) -> None:
    there = Outputs(stores(tmp_path), Shared(offered), "b")
    with pytest.raises(NotFound, match="is on a") as failed:
        there.open_log(build(), "one", "1")
    assert failed.value.details == "it is not in the registry"
    assert failed.value.resolution == "ask there: ssh a dcctl logs b one --attempt 1"
    imported = replace(build().checkpoints[0], host="")
    with pytest.raises(NotFound, match="is on a"):
        there.open_log(build(checkpoints=(imported,)), "one", "1")
    with pytest.raises(NotFound, match="is on a"):
        there.open_file(build(), "one", "1", "guest.log")
    running = build(Lifecycle.RUNNING)
    with pytest.raises(NotFound, match="is on a") as failed:
        there.require_here(running, "one", "1")
    assert failed.value.details == "the attempt runs there"
    Outputs(stores(tmp_path / "a"), host="a").require_here(running, "one", "1")


def test_of_a_long_log_the_end_is_sent_and_a_large_file_stays(
    tmp_path: Path, offered: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_outputs, "MOST_FILE_BYTES", 100)
    monkeypatch.setattr(shared_outputs, "MOST_BYTES", 250)
    here = written(tmp_path / "a", b"x" * 300 + b"end", a=b"." * 90, b=b"." * 101, c=b"." * 60)
    assert send(offered, here)
    there = Outputs(stores(tmp_path / "b"), Shared(offered), "b")
    log = there.open_log(build(), "one", "1").read()
    assert log.startswith(b"[the first 203 bytes of this log are only on a]\nxxx")
    assert log.endswith(b"xend")
    names = [file.name for file in there.files(build(), "one", "1")]
    assert names == ["a"], "b is too large, and with c it would be too much together"


def test_links_that_an_attempt_has_left_are_not_followed(tmp_path: Path, offered: Any) -> None:
    here = written(tmp_path / "a")
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (here.stores.logs.evidence("b", "one", 1) / "guest.log").symlink_to(secret)
    os.mkfifo(here.stores.logs.evidence("b", "one", 1) / "pipe")
    assert send(offered, here)
    assert b"secret" not in b"".join(offered.blobs.values())


def test_an_attempt_without_outputs_sends_nothing(tmp_path: Path, offered: Any) -> None:
    assert not send(offered, Outputs(stores(tmp_path), host="a"))
    assert not offered.manifests


def changed(offered: Any, **of_layer: Any) -> bytes:
    (content,) = offered.manifests.values()
    plain = json.loads(content)
    plain["layers"][0] |= of_layer
    return json.dumps(plain).encode()


def test_a_manifest_of_outputs_that_is_none_is_refused(tmp_path: Path, offered: Any) -> None:
    send(offered, written(tmp_path, guest_log=b"login:"))
    (content,) = offered.manifests.values()
    assert [each.name for each in read_outputs(content)] == ["", "guest.log"]
    title = {"org.opencontainers.image.title": "../x", "io.dcd.changed": "1"}
    file = {"mediaType": shared_outputs.FILE}
    for bad in (
        b"",
        b"[" * 100_000,
        changed(offered, size=1 << 40),
        changed(offered, digest="sha256:x"),
        changed(offered, annotations={}),
        changed(offered, annotations={"io.dcd.changed": "9" * 20}),
        changed(offered, **file, annotations=title),
        content.replace(b'"io.dcd.host":"a"', b'"io.dcd.host":"a b"'),
    ):
        with pytest.raises(BadManifest):
            list(read_outputs(bad))


def test_each_build_has_its_own_manifest_of_an_artifact(tmp_path: Path, offered: Any) -> None:
    """A manifest is deleted with all its tags."""
    path = tmp_path / "x.iso"
    path.write_bytes(b"iso")
    artifact = Artifact("x.iso", "x.iso", "iso", 3, "a" * 64)
    for name in ("one", "two"):
        send_artifact(offered, name, artifact, path)
    tags = [artifact_tag(name, artifact) for name in ("one", "two")]
    assert [build_of_tag(tag) for tag in tags] == ["one", "two"]
    assert len({offered.digest_of(tag) for tag in tags}) == 2
    assert offered.blobs == {f"sha256:{'a' * 64}": b"iso"}
    assert build_of_tag(attempt_tag("b-arm64", "c", 3)) == "b-arm64"
    assert build_of_tag("latest") is None


def test_outputs_of_removed_builds_are_unneeded(tmp_path: Path, offered: Any) -> None:
    send(offered, written(tmp_path))
    log: Any = SimpleNamespace(
        inputs=set, resolved_lists=set, removed_among=lambda builds: {"b"} & builds
    )
    made: Any = SharedLayers.__new__(SharedLayers)
    made._log, made._link = log, SimpleNamespace(reading=offered)
    tag = attempt_tag("b", "one", 1)
    offered.manifests[attempt_tag("c", "one", 1)] = b"{}"
    assert list(made._unneeded(list(offered.manifests))) == [offered.digest_of(tag)]


def test_an_event_with_attempts_without_number_costs_nobody_much(
    tmp_path: Path, offered: Any
) -> None:
    there = Outputs(stores(tmp_path), Shared(offered), "b")
    assert there.logs(build(attempts={"one": 10**15})) == ()
