"""The original's command line on a real daemon: pausing, resuming, listing, and its two exit statuses."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def build(daemon: Any) -> Run:
    """Run `distro_const build` against the daemon."""

    def run(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "cli.distro_const", "build", *map(str, arguments)]
        environment = {**os.environ, "DCD_SOCKET": str(daemon.socket)}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)

    return run


@pytest.fixture
def manifest(tmp_path: Path, write_manifest: Any) -> Path:
    """Three checkpoints, each of which leaves its name in the image and in a file outside."""
    steps = [
        (name, f"echo {name} | tee -a {{PKG_IMAGE_PATH}}/done >> {tmp_path}/ran; echo says {name}")
        for name in ("one", "two", "three")
    ]
    path: Path = write_manifest(*steps)
    return path


def ran(manifest: Path) -> list[str]:
    """The checkpoints that have run, in order."""
    return (manifest.parent / "ran").read_text().split()


def resumable(output: str) -> list[str]:
    """The names with a mark in a listing."""
    lines = [line.split() for line in output.splitlines()[2:]]
    return [words[0] for words in lines if words[1:2] == ["X"]]


def test_a_build_runs_everything_and_exits_0(build: Run, manifest: Path) -> None:
    outcome = build(manifest)
    assert outcome.returncode == 0, outcome.stderr
    assert ran(manifest) == ["one", "two", "three"]
    assert "completed" in outcome.stdout


def test_a_failing_build_exits_1_and_says_why(build: Run, write_manifest: Any) -> None:
    outcome = build(write_manifest(("one", "echo no >&2; false")))
    assert outcome.returncode == 1
    assert "no" in outcome.stdout


def test_p_pauses_before_and_r_resumes_from(build: Run, manifest: Path, daemon: Any) -> None:
    assert build("-p", "two", manifest).returncode == 0
    assert ran(manifest) == ["one"]
    assert build("-r", "two", manifest).returncode == 0
    assert ran(manifest) == ["one", "two", "three"]
    assert len(daemon.json("list")) == 1


def test_r_runs_again_what_had_completed(build: Run, manifest: Path, daemon: Any) -> None:
    build("-p", "three", manifest)
    assert build("-r", "one", "-p", "two", manifest).returncode == 0
    assert ran(manifest) == ["one", "two", "one"]
    assert len(daemon.json("list")) == 1


def test_a_build_that_has_completed_can_be_resumed_too(
    build: Run, manifest: Path, daemon: Any
) -> None:
    build(manifest)
    assert build("-r", "two", manifest).returncode == 0
    assert ran(manifest) == ["one", "two", "three", "two", "three"]
    states = [each["state"] for each in daemon.json("status", newest(daemon))["checkpoints"]]
    assert states == ["reused", "completed", "completed"]


def newest(daemon: Any) -> str:
    identity: str = daemon.json("list")[0]["id"]
    return identity


def test_an_edited_manifest_resumes_with_its_edit(build: Run, manifest: Path) -> None:
    build("-p", "three", manifest)
    manifest.write_text(manifest.read_text().replace("echo three", "echo edited"))
    assert build("-r", "three", manifest).returncode == 0
    assert ran(manifest) == ["one", "two", "edited"]


def test_l_lists_what_can_be_resumed_and_builds_nothing(build: Run, manifest: Path) -> None:
    first = build("-l", manifest)
    assert first.returncode == 0
    header, rule, *rows = first.stdout.splitlines()
    assert header.split() == ["Checkpoint", "Resumable", "Description"]
    assert set(rule) == {"-"}
    assert len(rows) == 3
    assert resumable(first.stdout) == ["one"]
    build("-p", "three", manifest)
    assert resumable(build("-l", manifest).stdout) == ["one", "two", "three"]
    build("-r", "one", "-p", "two", manifest)
    assert resumable(build("-l", manifest).stdout) == ["one", "two"]
    assert ran(manifest) == ["one", "two", "one"]


def test_r_from_where_nothing_is_ready_is_refused_with_what_is(build: Run, manifest: Path) -> None:
    outcome = build("-r", "three", manifest)
    assert outcome.returncode == 1
    assert "cannot resume from three" in outcome.stderr
    assert "possible from one" in outcome.stderr
    assert build("-r", "nonsense", manifest).returncode == 1


def test_v_shows_what_the_tools_print(build: Run, manifest: Path) -> None:
    outcome = build("-v", manifest)
    assert outcome.returncode == 0
    assert outcome.stdout.index("==== one") < outcome.stdout.index("says one")
    assert outcome.stdout.index("says one") < outcome.stdout.index("==== two")
    again = build("-v", manifest)
    assert "==== one: its result is there" in again.stdout


@pytest.mark.parametrize(
    "arguments", [["-x"], [], ["/nowhere.xml"], ["-p", "nonsense", "MANIFEST"], ["-r"]]
)
def test_every_failure_exits_1(build: Run, manifest: Path, arguments: list[str]) -> None:
    outcome = build(*[str(manifest) if word == "MANIFEST" else word for word in arguments])
    assert outcome.returncode == 1
    assert outcome.stderr


def test_an_unreachable_daemon_exits_1(build: Run, manifest: Path, daemon: Any) -> None:
    daemon.stop()
    outcome = build(manifest)
    assert outcome.returncode == 1
    assert "cannot reach the daemon" in outcome.stderr
