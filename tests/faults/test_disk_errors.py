"""The disk fails or is full: under the event log, under layers, in the middle of a checkpoint."""

import contextlib
import errno
import os
import shutil
import time

import pytest

from cli.client import ClientError

pytestmark = [pytest.mark.faults, pytest.mark.root]

WAL = {"part": "events.db-wal", "calls": ("pwrite64", "fdatasync")}


def refusal(witness, *request, **options):
    """The error that a request meets."""
    with pytest.raises(ClientError) as met:
        witness.ask(*request, **options)
    return met.value


def submit_until_refused(witness, manifest):
    """Submit builds until one is not accepted; returns the refusal."""
    for _ in range(1000):
        try:
            witness.submit(manifest)
            witness.look()
        except ClientError as error:
            return error
    pytest.fail("no submit was refused")


@pytest.mark.parametrize("at", [1, 2, 3, 7, 20])
def test_after_a_write_error_of_the_log_nothing_is_acknowledged_until_a_restart(
    frail, zygote, witness, write_manifest, make_fault, at
):
    manifest = write_manifest(witness.step("one"), witness.step("two"))
    zygote.fault = make_fault(at=at, error=errno.EIO, **WAL)
    frail.start()

    refused = submit_until_refused(witness, manifest)

    assert refused.kind == "unavailable"
    assert "a write to the event log failed" in refused.brief
    again = refusal(witness, "POST", "/builds", submission(manifest))
    assert again.kind == "unavailable"
    assert "restart" in again.brief + again.resolution
    assert refusal(witness, "GET", "/health").kind == "unavailable"
    witness.look()  # what was acknowledged can still be read
    assert len(witness.ask("GET", "/builds")["builds"]) == len(witness.shown)
    frail.kill()
    assert witness.wrong_after_death() == []

    frail.start()
    assert witness.ask("GET", "/health") == {"status": "ok"}
    for build in witness.ask("GET", "/builds")["builds"]:
        witness.shown[build["id"]].setdefault(0, "")  # written, though not acknowledged: allowed
    witness.until("completed")
    assert witness.wrong_at_rest() == []


def submission(manifest):
    return {"manifest": {"path": str(manifest), "text": manifest.read_text()}}


def test_daemon_whose_log_failed_stops_when_told(
    frail, zygote, witness, write_manifest, make_fault
):
    zygote.fault = make_fault(at=9, error=errno.EIO, **WAL)
    frail.start()
    submit_until_refused(witness, write_manifest(witness.step("one", "sleep 1000")))

    assert frail.stop() == 0
    assert witness.wrong_after_death() == []


def test_control_a_log_that_takes_failures_for_successes_is_noticed(
    frail, zygote, witness, write_manifest, make_fault
):
    zygote.fault = make_fault(at=1, error=errno.EIO, **WAL)
    zygote.defect = "acknowledge_what_failed"
    frail.start()
    with contextlib.suppress(ClientError):
        witness.submit(write_manifest(witness.step("one")))

    frail.kill()

    assert any("was acknowledged" in problem for problem in witness.wrong_after_death())


@pytest.mark.parametrize("call", ["mkdir", "rename", "fsync", "write"])
def test_layer_that_cannot_be_written_fails_its_checkpoint_with_the_reason(
    frail, zygote, witness, write_manifest, make_fault, call
):
    frail.start()
    assert frail.stop() == 0  # the trial of the back ends is over
    manifest = write_manifest(witness.step("one"), witness.step("two"))
    build = submit_paused(frail, witness, manifest)
    frail.settings["layer_backend"] = "overlay"
    part = "/.work/" + build if call != "rename" else "/layers/overlay/"
    zygote.fault = make_fault(at=1, error=errno.EIO, part=part, calls=(call,))
    zygote.defect = "trust_the_back_end"
    frail.start()

    witness.ask("POST", f"/builds/{build}/resume", {})
    failed = witness.until("failed")[build]

    assert "defect" not in failed["reason"]
    assert "Input/output error" in str(failed["error"])
    frail.kill()
    assert witness.wrong_after_death() == []
    frail.start()
    witness.ask("POST", f"/builds/{build}/resume", {})
    witness.until("completed")
    assert witness.wrong_at_rest() == []


def submit_paused(frail, witness, manifest):
    """A build that waits before its first checkpoint; the daemon is stopped."""
    frail.start()
    build = witness.submit(manifest, pause_before="one")
    witness.until("paused")
    assert frail.stop() == 0
    return build


def test_disk_full_in_a_checkpoint_pauses_the_build_until_there_is_space(
    frail, zygote, witness, write_manifest, small_disk
):
    zygote.defect = "look_for_space_often"
    frail.start()
    fill(small_disk / "ballast", leaving=60 * 2**20)
    big = "head -c 80M /dev/urandom > {PKG_IMAGE_PATH}/big"
    build = witness.submit(write_manifest(witness.step("small"), witness.step("big", big)))

    paused = witness.until("paused")[build]

    assert "big ran out of space" in paused["reason"]
    assert frail.ctl("status", build)
    assert [c["state"] for c in paused["checkpoints"]] == ["completed", "interrupted"]
    assert witness.wrong_at_rest() == []
    (small_disk / "ballast").unlink()
    witness.until("completed")
    assert witness.wrong_at_rest() == []


