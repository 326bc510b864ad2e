"""Starting processes on a machine that has none to give for a moment.

fork(2) and the pipes to a new process fail when something is used up: of a user, a control group, the daemon
or the kernel. `SHORTAGES` is the table of these errors. All of them pass when others end, which takes moments
on a busy machine, so a start is tried again. EINTR is not among them: Python goes on by itself (PEP 475).
Want of space on a disk is another matter: `store.host.durable`.

Source: fork(2), pipe(2), execve(2), errno(3).
"""

import errno
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

PAUSES_SECONDS = (0.1, 0.3, 1.0, 3.0)
"""Between one try and the next."""

Started = TypeVar("Started")


@dataclass(frozen=True, slots=True)
class Shortage:
    """Something that the host has too little of: what, and what helps."""

    what: str
    remedy: str


SHORTAGES: Mapping[int, Shortage] = {
    errno.EAGAIN: Shortage(
        "the host has no process to give",
        "raise TasksMax of the service or the kernel's limits, or let fewer builds run at once",
    ),
    errno.ENOMEM: Shortage(
        "the host has no memory to give", "add memory or swap, or let fewer builds run at once"
    ),
    errno.EMFILE: Shortage(
        "the daemon has too many files open",
        "raise LimitNOFILE of the service, or let fewer builds run at once",
    ),
    errno.ENFILE: Shortage(
        "the host has too many files open", "raise fs.file-max (sysctl), or end what holds files"
    ),
}
"""By the number of the error."""


def shortage(error: BaseException) -> Shortage | None:
    """What the host lacked when a process could not be started; None for another reason."""
    number = error.errno if isinstance(error, OSError) else None
    return None if number is None else SHORTAGES.get(number)


def patiently(start: Callable[[], Started]) -> Started:
    """What `start` returns, which starts a process: tried again while the host lacks what it takes."""
    for pause in PAUSES_SECONDS:
        try:
            return start()
        except OSError as error:
            if shortage(error) is None:
                raise
        time.sleep(pause)
    return start()
