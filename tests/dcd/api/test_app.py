"""What the API answers, in process."""

import asyncio
import hashlib
import json
import re

import pytest

from dcd.api.app import OPERATIONS
from statemachine.commands import Start
from statemachine.events import CheckpointStarted


def test_submit_answers_the_build_and_then_shows_it_by_a_prefix(request_, submission):
    submitted = request_("POST", "/v1/builds", json=submission)

    assert submitted.status_code == 201
    build = submitted.json()
    assert build["state"] == "queued"
    assert [c["state"] for c in build["checkpoints"]] == ["pending"]
    assert request_("GET", f"/v1/builds/{build['id'][:6]}").json() == build


def test_repeated_idempotency_key_answers_200_and_the_same_build(request_, submission):
    submission["idempotency_key"] = "nightly"

    first, second = (request_("POST", "/v1/builds", json=submission) for _ in range(2))

    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["id"] == second.json()["id"]


def test_errors_are_problem_details(request_):
    answer = request_("GET", "/v1/builds/nosuchbuild")

    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:dcd:problem:not-found"
    assert answer.json()["resolution"]


def test_invalid_manifest_carries_its_diagnostics(request_):
    body = {"manifest": {"path": "/m.xml", "text": "<dc><distro/></dc>"}}

    answer = request_("POST", "/v1/builds", json=body)

    assert answer.status_code == 422
    assert answer.json()["diagnostics"][0]["line"] == 1
    assert request_("POST", "/v1/validate", json=body).json()["ok"] is False


def test_missing_inputs_are_named_and_taken_once_uploaded(request_):
    text = """<dc><distro name="small"><execution>
    <checkpoint name="one" mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript">
    <kwargs><arg name="script">run.sh</arg></kwargs></checkpoint></execution></distro></dc>"""
    body = {"manifest": {"path": "/home/me/small.xml", "text": text}, "files": {}}

    answer = request_("POST", "/v1/builds", json=body)

    assert answer.json()["type"] == "urn:dcd:problem:inputs-missing"
    (missing,) = answer.json()["missing"]
    assert missing["path"] == "/home/me/run.sh"

    content = b"#!/bin/sh\n"
    digest = hashlib.sha256(content).hexdigest()
    assert request_("PUT", f"/v1/blobs/{digest}", content=content).status_code == 201
    assert request_("PUT", f"/v1/blobs/{digest}", content=content).status_code == 200
    body["files"][missing["path"]] = {"sha256": digest, "mode": 0o755}
    assert request_("POST", "/v1/builds", json=body).status_code == 201


def test_blob_with_another_digest_is_refused(request_):
    answer = request_("PUT", f"/v1/blobs/{'0' * 64}", content=b"something")

    assert answer.status_code == 400
    assert "sha256" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"{", "truncated"),
        (b'{"manifest": {"path": "/m.xml", "text": 1}}', "$.manifest.text"),
        (b'{"manifest": {"path": "/m.xml", "text": ""}, "pause_befor": "x"}', "pause_befor"),
    ],
)
def test_malformed_body_names_the_field(request_, body, named):
    answer = request_("POST", "/v1/builds", content=body)

    assert answer.status_code == 400
    assert named in answer.json()["detail"]


def test_body_over_the_limit_is_refused(request_):
    answer = request_("POST", "/v1/builds", content=b"x" * 70_000)

    assert answer.status_code == 413


def test_command_that_the_machine_refuses_is_a_conflict(request_, submission):
    build = request_("POST", "/v1/builds", json=submission).json()["id"]
    assert request_("POST", f"/v1/builds/{build}/cancel").json()["state"] == "cancelled"

    answer = request_("POST", f"/v1/builds/{build}/resume", json={})

    assert answer.status_code == 409
    assert answer.json()["type"] == "urn:dcd:problem:refused"


