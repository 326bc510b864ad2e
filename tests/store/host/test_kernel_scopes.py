"""Limits of the kernel beside namespaces, in processes that take them on."""

import multiprocessing
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from store.host import kernel_scopes
from store.host.kernel_scopes import (
    can_restrict_files,
    can_scope_sockets,
    restrict_files,
)

landlock = pytest.mark.skipif(
    not can_restrict_files(), reason="this host's kernel has no Landlock with renames"
)


def in_a_process(work: Callable[[], object]) -> str:
    """What the work returns in a process of its own, or the name of its error."""
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)

    def run() -> None:
        try:
            sending.send(str(work()))
        except OSError as error:
            sending.send(type(error).__name__)

    process = context.Process(target=run)
    process.start()
    sending.close()
    said: str = receiving.recv()
    process.join()
    return said


@landlock
def test_other_files_cannot_be_read_and_programs_still_start(tmp_path: Path) -> None:
    for name in ("seen", "unseen"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)

    def reading(path: Path, *readable: Path) -> str:
        def work() -> str:
            restrict_files([Path("/usr"), *readable], [Path("/dev/null")])
            return subprocess.run(
                ["/bin/echo", path.read_text()], capture_output=True
            ).stdout.decode()

        return in_a_process(work).strip()

    seen, unseen = tmp_path / "seen", tmp_path / "unseen"
    assert reading(seen / "file", seen) == "seen"
    assert reading(seen / "file", seen / "file") == "seen"
    assert reading(unseen / "file", seen) == "PermissionError"
    assert reading(unseen / "file", seen, tmp_path / "nowhere", unseen) == "unseen"


@landlock
def test_only_what_is_writable_can_be_changed(tmp_path: Path) -> None:
    for name in ("own", "other"):
        for below in ("full", "empty"):
            (tmp_path / name / below).mkdir(parents=True)
        for file in ("file", "moving", "full/file"):
            (tmp_path / name / file).write_text(name)

    def changing(change: Callable[[Path], object]) -> list[str]:
        def work(directory: Path) -> str:
            restrict_files([tmp_path], [tmp_path / "own"])
            change(directory)
            return "done"

        return [in_a_process(lambda: work(tmp_path / name)) for name in ("own", "other")]  # noqa: B023

    for change in (
        lambda directory: (directory / "new").touch(),
        lambda directory: (directory / "file").write_text("changed"),
        lambda directory: (directory / "moving").rename(directory / "full/moved"),
        lambda directory: (directory / "full/file").unlink(),
        lambda directory: (directory / "empty").rmdir(),
        lambda directory: (directory / "link").symlink_to("file"),
    ):
        assert changing(change) == ["done", "PermissionError"]


@pytest.mark.skipif(not can_scope_sockets(), reason="this host's kernel has no scopes of Landlock")
def test_other_processes_cannot_be_signalled(tmp_path: Path) -> None:
    def work() -> str:
        restrict_files([tmp_path], [])
        with subprocess.Popen(["sleep", "30"]) as own:
            own.send_signal(signal.SIGKILL)
        os.kill(os.getppid(), 0)
        return "signalled"

    assert in_a_process(work) == "PermissionError"


def test_elsewhere_there_is_no_landlock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_scopes.sys, "platform", "sunos5")
    assert not can_restrict_files()
    assert not can_scope_sockets()
