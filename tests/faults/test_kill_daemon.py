"""The daemon is killed with SIGKILL: in every checkpoint, at random, and again and again."""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest

from cli.client import ClientError
from dcd.worker.recover import kill_leftovers

pytestmark = [pytest.mark.faults, pytest.mark.root]

STEPS = ("files", "archive", "unpack", "compare")


def small_build(witness, write_manifest, name, pause="true"):
    """A manifest whose checkpoints make files, pack, unpack and compare them; a checkpoint that sees
    anything of an interrupted attempt fails. Each runs `pause` when its work is half done."""
    image = "{PKG_IMAGE_PATH}"
    once = "test ! -e {PKG_IMAGE_PATH}/NAME && touch {PKG_IMAGE_PATH}/NAME"
    lines = {
        "files": f"mkdir {image}/etc && for i in 1 2 3 4 5; do echo {name} $i > {image}/etc/$i; done",
        "archive": f"tar -C {image} -cf {{MEDIA_DIR}}/etc.tar etc",
        "unpack": f"mkdir {image}/copy && tar -C {image}/copy -xf {{MEDIA_DIR}}/etc.tar",
        "compare": f"diff -r {image}/etc {image}/copy/etc",
    }
    return write_manifest(
        *(
            witness.step(step, f"{once.replace('NAME', step)} && {pause} && {lines[step]}")
            for step in STEPS
        ),
        name=name,
    )


def waits_once(directory):
    """A shell line that waits for ever, but only the first time that it runs in a checkpoint."""
    workspace = "echo {BUILD_DATA} | sed s,.*/.work/,, | cut -d/ -f1"
    flag = f"{directory}/flag-$({workspace} | cut -d. -f1,2)"
    return f"(test -e {flag} || (touch {flag} && sleep 1000))"


