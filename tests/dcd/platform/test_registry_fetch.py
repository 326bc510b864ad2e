"""What is fetched from Debian's docker-registry, through a proxy with faults: whole, or an error."""

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from dcd.platform.publishing.http import Answer, Broken, Piece, Server, Texts
from dcd.platform.publishing.registry import Registry
from statemachine.errors import CheckpointError
from tests.dcd.checkpoints.publishing import Faulty, faulty, serving
from tests.docker_registry import digest, registry_command

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONTENT = bytes(range(251)) * 8192
"""2 MiB."""


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with serving(registry_command(tmp_path_factory.mktemp("registry"), login=False)) as port:
        yield port


@pytest.fixture
def proxy(port: int) -> Iterator[Faulty]:
    with faulty(port) as found:
        yield found


def registry(proxy: Faulty, name: str = "dcd/layers", seconds: float = 20.0) -> Registry:
    texts = Texts("does not work", "wait", "correct the login", "create it")
    return Registry(Server("http", proxy.host, seconds, pauses=(0.01,), texts=texts), name)


def stored(proxy: Faulty, content: bytes = CONTENT) -> str:
    registry(proxy).put_blob(digest(content), Piece(Path(), 0, len(content), content))
    return digest(content)


def fetched(proxy: Faulty, name: str, size_bytes: int = len(CONTENT)) -> bytes:
    return b"".join(registry(proxy, seconds=2.0).get_blob(name, size_bytes))


@pytest.mark.slow
def test_a_blob_is_fetched_whole_also_when_it_breaks_off(proxy: Faulty) -> None:
    name = stored(proxy)
    assert fetched(proxy, name) == CONTENT
    proxy.requests.clear()
    proxy.cuts += [700_000, 500_000]
    assert fetched(proxy, name) == CONTENT
    assert len(proxy.sent("GET")) == 3
    proxy.hangs = 1
    assert fetched(proxy, name) == CONTENT
    proxy.answers += [500, 503]
    assert fetched(proxy, name) == CONTENT


def test_a_registry_that_cannot_continue_sends_the_blob_again(
    proxy: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = stored(proxy)
    original = Server.streamed

    def without_ranges(
        self: Server, target: str, headers: Mapping[str, str], **more: Any
    ) -> AbstractContextManager[tuple[Answer, Iterator[bytes]]]:
        kept = {name: value for name, value in headers.items() if name != "Range"}
        return original(self, target, kept, **more)

    monkeypatch.setattr(Server, "streamed", without_ranges)
    proxy.cuts += [1_500_000, 900_000]
    assert fetched(proxy, name) == CONTENT


def test_a_receiver_may_stop(proxy: Faulty) -> None:
    client = registry(proxy)
    pieces = client.get_blob(stored(proxy), len(CONTENT))
    assert CONTENT.startswith(next(pieces))
    pieces.close()  # type: ignore[attr-defined]
    assert b"".join(client.get_blob(digest(CONTENT), len(CONTENT))) == CONTENT


def test_a_registry_that_deletes_nothing_says_so(proxy: Faulty) -> None:
    proxy.answers.append(405)
    assert not registry(proxy).delete_manifest(digest(b""))


def test_wrong_bytes_are_refused(proxy: Faulty) -> None:
    name = stored(proxy)
    proxy.spoils = 1
    with pytest.raises(CheckpointError, match=f"does not send the blob {name}") as failed:
        fetched(proxy, name)
    assert not isinstance(failed.value, Broken)
    with pytest.raises(CheckpointError, match="does not send the blob") as failed:
        fetched(proxy, name, len(CONTENT) - 1)
    assert "more than" in failed.value.details


def test_a_registry_that_stays_broken_is_an_error(proxy: Faulty) -> None:
    name = stored(proxy)
    proxy.cuts += [1000] * 20
    with pytest.raises(CheckpointError):
        fetched(proxy, name)
    proxy.cuts.clear()
    proxy.answers += [500] * 20
    with pytest.raises(Broken, match="does not work") as failed:
        fetched(proxy, name)
    assert "500" in failed.value.details
    assert failed.value.resolution == "wait"


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_a_refusal_is_an_error_that_is_not_tried_again(proxy: Faulty, status: int) -> None:
    name = stored(proxy)
    proxy.requests.clear()
    proxy.answers += [status] * (2 if status == 401 else 1)
    with pytest.raises(CheckpointError, match=str(status)) as failed:
        fetched(proxy, name)
    assert not isinstance(failed.value, Broken)
    assert len(proxy.requests) <= 2


def test_manifests_are_read_listed_and_deleted(proxy: Faulty) -> None:
    client = registry(proxy, "dcd/some")
    assert client.tags() == []
    assert client.get_manifest("one") is None
    config = b"{}"
    client.put_blob(digest(config), Piece(Path(), 0, len(config), config))
    named = {"mediaType": "application/x", "digest": digest(config), "size": len(config)}
    text = json.dumps(
        {"schemaVersion": 2, "mediaType": MANIFEST, "config": named, "layers": []}
    ).encode()
    for tag in ("one", "two"):
        client.put_manifest(tag, MANIFEST, text)
    assert sorted(client.tags()) == ["one", "two"]
    assert client.get_manifest("one") == client.get_manifest(digest(text)) == (digest(text), text)
    assert client.delete_manifest(digest(text))
    assert client.delete_manifest(digest(text)), "it is gone"
    assert client.get_manifest("one") is None
    assert client.tags() == []
