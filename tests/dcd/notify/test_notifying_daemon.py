"""A real daemon with webhooks: it says how they are, survives a kill, and builds all the same."""

import json
import time
from typing import Any

import pytest

pytestmark = pytest.mark.root


def table(name: str, url: str, secret, **more) -> str:
    members = {"name": name, "url": url, "secret": str(secret), **more}
    return "\n[[notify]]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in members.items())


def recorded(daemon, name: str) -> dict[str, Any]:
    """All webhooks, once that one has nothing left to deliver, and has noted so."""
    deadline = time.monotonic() + 60
    while True:
        hooks = {hook["name"]: hook for hook in daemon.json("notify")["webhooks"]}
        if hooks[name]["state"] == "ok":
            return hooks
        assert time.monotonic() < deadline, hooks
        time.sleep(0.05)


def test_builds_and_other_hooks_go_on_beside_bad_ones_and_nothing_is_lost_in_a_kill(
    cold_daemon, write_manifest, receiver, second_receiver, secret
):
    daemon = cold_daemon
    daemon.tables = "".join(
        [
            table("good", f"{receiver.url}/good", secret),
            table("bad", f"{second_receiver.url}/bad", secret, timeout_seconds=2.0),
        ]
    )
    second_receiver.answers = ["hang", "redirect"] + [500] * 100
    daemon.start()

    build = daemon.submit(write_manifest(("one", "true")))
    assert daemon.wait(build, "completed")["state"] == "completed"

    delivery, *_ = receiver.wait(1)
    assert (delivery.kind, delivery.body["build"]["id"]) == ("BuildCompleted", build)
    assert delivery.body["artifacts"] == [
        {key: each[key] for key in ("name", "sha256", "size_bytes")}
        for each in daemon.json("artifacts", build)
    ]
    # The one that hung for its time, a redirect, a 500.
    second_receiver.wait(3)
    hooks = recorded(daemon, "good")
    assert hooks["good"]["delivered"] == 1
    assert (hooks["bad"]["state"], hooks["bad"]["delivered"]) == ("failing", 0)
    assert {each.path for each in second_receiver.deliveries} == {"/bad"}
    checks = {check["name"]: check for check in daemon.json("doctor", status=None)["checks"]}
    assert checks["webhook good"]["status"] == "ok"
    assert checks["webhook bad"]["status"] == "warning"
    assert 'dcd_webhook_failed_attempts{webhook="bad"} 0.0' not in daemon.ctl("metrics")
    assert "bad: failed: answered 500" in daemon.ctl("notify", "test", status=1)
    assert "good: answered 200" in daemon.ctl("notify", "test", "good")
    assert "there is no webhook none" in daemon.run("notify", "test", "none").stderr

    daemon.kill()
    second_receiver.answers = []
    before = len(second_receiver.deliveries)
    daemon.start()
    again = second_receiver.wait(before + 1)[before]
    assert (again.kind, again.body["build"]["id"]) == ("BuildCompleted", build)
    assert [each.kind for each in receiver.deliveries] == ["BuildCompleted", "Test", "Test"]
    assert daemon.stop() == 0