def test_a_pause_is_requested_or_withdrawn_and_not_both(request_, submission):
    path = f"/v1/builds/{request_('POST', '/v1/builds', json=submission).json()['id']}/pause"
    name = request_("GET", path.removesuffix("/pause")).json()["checkpoints"][0]["name"]

    assert request_("POST", path, json={"before": name}).json()["pause_before"] == name
    both = request_("POST", path, json={"before": name, "withdraw": True})
    assert (both.status_code, both.json()["type"]) == (400, "urn:dcd:problem:usage")
    assert request_("POST", path, json={"withdraw": True}).json()["pause_before"] is None


def test_pages_of_events_and_builds_lead_on(request_, submission):
    for _ in range(3):
        request_("POST", "/v1/builds", json=submission)

    first = request_("GET", "/v1/builds?limit=2").json()
    second = request_("GET", f"/v1/builds?limit=2&before={first['next']}").json()

    ids = [build["id"] for build in first["builds"] + second["builds"]]
    assert len(set(ids)) == 3
    assert second["next"] is None
    assert request_("GET", "/v1/builds?state=completed,failed").json()["builds"] == []


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "before=-1", "state=asleep", "limit=1e9"])
def test_query_parameters_are_checked(request_, query):
    assert request_("GET", f"/v1/builds?{query}").status_code == 400


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_no_operation_takes_a_query_parameter_that_it_does_not_declare(request_, operation):
    path = re.sub(r"{\w+}", "1", operation.path)
    answer = request_(operation.method, f"{path}?formt=dot")
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (400, "urn:dcd:problem:usage")
    assert problem["title"] == (
        f"there is no query parameter 'formt' of {operation.method} {operation.path}"
    )
    for parameter in operation.query:
        assert parameter.name in problem["detail"]


def test_the_query_parameter_that_was_meant_is_named(request_):
    assert "did you mean limit?" in request_("GET", "/v1/builds?limt=2").json()["resolution"]
    twice = request_("GET", "/v1/builds?limit=2&limit=3")
    assert (twice.status_code, twice.json()["title"]) == (
        400,
        "query parameter limit is given more than once",
    )


def test_unknown_paths_and_methods_are_problems(request_):
    unknown = request_("GET", "/v1/nothing")
    assert (unknown.status_code, unknown.json()["type"]) == (404, "urn:dcd:problem:usage")
    wrong_method = request_("PATCH", "/v1/builds")
    assert wrong_method.status_code == 405
    for answer in (unknown, wrong_method):  # RFC 9457, section 3.1.2
        assert answer.json()["status"] == answer.status_code


def test_stream_sends_events_after_the_last_one_seen_and_ends_when_the_build_stands(
    request_, submission
):
    build = request_("POST", "/v1/builds", json=submission).json()["id"]
    request_("POST", f"/v1/builds/{build}/cancel")
    accept = {"accept": "text/event-stream"}

    whole = request_("GET", f"/v1/builds/{build}/events", headers=accept).text
    rest = request_(
        "GET", f"/v1/builds/{build}/events", headers={**accept, "last-event-id": "2"}
    ).text

    assert [line for line in whole.splitlines() if line.startswith("id:")] == [
        "id: 1",
        "id: 2",
        "id: 3",
    ]
    first, *_, last = whole.split("\n\n")[:-1]  # the build's view comes before its events
    assert first.startswith("event: build\ndata: ")
    view = json.loads(first.partition("data: ")[2])
    assert view == request_("GET", f"/v1/builds/{build}").json()
    assert last.startswith("event: event\n")
    assert "BuildCancelled" in rest
    assert "BuildSubmitted" not in rest


