"""Hostile submits of exports: the provenance vouches for all of it, and lists of packages are bounded."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest

from dcd.engine import rebuilds
from statemachine.keys import chain
from statemachine.plan import Ingredient, PlannedCheckpoint
from store.resolved import Repository, RepositoryFile, Resolved, encoded

EPOCH = 1_700_000_000
SHA = {name: name * 64 for name in "abcd"}
PLAN = chain(
    [PlannedCheckpoint("one", "", "dcd/x", "One", "", (Ingredient("code", "", "code-1"),))]
)
Request = Callable[..., httpx.Response]


def uploaded(request_: Request, content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    assert request_("PUT", f"/v1/blobs/{digest}", content=content).status_code in (200, 201)
    return digest


def provenance(submission: Any, lists: tuple[str, ...], files: list[Any]) -> dict[str, Any]:
    """The provenance of another server's build of the submitted manifest."""
    manifest = hashlib.sha256(submission["manifest"]["text"].encode()).hexdigest()
    own = {"name": "small.xml", "digest": {"sha256": SHA["a"]}}
    results = {"name": "one", "uri": "urn:dcd:checkpoint", "digest": {"sha256": SHA["c"]}}
    definition = {
        "buildType": "urn:dcd:build:v1",
        "externalParameters": {
            "manifest": own,
            "exported_manifest": {"name": "manifest.xml", "digest": {"sha256": manifest}},
            "source_date_epoch": EPOCH,
        },
        "internalParameters": {
            "checkpoints": [{"name": "one", "class": "dcd/x:One", "key": PLAN.checkpoints[0].key}]
        },
        "resolvedDependencies": [
            *({"uri": "urn:dcd:packages", "digest": {"sha256": name}} for name in lists),
            *files,
        ],
    }
    run = {
        "builder": {"id": "https://builds.example.org/", "version": {"dcd": "0.2.0"}},
        "metadata": {"invocationId": "b0"},
        "byproducts": [results],
    }
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "small.iso", "digest": {"sha256": SHA["b"]}}, own],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {"buildDefinition": definition, "runDetails": run},
    }


@pytest.fixture
def body(request_: Request, submission: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """The body of a submit that its provenance, which is uploaded, vouches for."""

    def make(*lists: str, files: Any = ()) -> dict[str, Any]:
        said = json.dumps(provenance(submission, lists, files)).encode()
        rebuild = {
            "build": "b0",
            "builder": "https://builds.example.org/",
            "version": "0.2.0",
            "provenance": uploaded(request_, said),
            "products": {"small.iso": SHA["b"]},
            "contents": {"one": SHA["c"]},
            "plan": msgspec.to_builtins(PLAN),
        }
        return {**submission, "source_date_epoch": EPOCH, "lists": lists, "rebuild": rebuild}

    return make


def test_what_its_provenance_says_is_rebuilt(
    request_: Request, body: Callable[..., dict[str, Any]]
) -> None:
    answer = request_("POST", "/v1/builds", json=body())
    assert answer.status_code == 201, answer.text


PLAN_OF_OTHERS = msgspec.to_builtins(PLAN)
PLAN_OF_OTHERS["checkpoints"][0]["ingredients"][0]["digest"] = "code-2"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("build", "b1"),
        ("builder", "https://elsewhere.example.org/"),
        ("version", "9"),
        ("products", {"small.iso": SHA["d"]}),
        ("products", {}),
        ("contents", {"one": SHA["d"]}),
        ("manifests", {"two": SHA["d"]}),
        ("plan", PLAN_OF_OTHERS),
    ],
)
def test_what_its_provenance_does_not_say_is_compared_with_nothing(
    request_: Request, body: Callable[..., dict[str, Any]], field: str, value: Any
) -> None:
    sent = body()
    sent["rebuild"][field] = value
    refused(request_, sent)


@pytest.mark.parametrize(
    "other",
    [
        {"source_date_epoch": EPOCH + 1},
        {"parameters": {"a": "b"}},
        {"lists": [SHA["d"]]},
    ],
)
def test_a_rebuild_from_something_else_is_refused(
    request_: Request, body: Callable[..., dict[str, Any]], other: dict[str, Any]
) -> None:
    refused(request_, {**body(), **other})


@pytest.mark.parametrize("other", [{}, {"mode": "0777"}, {"digest": {"sha256": SHA["d"]}}])
def test_a_file_that_its_provenance_does_not_name_is_refused(
    request_: Request, submission: dict[str, Any], body: Any, other: dict[str, Any]
) -> None:
    digest = uploaded(request_, b"true")
    script = '<kwargs><arg name="script">pack.sh</arg></kwargs>'
    text = submission["manifest"]["text"].replace("<args>true</args>", script)
    submission["manifest"]["text"] = text
    submission["files"] = {"/home/me/pack.sh": {"sha256": digest, "mode": 0o755}}
    file = {"name": "pack.sh", "digest": {"sha256": digest}}
    known = {**file, "uri": "urn:dcd:input", "annotations": {"mode": "0755"}}
    sent = body(files=[known])
    if other:
        mode = {"annotations": {"mode": other["mode"]}} if "mode" in other else other
        refused(request_, body(files=[{**known, **mode}]))
    else:
        refused(request_, body())
    answer = request_("POST", "/v1/builds", json=sent)
    assert answer.status_code == 201, answer.text


def test_a_manifest_that_delivers_the_same_bytes_is_no_rebuild(
    request_: Request, body: Callable[..., dict[str, Any]]
) -> None:
    sent = body()
    text = sent["manifest"]["text"].replace("true", "cp /known/small.iso {MEDIA_DIR}")
    refused(request_, {**sent, "manifest": {**sent["manifest"], "text": text}})


def test_a_provenance_that_was_not_uploaded_or_is_none_vouches_for_nothing(
    request_: Request, body: Callable[..., dict[str, Any]]
) -> None:
    sent = body()
    sent["rebuild"]["provenance"] = "0" * 64
    assert request_("POST", "/v1/builds", json=sent).status_code == 404
    for content in (b"{", b"{}", b"[" * 100_000, b"\xff", b'{"subject": 1}'):
        sent["rebuild"]["provenance"] = uploaded(request_, content)
        refused(request_, sent)


def refused(request_: Request, body: dict[str, Any]) -> None:
    answer = request_("POST", "/v1/builds", json=body)
    assert answer.status_code == 400, answer.text
    assert "does not match its provenance" in answer.json()["title"]
    assert request_("GET", "/v1/builds").json()["builds"] == []


def test_lists_that_would_take_too_much_memory_are_refused_unread(
    request_: Request, body: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilds, "MOST_LISTS_BYTES", 10)
    answer = request_("POST", "/v1/builds", json=body(uploaded(request_, b"[" * 11)))
    assert answer.status_code == 400
    assert "too long" in answer.text
    assert request_("GET", "/v1/builds").json()["builds"] == []


def test_a_packed_release_file_that_is_none_is_an_error_of_the_list(
    request_: Request, body: Callable[..., dict[str, Any]]
) -> None:
    stored = uploaded(request_, b"no gzip")
    repository = Repository("http://deb.example.org/debian", "bookworm")
    file = RepositoryFile(repository.uri, repository.suite, "Release", "1" * 64, 7, stored)
    found = encoded(Resolved((), (file,), (repository,)))
    answer = request_("POST", "/v1/builds", json=body(uploaded(request_, found)))
    assert "is damaged" in answer.json()["title"] + answer.json().get("brief", "")
