"""Settings of a running daemon: what is shown, what a reload changes at once, what waits for a restart."""

import json
import signal
import time

import pytest

from dcd.configuration import InvalidConfiguration, Live, load

pytestmark = pytest.mark.root

BIG = "dd if=/dev/urandom of={PKG_IMAGE_PATH}/%s bs=1M count=2"


def write_settings(daemon, **changed) -> None:
    daemon.settings |= changed
    lines = (f"{name} = {json.dumps(value)}\n" for name, value in daemon.settings.items())
    (daemon.state_dir.parent / "dcd.toml").write_text("".join(lines))


def layers(daemon) -> list[str]:
    return [path.name for path in daemon.state_dir.glob("layers/*/*") if len(path.name) == 64]


def shown(daemon) -> dict:
    return {item["name"]: item for item in daemon.json("config")["settings"]}


def wait_until(condition, daemon) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(daemon.log.read_text()[-3000:])
        time.sleep(0.02)


def test_every_value_is_shown_with_its_source(daemon):
    found = shown(daemon)

    config = daemon.state_dir.parent / "dcd.toml"
    assert (found["state_dir"]["value"], found["state_dir"]["origin"]) == (
        str(daemon.state_dir),
        "--state-dir",
    )
    assert found["min_free_bytes"]["origin"] == f"{config}:1"
    assert found["socket_mode"]["value"] == "0660"
    assert found["observe"]["value"] == ["@dcd"]
    assert found["max_running_builds"]["origin"] == "default"


def test_a_reload_says_what_changed_and_what_waits_for_a_restart(daemon):
    write_settings(daemon, max_running_builds=7, layer_backend="copy")

    assert daemon.json("config", "--reload") == {
        "changed": ["max_running_builds"],
        "waiting": ["layer_backend"],
    }

    found = shown(daemon)
    assert found["max_running_builds"]["value"] == 7
    assert found["layer_backend"]["value"] == "auto"
    assert found["layer_backend"]["waiting"]["value"] == "copy"
    assert daemon.json("config", "--reload") == {"changed": [], "waiting": ["layer_backend"]}


def test_a_wrong_setting_is_refused_with_its_line_and_changes_nothing(daemon):
    write_settings(daemon, max_running_builds=0, log_level="debug")

    refused = daemon.run("config", "--reload")

    assert refused.returncode == 2
    assert "dcd.toml:3: max_running_builds must be 1 or more" in refused.stderr
    assert shown(daemon)["log_level"]["value"] == "info"


def test_a_lowered_limit_of_layers_takes_effect_at_a_reload(daemon, write_manifest):
    for name in ("a", "b"):
        daemon.wait(daemon.submit(write_manifest(("one", BIG % name), name=name)), "completed")
    assert len(layers(daemon)) == 2

    write_settings(daemon, layers_max_bytes=3 * 2**20)
    daemon.process.send_signal(signal.SIGHUP)

    wait_until(lambda: len(layers(daemon)) == 1, daemon)
    assert '"changed": ["layers_max_bytes"]' in daemon.log.read_text()


def test_a_raised_number_of_running_builds_takes_effect_at_a_reload(daemon, write_manifest):
    write_settings(daemon, max_running_builds=1)
    daemon.ctl("config", "--reload")
    first, second = (
        daemon.submit(write_manifest(("one", "sleep 1000"), name=name)) for name in ("a", "b")
    )
    daemon.wait(first, "running")
    assert daemon.json("status", second)["state"] == "queued"

    write_settings(daemon, max_running_builds=2)
    daemon.ctl("config", "--reload")

    daemon.wait(second, "running")
    assert daemon.json("status", first)["state"] == "running"
    for build in (first, second):
        daemon.ctl("cancel", build)
        daemon.wait(build, "cancelled")


def test_what_a_back_end_left_that_is_not_in_use_is_counted_and_collected(daemon, write_manifest):
    daemon.wait(daemon.submit(write_manifest(("one", BIG % "a"))), "completed")
    (before,) = daemon.state_dir.glob("layers/*")
    assert daemon.json("df")["retired_bytes"] == 0
    daemon.stop()
    write_settings(daemon, layer_backend="copy" if before.name != "copy" else "overlay")
    daemon.start()

    usage = daemon.json("df")
    assert usage["retired_bytes"] >= 2 * 2**20
    assert usage["layer_bytes"] == 0
    assert "not in use" in daemon.ctl("df")
    would = daemon.json("gc", "--dry-run")
    assert len(layers(daemon)) == 1, "a dry run removes nothing"
    did = daemon.json("gc")

    assert did["layers"] == would["layers"]
    assert [gone["reason"] for gone in did["layers"]] == [
        f"its back end {before.name} is not in use"
    ]
    assert did["freed_bytes"] >= 2 * 2**20
    assert layers(daemon) == []
    assert daemon.json("df")["retired_bytes"] == 0


def test_watchers_hear_of_a_reload_only_when_it_was_taken(tmp_path):
    path = tmp_path / "dcd.toml"
    path.write_text("max_running_builds = 1\n")
    live = Live(lambda: load(path, environment={}))
    heard = []
    live.watch(heard.append)

    path.write_text("max_running_builds = 0\n")
    with pytest.raises(InvalidConfiguration):
        live.reload()
    path.write_text("max_running_builds = 3\n")
    live.reload()

    assert [outcome.changed for outcome in heard] == [("max_running_builds",)]
    assert live().max_running_builds == 3
