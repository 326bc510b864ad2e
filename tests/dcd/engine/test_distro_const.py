"""The original's command line on a real daemon: pausing, resuming, listing, and its two exit statuses."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
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


def test_a_forgotten_build_does_not_stand_in_the_way(
    build: Run, manifest: Path, daemon: Any
) -> None:
    assert build("-p", "one", manifest).returncode == 0
    assert build(manifest).returncode == 0
    assert resumable(build("--list", manifest).stdout) == ["one", "two", "three"]
    assert build("-r", "two", manifest).returncode == 0
    assert ran(manifest) == ["one", "two", "three", "two", "three"]
    states = [each["state"] for each in daemon.json("list")]
    assert states == ["completed", "completed", "paused"]


def test_nor_does_one_of_another_manifest_with_the_same_name(
    build: Run, manifest: Path, tmp_path: Path
) -> None:
    build(manifest)
    other = tmp_path / "other.xml"
    other.write_text(manifest.read_text().replace("echo two", "echo other"))
    build("-p", "two", other)
    assert build("-r", "three", manifest).returncode == 0
    assert ran(manifest) == ["one", "two", "three", "three"]


def test_the_checkpoint_of_r_runs_though_another_build_has_its_result(
    build: Run, manifest: Path, tmp_path: Path
) -> None:
    build("-p", "two", manifest)
    other = tmp_path / "other.xml"
    other.write_text(manifest.read_text())
    build(other)
    assert build("-r", "two", manifest).returncode == 0
    assert ran(manifest) == ["one", "two", "three", "two", "three"]


def test_the_long_options_of_the_original_are_known(build: Run, manifest: Path) -> None:
    assert build("--pause", "two", manifest).returncode == 0
    assert resumable(build("--list", manifest).stdout) == ["one", "two"]
    outcome = build("--resume", "two", "--verbose", manifest)
    assert outcome.returncode == 0
    assert "says two" in outcome.stdout
    assert ran(manifest) == ["one", "two", "three"]


@pytest.mark.parametrize("arguments", [["--resume", "nonsense"], ["--pause", "nonsense"], ["-x"]])
def test_errors_begin_with_the_name_of_the_command(
    build: Run, manifest: Path, arguments: list[str]
) -> None:
    outcome = build(*arguments, manifest)
    assert outcome.returncode == 1
    assert "distro_const: error:" in outcome.stderr
    assert "dcctl:" not in outcome.stderr


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
    assert "==== one: result reused" in again.stdout


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


def with_target(manifest: Path, dataset: str) -> None:
    """Give the manifest a target as the original's have one."""
    pool, name = dataset.split("/", 1)
    target = (
        f'<target><logical><zpool name="{pool}" action="use_existing"><filesystem name="{name}" '
        'action="preserve"/></zpool></logical></target>'
    )
    text = manifest.read_text()
    before = text.index("<", text.index("<distro") + 1)
    manifest.write_text(f"{text[:before]}{target}{text[before:]}")


@pytest.fixture
def zfs_dataset(zfs_fuse: None, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A ZFS file system, and where it is mounted."""
    pool, disk, place = f"dc{os.getpid()}", tmp_path / "disk", tmp_path / "dc"
    with disk.open("wb") as file:
        file.truncate(128 << 20)
    subprocess.run(["zpool", "create", "-m", "none", pool, disk], check=True)
    subprocess.run(["zfs", "create", "-o", f"mountpoint={place}", f"{pool}/dc"], check=True)
    yield f"{pool}/dc", place
    disk.unlink()  # zfs-fuse, and the pool with it, ends with the tests


def test_media_and_logs_are_in_the_zfs_dataset_of_the_target(
    build: Run, manifest: Path, zfs_dataset: tuple[str, Path], write_manifest: Any
) -> None:
    dataset, place = zfs_dataset
    with_target(manifest, dataset)

    outcome = build(manifest)

    assert outcome.returncode == 0, outcome.stderr
    (simple,) = place.glob("logs/simple-log-*")
    (detail,) = place.glob("logs/detail-log-*")
    assert "CheckpointCompleted two" in simple.read_text()
    assert "says two" not in simple.read_text()
    assert "says two" in detail.read_text()
    assert "small.xml" in [path.name for path in place.glob("media/*")]
    for path in (simple, detail, *place.glob("media/*")):
        assert f"{path}\n" in outcome.stdout

    # A failed build delivers its logs, and no media.
    manifest.write_text(manifest.read_text().replace("echo three", "exit 1; echo three"))
    for path in place.glob("*/*"):
        path.unlink()
    assert build(manifest).returncode == 1
    (simple,) = place.glob("logs/simple-log-*")
    assert "CheckpointFailed three" in simple.read_text()
    assert list(place.glob("media/*")) == []


def test_a_dataset_that_does_not_exist_is_a_warning_with_the_way_to_the_results(
    build: Run, manifest: Path
) -> None:
    with_target(manifest, "nopool/dc")
    outcome = build(manifest)
    assert outcome.returncode == 0
    assert "the results are not in nopool/dc" in outcome.stderr
    assert "dcctl download" in outcome.stderr
