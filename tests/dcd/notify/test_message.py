"""What a webhook gets: which events, which members, and a signature that a receiver can check."""

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dcd.configuration.webhooks import webhook
from dcd.notify import message
from dcd.notify.secret import read_key
from statemachine.errors import Unprepared
from statemachine.events import BuildFailed, BuildPaused
from statemachine.results import ErrorInfo
from tests.dcd.notify.conftest import KEY, append, complete

ROOT = Path(__file__).parents[3]


def hook(**more):
    return webhook({"name": "ci", "url": "https://ci.example.org/", "secret": "/key", **more})


def body(log, event, **more):
    return json.loads(message.body(hook(**more), event, log.summary(event.build)))


def test_a_body_names_build_event_and_outcome_and_no_manifest(log):
    complete(log, "abc")
    found = body(log, log.read("abc")[-1])
    assert (
        found["event"] | {"type": "BuildCompleted", "outcome": "completed", "by": "ada"}
        == found["event"]
    )
    assert found["event"]["seconds"] == 3.0
    assert found["build"] == {"id": "abc", "name": "live", "submitted_by": "ada"}
    assert all("hunter2" not in json.dumps(body(log, event)) for event in log.read("abc"))


def test_a_failure_has_its_checkpoint_and_error(log):
    complete(log, "abc")
    append(log, "abc", BuildFailed("c", ErrorInfo("no space", "secret output", "make room")))
    event = body(log, log.read("abc")[-1])["event"]
    assert (event["checkpoint"], event["outcome"]) == ("c", "failed")
    assert event["error"] == {"brief": "no space", "resolution": "make room"}


def test_filters_choose_events_outcomes_and_builds(log):
    complete(log, "abc")
    append(log, "abc", BuildPaused("no space", "no-space"))
    events = log.read("abc")

    def chosen(**more):
        return [event.type for event in events if message.wants(hook(**more), event)]

    assert chosen() == ["BuildCompleted", "BuildPaused"]
    assert chosen(outcomes=["completed"]) == ["BuildCompleted"]
    assert chosen(events=["BuildSubmitted", "BuildStarted"]) == ["BuildSubmitted", "BuildStarted"]
    assert message.wants_build(hook(builds=["release-*"]), "release-1")
    assert not message.wants_build(hook(builds=["release-*"]), "live")


def test_the_signature_is_that_of_standard_webhooks():
    headers = dict(message.headers(KEY, "ci-1", 1700000000, b"{}"))
    expected = hmac.new(KEY, b"ci-1.1700000000.{}", hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(expected).decode()
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == ("ci-1", "1700000000")


def test_the_check_of_the_documentation_accepts_it_and_nothing_else():
    page = (ROOT / "docs" / "how-to" / "notify.md").read_text()
    found: dict[str, Callable[..., bool]] = {}
    exec(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0], found)
    headers = dict(message.headers(KEY, "ci-1", int(time.time()), b"{}"))
    assert found["is_genuine"](KEY, headers, b"{}")
    assert not found["is_genuine"](KEY, headers, b"{ }")
    assert not found["is_genuine"](KEY, {**headers, "webhook-id": "ci-2"}, b"{}")
    old = dict(message.headers(KEY, "ci-1", int(time.time()) - 3600, b"{}"))
    assert not found["is_genuine"](KEY, old, b"{}")


def test_a_key_is_a_line_or_base64(secret):
    assert read_key(secret) == KEY
    secret.write_bytes(b"whsec_" + base64.b64encode(b"k" * 32) + b"\n")
    assert read_key(secret) == b"k" * 32


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [
        (b"x" * 32, 0o640, "others may have read it"),
        (b"short", 0o600, "at least 16"),
        (b"whsec_*", 0o600, "Base64"),
    ],
)
def test_a_key_that_is_not_safe_is_refused(secret, content, mode, why):
    secret.write_bytes(content)
    secret.chmod(mode)
    with pytest.raises(Unprepared, match=why):
        read_key(secret)
