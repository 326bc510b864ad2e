"""Starting processes on a machine that has none to give for a moment.

fork(2) fails with EAGAIN when a limit on processes is reached (of a user, a control group, the kernel), and
with ENOMEM when memory is short. Both pass when others end, which takes moments on a busy machine.
"""

import errno
import time
from collections.abc import Callable
from typing import TypeVar

PAUSES_SECONDS = (0.1, 0.3, 1.0, 3.0)
"""Between one try and the next."""

Started = TypeVar("Started")


def is_transient(error: OSError) -> bool:
    """Whether a process could not be started for a reason that passes."""
    return error.errno in (errno.EAGAIN, errno.ENOMEM)


def patiently(start: Callable[[], Started]) -> Started:
    """What `start` returns, which starts a process: tried again while the reason why it cannot passes."""
    for pause in PAUSES_SECONDS:
        try:
            return start()
        except OSError as error:
            if not is_transient(error):
                raise
        time.sleep(pause)
    return start()