def test_validate_tells_all_that_checkpoints_find_wrong_as_diagnostics(request_, submission):
    text = submission["manifest"]["text"]
    bad = text.replace("<args>true</args>", '<kwargs><arg name="shell">sh</arg></kwargs>')
    second = '<checkpoint name="two" mod_path="dcd/checkpoints/custom_script"' + (
        ' checkpoint_class="CustomScript"/></execution>'
    )
    submission["manifest"]["text"] = bad.replace("</execution>", second)
    answer = request_("POST", "/v1/validate", json=submission).json()
    assert not answer["ok"]
    assert [found["message"] for found in answer["diagnostics"]] == [
        "checkpoint 'one': argument 'shell' is 'sh', not an absolute path without .. (such as /srv/data)",
        "two: one command, text or script is needed",
    ]
    assert {found["line"] for found in answer["diagnostics"]} == {3}
    refused = request_("POST", "/v1/builds", json=submission)
    assert refused.status_code == 422
    assert len(refused.json()["diagnostics"]) == 2


def test_migrate_converts_an_old_manifest_and_refuses_a_new_one(request_, submission):
    old = {"path": "/o.xml", "text": '<distribution name="old"><x/></distribution>'}
    answer = request_("POST", "/v1/migrate", json={"manifest": old}).json()
    assert '<distro name="old">' in answer["manifest"]
    assert [found["message"] for found in answer["left"]] == ["<x></x> has no counterpart"]
    refused = request_("POST", "/v1/migrate", json=submission)
    assert refused.status_code == 422
    assert "already" in refused.json()["diagnostics"][0]["message"]


def test_reuse_can_be_declined_only_from_a_checkpoint_that_is_there(request_, submission):
    refused = request_("POST", "/v1/builds", json={**submission, "fresh_from": "two"})
    assert refused.status_code == 404
    assert "two" in refused.json()["title"]


@pytest.mark.parametrize("operation", ["validate", "plan", "builds", "migrate"])
def test_a_body_that_is_not_utf8_is_refused(request_, operation):
    answer = request_("POST", f"/v1/{operation}", content=b'{"manifest":"\xff\xfe"}')
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:dcd:problem:usage")


@pytest.mark.parametrize("size", ["9" * 400 + "eb", "8eb", "9" * 30 + "secs"])
@pytest.mark.parametrize("operation", ["validate", "plan"])
def test_a_size_that_nobody_can_count_is_an_error_at_its_place(request_, operation, size):
    text = (
        '<dc><distro name="t"><distro_spec><img_params><vm_im><vm_format type="raw"/></vm_im>'
        "</img_params></distro_spec><target><disk>"
        f'<disk_image name="d" size="{size}"/></disk></target>'
        '<execution><checkpoint name="d" mod_path="dcd/checkpoints/vm/create_disk" '
        'checkpoint_class="CreateDisk"/></execution></distro></dc>'
    )
    answer = request_(
        "POST", f"/v1/{operation}", json={"manifest": {"path": "/m.xml", "text": text}}
    )
    assert answer.status_code in (200, 422)
    told = [found["message"] for found in answer.json()["diagnostics"]]
    assert any("is not a size" in message for message in told)


def test_an_answer_does_not_repeat_a_long_name(request_, submission):
    name = "x" * 40_000
    submission["manifest"]["text"] = submission["manifest"]["text"].replace('"one"', f'"{name}"')
    for operation in ("validate", "plan"):
        answer = request_("POST", f"/v1/{operation}", json=submission)
        assert answer.status_code in (200, 422)
        assert len(answer.content) < 20_000
    answer = request_("GET", f"/v1/builds/{'x' * 10_000}")
    assert len(answer.content) < 5_000


def test_a_list_says_how_far_the_builds_of_other_members_are_now(request_, app, submission):
    build = request_("POST", "/v1/builds", json=submission).json()["id"]
    key = request_("GET", f"/v1/builds/{build}").json()["checkpoints"][0]["key"]
    builds = app.state.builds

    async def start() -> None:
        await builds.command(build, Start())
        await builds.command(build, CheckpointStarted("one", 1, key, "one.log"))

    asyncio.run(start())
    builds._machines.clear()
    seen = [request_("GET", "/v1/builds").json()["builds"][0]["elapsed_seconds"] for _ in range(2)]
    assert 0 < seen[0] < seen[1]
