"""dcctl and a daemon of another version: what both know works, and what one does not know is explained."""

import pytest

from cli.version import API, own_version

DIFFERENT = f"dcctl is version {own_version()} (API {API}), the daemon is version"
UNKNOWN = {
    "type": "urn:dcd:problem:usage",
    "title": "there is no operation GET /v1/config",
    "status": 404,
    "detail": "this is dcd 0.0.9 with API v1",
    "resolution": "GET /v1/openapi.json describes every operation",
}


def test_an_older_daemon_that_lacks_an_operation_is_told_apart(dcctl, daemon) -> None:
    daemon.headers = {"DCD-Version": "0.0.9", "DCD-API": "v1"}
    daemon.answers["GET", "/v1/config"] = 404, UNKNOWN
    outcome = dcctl("config")
    assert outcome.code == 2
    assert "there is no operation GET /v1/config" in outcome.err
    assert f"{DIFFERENT} 0.0.9 (API v1): install the same version of both" in outcome.err


def test_a_newer_daemon_that_has_left_this_api_is_told_apart(dcctl, daemon) -> None:
    daemon.headers = {"DCD-Version": "9.0", "DCD-API": "v2"}
    daemon.answers["GET", "/v1/builds"] = 404, {**UNKNOWN, "title": "there is no operation"}
    assert f"{DIFFERENT} 9.0 (API v2)" in dcctl("list").err


def test_an_answer_that_is_none_is_explained_by_the_version(dcctl, daemon) -> None:
    daemon.headers = {"DCD-Version": "9.0", "DCD-API": "v2", "Content-Type": "text/plain"}
    daemon.answers["GET", "/v1/builds"] = 500, UNKNOWN | {"type": "urn:dcd:problem:internal"}
    assert DIFFERENT in dcctl("list").err


@pytest.mark.parametrize(
    ("headers", "status", "kind"),
    [
        ({"DCD-Version": own_version(), "DCD-API": API}, 404, "usage"),
        ({}, 404, "usage"),
        ({"DCD-Version": "9.0", "DCD-API": "v2"}, 404, "not-found"),
    ],
    ids=["the same version", "it does not say", "it is no matter of versions"],
)
def test_nothing_is_said_of_versions_without_need(dcctl, daemon, headers, status, kind) -> None:
    daemon.headers = headers
    daemon.answers["GET", "/v1/builds"] = status, UNKNOWN | {"type": f"urn:dcd:problem:{kind}"}
    assert "dcctl is version" not in dcctl("list").err


def test_what_both_know_works(dcctl, daemon) -> None:
    daemon.headers = {"DCD-Version": "9.0", "DCD-API": "v1"}
    daemon.answers["GET", "/v1/builds"] = 200, {"builds": [], "next": None}
    assert dcctl("list").code == 0
