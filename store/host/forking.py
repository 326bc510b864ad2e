"""Starting processes, also on a machine that is temporarily out of them.

fork(2) and the pipes to a new process fail when a limit is reached: of a user, a control group, the
daemon or the kernel. `SHORTAGES` is the table of these errors. They are temporary on a busy machine, so
a start is tried again. EINTR is not in the table: Python retries by itself (PEP 475).
`store.host.durable` handles full disks.

Source: fork(2), pipe(2), execve(2), errno(3).
"""

import errno
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn, Protocol, TypeVar

PAUSES_SECONDS = (0.1, 0.3, 1.0, 3.0)
"""The delays between tries."""

_ALL_DESCRIPTORS = 1 << 20

Started = TypeVar("Started")


class Ending(Protocol):
    """A child process, as of `subprocess.Popen`."""

    def wait(self, timeout: float | None = None) -> int: ...

    def kill(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Shortage:
    """An exhausted resource of the host, and the remedy."""

    what: str
    remedy: str


SHORTAGES: Mapping[int, Shortage] = {
    errno.EAGAIN: Shortage(
        "the host has reached a limit of processes",
        "raise TasksMax of the service or the kernel's limits, or let fewer builds run at once",
    ),
    errno.ENOMEM: Shortage(
        "the host is out of memory", "add memory or swap, or let fewer builds run at once"
    ),
    errno.EMFILE: Shortage(
        "the daemon has too many files open",
        "raise LimitNOFILE of the service, or let fewer builds run at once",
    ),
    errno.ENFILE: Shortage(
        "the host has too many files open",
        "raise fs.file-max (sysctl), or end programs with many open files",
    ),
}
"""Error number to shortage."""


def close_all_but(*kept: int) -> None:
    """Close all descriptors of a forked process but the standard streams and some more: it must not hold what
    belongs to its parent or to other children of it."""
    first = 3
    for descriptor in sorted(kept):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, _ALL_DESCRIPTORS)


def exit_with(work: Callable[[], int]) -> NoReturn:
    """End this forked process with the status that `work` returns, or 1 after an error, which is printed.
    Python's shutdown is skipped: it takes longer than many a checkpoint, and waits for threads."""
    try:
        status = work()
    except BaseException:  # noqa: BLE001 - nobody else would print it
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    os._exit(status)


def end(process: Ending, seconds: float) -> None:
    """Wait for the end of a process that is about to end, and kill it when that takes longer."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def shortage(error: BaseException) -> Shortage | None:
    """The resource that the host lacked when a process could not be started; None for another
    reason."""
    number = error.errno if isinstance(error, OSError) else None
    return None if number is None else SHORTAGES.get(number)


def patiently(start: Callable[[], Started]) -> Started:
    """Call `start`, which starts a process, and try again while the host lacks a resource. Returns its
    result."""
    for pause in PAUSES_SECONDS:
        try:
            return start()
        except OSError as error:
            if shortage(error) is None:
                raise
        time.sleep(pause)
    return start()