def test_checkpoint_that_needs_more_than_the_disk_has_is_not_tried_over_and_over(
    frail, zygote, witness, write_manifest, small_disk
):
    zygote.defect = "look_for_space_often"
    frail.start()
    big = "head -c 300M /dev/zero > {PKG_IMAGE_PATH}/big"
    build = witness.submit(write_manifest(witness.step("big", big)))
    witness.until("paused")

    time.sleep(2)  # ten looks for space

    paused = witness.until("paused")[build]
    assert paused["checkpoints"][0]["attempts"] == 1


def test_inodes_used_up_in_a_checkpoint_pause_the_build_until_there_are_some(
    frail, zygote, witness, write_manifest, small_disk
):
    """A script that hides what its tools say: there is space, and no file can be made."""
    zygote.defect = "look_for_space_often"
    frail.start()
    hoard = small_disk / "hoard"
    hoard.mkdir()
    use_up_inodes(hoard, leaving=2000)
    make = "mkdir {PKG_IMAGE_PATH}/$i 2>/dev/null || exit 1"
    many = f"i=0; while [ $i -lt 3000 ]; do {make}; i=$((i+1)); done"
    build = witness.submit(write_manifest(witness.step("many", many)))

    paused = witness.until("paused")[build]

    assert "ran out of space" in paused["reason"]
    assert "inodes" in paused["reason"]
    time.sleep(2)  # ten looks for space
    assert witness.until("paused")[build]["checkpoints"][0]["attempts"] == 1
    assert witness.wrong_at_rest() == []
    shutil.rmtree(hoard)
    witness.until("completed")
    assert witness.wrong_at_rest() == []


def test_a_build_that_lacks_inodes_from_the_start_waits_for_them(
    frail, zygote, witness, write_manifest, small_disk, tmp_path
):
    zygote.defect = "look_for_space_often"
    frail.start()
    hoard = small_disk / "hoard"
    hoard.mkdir()
    wait = f"until [ -e {tmp_path}/go ]; do sleep 0.1; done"
    build = witness.submit(write_manifest(witness.step("one", wait), witness.step("two")))
    witness.until("running")
    use_up_inodes(hoard, leaving=500)
    (tmp_path / "go").touch()

    paused = witness.until("paused")[build]

    assert "inodes" in paused["reason"]
    refused = refusal(witness, "POST", "/builds", submission(write_manifest(("x", "true"))))
    assert (refused.kind, "inodes" in refused.details) == ("unprepared", True)
    shutil.rmtree(hoard)
    witness.until("completed")


def use_up_inodes(directory, leaving):
    """Make empty files until only so many inodes are left."""
    for number in range(os.statvfs(directory).f_favail - leaving):
        os.close(os.open(directory / str(number), os.O_CREAT | os.O_WRONLY))


def test_full_disk_of_the_log_refuses_clearly_and_heals(
    frail, zygote, witness, write_manifest, small_disk
):
    zygote.defect = "look_for_space_often"
    frail.start()
    done = witness.submit(write_manifest(witness.step("one")))
    witness.until("completed")
    fill(small_disk / "ballast", leaving=0)
    fresh = write_manifest(witness.step("other"), name="other")

    # The first to meet it are written into the space that was kept back for the log.
    witness.submit(fresh)
    witness.until("paused", "completed")
    assert refusal(witness, "GET", "/health").brief == "the disk of the event log is full"
    fill(small_disk / "more ballast", leaving=0)
    refused = submit_until_refused(witness, fresh)

    assert (refused.kind, refused.brief) == ("unavailable", "the disk of the event log is full")
    assert witness.look()[done]["state"] == "completed"
    assert frail.ctl("status", done)
    for ballast in small_disk.glob("*ballast"):
        ballast.unlink()
    deadline = time.monotonic() + 120
    while witness_is_refused(witness):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    witness.until("completed")
    assert witness.wrong_at_rest() == []
    frail.kill()
    assert witness.wrong_after_death() == []


def test_disk_that_fails_when_space_is_to_be_kept_back_stops_the_log_in_words(
    frail, zygote, witness, write_manifest, make_fault, small_disk
):
    zygote.defect = "look_for_space_often"
    zygote.fault = make_fault(at=2, error=errno.EIO, part=".events.db.reserve", calls=("creat",))
    frail.start()
    fill(small_disk / "ballast", leaving=0)
    manifest = write_manifest(witness.step("one"))
    witness.submit(manifest)  # into the space that was kept back
    witness.until("paused", "completed")
    (small_disk / "ballast").unlink()

    deadline = time.monotonic() + 120
    while "a write to the event log failed" not in refusal(witness, "GET", "/health").brief:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    refused = submit_until_refused(witness, manifest)

    assert "a write to the event log failed" in refused.brief
    witness.look()
    frail.kill()
    assert witness.wrong_after_death() == []


def witness_is_refused(witness):
    try:
        witness.ask("GET", "/health")
    except ClientError:
        return True
    return False


def fill(ballast, *, leaving):
    """Take all space of the file system of `ballast` but `leaving` bytes."""
    while (free := shutil.disk_usage(ballast.parent).free - leaving) > 0:
        try:
            with ballast.open("ab") as file:
                file.write(bytes(min(free, 2**20)))
        except OSError as error:
            assert error.errno == errno.ENOSPC
            break
