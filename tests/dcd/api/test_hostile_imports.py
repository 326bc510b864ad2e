"""Hostile lists of packages in a submit from an export."""

import hashlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from dcd.engine import rebuilds
from store.resolved import Repository, RepositoryFile, Resolved, encoded

REBUILD = {"build": "b", "builder": "", "version": "", "provenance": "0" * 64}
Request = Callable[..., httpx.Response]


def uploaded(request_: Request, content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    assert request_("PUT", f"/v1/blobs/{digest}", content=content).status_code == 201
    return digest


def imported(request_: Request, submission: dict[str, Any], name: str) -> httpx.Response:
    body = {**submission, "lists": [name], "rebuild": REBUILD}
    return request_("POST", "/v1/builds", json=body)


def test_lists_that_would_take_too_much_memory_are_refused_unread(
    request_: Request, submission: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilds, "MOST_LISTS_BYTES", 10)
    answer = imported(request_, submission, uploaded(request_, b"[" * 11))
    assert answer.status_code == 400
    assert "too long" in answer.text
    assert request_("GET", "/v1/builds").json()["builds"] == []


def test_a_packed_release_file_that_is_none_is_an_error_of_the_list(
    request_: Request, submission: dict[str, Any]
) -> None:
    stored = uploaded(request_, b"no gzip")
    repository = Repository("http://deb.example.org/debian", "bookworm")
    file = RepositoryFile(repository.uri, repository.suite, "Release", "1" * 64, 7, stored)
    found = encoded(Resolved((), (file,), (repository,)))
    answer = imported(request_, submission, uploaded(request_, found))
    assert "is damaged" in answer.json()["title"] + answer.json().get("brief", "")