def wait_for_flags(directory, count, seconds=60.0):
    """Until so many checkpoints wait for ever."""
    deadline = time.monotonic() + seconds
    while len(list(directory.glob("flag-*"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("part", ["main process", "launcher"])
def test_killed_in_every_checkpoint_the_build_goes_on_from_the_interrupted_one(
    cold_daemon, witness, write_manifest, tmp_path, part, launch=subprocess.Popen
):
    cold_daemon.launch = launch  # as it is really started
    daemon = cold_daemon.start()
    build = witness.submit(small_build(witness, write_manifest, "every", waits_once(tmp_path)))

    for number in range(len(STEPS)):
        wait_for_flags(tmp_path, number + 1)
        states = [c["state"] for c in witness.look()[build]["checkpoints"]]
        assert states == ["completed"] * number + ["running"] + ["pending"] * (3 - number)
        if part == "launcher":
            assert daemon.kill_launcher() == 1
        else:
            daemon.kill()
        assert witness.wrong_after_death() == []
        daemon.start()

    final = witness.until("completed")[build]
    assert [c["attempts"] for c in final["checkpoints"]] == [2] * 4
    interrupted = [e for e in daemon.events(build) if e["type"] == "CheckpointInterrupted"]
    assert [e["data"]["cause"] for e in interrupted] == ["daemon-died"] * 4
    assert witness.wrong_at_rest() == []
    assert daemon.stop() == 0


@pytest.fixture
def short_path():
    """A directory with so short a name that the kernel keeps all of a workspace's path."""
    directory = Path(tempfile.mkdtemp(prefix="dcd", dir="/tmp"))
    yield directory
    shutil.rmtree(directory)


def loops_named(prefix):
    """Loop devices that were attached to a file under this name, whatever became of its mount."""
    listed = subprocess.run(
        ["losetup", "--raw", "-n", "-O", "NAME"], capture_output=True, text=True
    )
    found = []
    for name in listed.stdout.split():
        with contextlib.suppress(OSError), Path(name).open("rb") as device:
            noted = fcntl.ioctl(device, 0x4C05, bytes(232))[56:120]  # struct loop_info64
            if noted.startswith(os.fsencode(prefix)):
                found.append(name)
    return found


def test_killed_daemon_takes_children_mounts_and_loop_devices_with_it(
    frail, witness, write_manifest, tmp_path, short_path
):
    frail.state_dir = short_path / "state"
    daemon = frail.start()
    messy = (
        "mkdir {TMP_DIR}/m && mount -t tmpfs tmpfs {TMP_DIR}/m && truncate -s 1M {TMP_DIR}/m/disk"
        " && losetup -f {TMP_DIR}/m/disk && truncate -s 1M {MEDIA_DIR}/disk"
        " && losetup -f {MEDIA_DIR}/disk && (setsid sleep 1000 & setsid sh -c 'sleep 1000 & wait' &)"
        f" && {waits_once(tmp_path)}"
    )
    steps = (witness.step("messy", messy), witness.step("after"))
    manifest = write_manifest(*steps, mounts=True)
    build = witness.submit(manifest)
    wait_for_flags(tmp_path, 1)
    assert len(loops_named(short_path)) == 2

    daemon.kill()

    assert witness.wrong_after_death() == []
    daemon.start()
    assert witness.until("completed")[build]["checkpoints"][0]["attempts"] == 2
    assert witness.wrong_at_rest() == []
    assert loops_named(short_path) == []
    daemon.stop()


def test_three_interruptions_in_a_row_park_the_build_until_it_is_resumed(
    frail, witness, write_manifest, tmp_path
):
    daemon = frail.start()
    gate = tmp_path / "gate"
    line = f"(test -e {gate} || sleep 1000)"
    build = witness.submit(write_manifest(witness.step("easy"), witness.step("hard", line)))

    for attempt in (1, 2, 3):
        witness.wait_for_effect(f"begin hard {daemon.state_dir}")
        witness.effects.rename(tmp_path / f"effects-{attempt}")
        daemon.kill()
        assert witness.wrong_after_death() == []
        daemon.start()

    parked = witness.until("paused")[build]
    assert "interrupted 3 times" in parked["reason"]
    gate.touch()
    witness.ask("POST", f"/builds/{build}/resume", {})
    final = witness.until("completed")[build]
    assert [c["attempts"] for c in final["checkpoints"]] == [1, 4]


def test_killed_at_random_moments_concurrent_builds_keep_every_promise(
    frail, witness, write_manifest, chance, soak, rounds=8
):
    frail.settings["max_running_builds"] = 4
    manifests = []  # whose submission is not acknowledged yet
    for _ in range(60 if soak else rounds):
        frail.spawn()
        killer = threading.Timer(chance.uniform(0.3, 3.0), kill_a_part, (frail, chance))
        killer.start()
        with contextlib.suppress(ClientError, ConnectionError):
            while frail.process.poll() is None:
                if frail.socket.exists() and go_on(witness, manifests):
                    manifests += four_builds(witness, write_manifest, chance)
                time.sleep(0.02)
        assert frail.process.wait() in (-9, 1, 9)
        killer.join()
        frail.wait_for_launcher()
        assert witness.wrong_after_death() == []

    frail.start()
    while not go_on(witness, manifests):
        time.sleep(0.02)
    assert witness.wrong_at_rest() == []
    assert frail.stop() == 0


def kill_a_part(daemon, chance):
    """SIGKILL to one of the daemon's processes, after which all have to end; to that of the planners in
    passing, which is started again."""
    pid = daemon.process.pid
    with contextlib.suppress(OSError, IndexError):
        launcher = daemon.launcher()
        for task in Path(f"/proc/{launcher}/task").iterdir():
            for child in (task / "children").read_text().split():
                if b"dcd.planner" in Path(f"/proc/{child}/cmdline").read_bytes():
                    os.kill(int(child), signal.SIGKILL)
        pid = chance.choice((pid, launcher))
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def four_builds(witness, write_manifest, chance):
    """Manifests of builds that were never seen before; the last two need the same layers."""
    names = [f"build-{chance.getrandbits(40)}" for _ in range(3)]
    pauses = [f"sleep {chance.uniform(0, 0.6):.2f}" for _ in names]
    made = [small_build(witness, write_manifest, *one) for one in zip(names, pauses, strict=True)]
    return [(manifest, f"{number} {names[0]}") for number, manifest in enumerate([*made, made[-1]])]


def go_on(witness, manifests):
    """Submit what is to be submitted, under its key, and resume what is parked. Whether all builds have
    completed."""
    while manifests:
        manifest, key = manifests[0]
        witness.submit(manifest, idempotency_key=key)
        manifests.pop(0)
    found = witness.look().values()
    for build in found:
        assert build["state"] in ("queued", "running", "paused", "completed"), build
        if build["state"] == "paused":
            assert "interrupted 3 times" in build["reason"]
            witness.ask("POST", f"/builds/{build['id']}/resume", {})
    return all(build["state"] == "completed" for build in found)


def test_control_workers_that_outlive_their_daemon_are_noticed(
    frail, zygote, witness, write_manifest
):
    if frail.settings.get("worker") == "portable":
        pytest.skip("this host has portable workers, which the defect leaves alone")
    witness.patience_seconds = 0.5
    zygote.defect = "workers_outlive_the_daemon"
    daemon = frail.start()
    witness.submit(write_manifest(witness.step("one", "sleep 1000")))
    witness.wait_for_effect("begin one")

    daemon.kill_launcher()  # which ends its workers when only the main process dies

    try:
        assert any("is left" in problem for problem in witness.wrong_after_death())
    finally:
        kill_leftovers(f"{(daemon.state_dir / 'id').read_text()}:")


def test_control_a_checkpoint_that_runs_twice_is_noticed(frail, witness, write_manifest):
    frail.start()
    witness.submit(write_manifest(witness.step("one")))
    witness.until("completed")
    assert witness.wrong_at_rest() == []

    lines = witness.effects.read_text()
    witness.effects.write_text(lines * 2)
    assert any("ran Counter" in problem for problem in witness.wrong_at_rest())
    witness.effects.write_text(lines + lines.replace(".0.1/", ".0.2/"))
    assert any("no event announced" in problem for problem in witness.wrong_at_rest())
