"""Starting processes on a machine that is temporarily out of them.

fork(2) fails with EAGAIN when a limit on processes is reached (of a user, a control group, the kernel), and
with ENOMEM when memory is short. Both are usually temporary on a busy machine.
"""

import errno
import time
from collections.abc import Callable
from typing import TypeVar

PAUSES_SECONDS = (0.1, 0.3, 1.0, 3.0)
"""The delay between tries."""

Started = TypeVar("Started")


def is_transient(error: OSError) -> bool:
    """Whether the reason why a process could not be started is temporary."""
    return error.errno in (errno.EAGAIN, errno.ENOMEM)


def patiently(start: Callable[[], Started]) -> Started:
    """Call `start`, which starts a process, and try again while it fails for a temporary reason.
    Returns its result."""
    for pause in PAUSES_SECONDS:
        try:
            return start()
        except OSError as error:
            if not is_transient(error):
                raise
        time.sleep(pause)
    return start()
