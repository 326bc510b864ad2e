"""Labels that a submit asks of the host: kept with the build, or refused at once."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from dcd.platform import foreign

PLACED = '<placement><require label="{}"/></placement><execution'


def test_labels_of_a_submit_stay_with_its_build(
    request_: Callable[..., httpx.Response], submission: dict[str, Any]
) -> None:
    submission["require"] = [foreign.own(), foreign.own()]
    answer = request_("POST", "/v1/builds", json=submission)
    assert answer.status_code == 201
    assert foreign.own() in answer.json()["requires"]
    assert len(set(answer.json()["requires"])) == len(answer.json()["requires"])


@pytest.mark.parametrize("by_manifest", [True, False])
def test_a_label_that_this_host_lacks_is_refused_at_once(
    request_: Callable[..., httpx.Response], submission: dict[str, Any], by_manifest: bool
) -> None:
    if by_manifest:
        text = submission["manifest"]["text"].replace("<execution", PLACED.format("moon"), 1)
        submission["manifest"]["text"] = text
    else:
        submission["require"] = ["moon"]
    answer = request_("POST", "/v1/builds", json=submission)
    assert answer.status_code == 424
    assert answer.json()["title"].startswith(f"no member has moon; this host has {foreign.own()}")
    assert request_("GET", "/v1/builds").json()["builds"] == []


@pytest.mark.parametrize("label", ["", "a b", "a+b", "x" * 300])
def test_what_is_no_label_is_a_usage_error(
    request_: Callable[..., httpx.Response], submission: dict[str, Any], label: str
) -> None:
    submission["require"] = [label]
    answer = request_("POST", "/v1/builds", json=submission)
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:dcd:problem:usage")
