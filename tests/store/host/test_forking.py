"""A process that cannot be started since the host is short of something is tried again, and told apart."""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from store.host import forking
from store.host.forking import SHORTAGES, patiently, shortage
from store.host.process import run


class Busy:
    """A host that refuses the first starts with an error."""

    def __init__(self, number: int, refusals: int) -> None:
        self.number, self.refusals, self.tries = number, refusals, 0

    def start(self) -> str:
        self.tries += 1
        if self.tries <= self.refusals:
            raise OSError(self.number, os.strerror(self.number))
        return "started"


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forking, "PAUSES_SECONDS", (0.0, 0.0, 0.0))


@pytest.mark.parametrize("number", SHORTAGES, ids=lambda number: errno.errorcode[number])
def test_what_passes_is_waited_for_and_not_for_ever(hurried: None, number: int) -> None:
    assert patiently(Busy(number, 3).start) == "started"
    for_ever = Busy(number, 99)
    with pytest.raises(OSError) as refused:
        patiently(for_ever.start)
    assert (refused.value.errno, for_ever.tries) == (number, 4)
    short = shortage(refused.value)
    assert short is not None
    assert short.what
    assert short.remedy


@pytest.mark.parametrize(
    "number",
    [errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.E2BIG, errno.EIO, errno.ENOSPC, errno.EINVAL],
    ids=lambda number: errno.errorcode[number],
)
def test_what_does_not_pass_is_not_tried_again(hurried: None, number: int) -> None:
    busy = Busy(number, 1)
    with pytest.raises(OSError) as refused:
        patiently(busy.start)
    assert (refused.value.errno, busy.tries) == (number, 1)
    assert shortage(refused.value) is None


def test_an_interrupted_call_is_carried_on_by_python() -> None:
    """Why EINTR is not in the table: signals during a program's life do not break it off."""
    code = (
        "import signal, subprocess\n"
        "signal.signal(signal.SIGALRM, lambda *_: None)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)\n"
        "print(subprocess.run(['sleep', '0.3'], check=True).returncode)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


def test_a_tool_runs_as_soon_as_there_are_files_again(
    no_file_left: Callable[[], AbstractContextManager[Callable[[], None]]], tmp_path: Path
) -> None:
    with no_file_left() as give_back:
        timer = threading.Timer(0.2, give_back)
        timer.start()
        run(["touch", tmp_path / "ran"])
        timer.join()
    assert (tmp_path / "ran").exists()
