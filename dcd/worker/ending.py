"""The end of the processes of an attempt without a PID namespace, from within the attempt."""

import time
from collections.abc import Collection

from dcd.worker.recover import leftover_workers, signal_all

END_SECONDS = 10.0
"""How long the processes of an attempt may take to end after SIGKILL. The launcher waits longer, and reports
those that hang in the kernel."""

_LOOK_SECONDS = 0.002


def end_all(marker: str, staying: set[int], contracts: Collection[int] = ()) -> bool:
    """Kill all processes of an attempt but these, and wait for their end, as long as `END_SECONDS`. Returns
    whether all have ended."""
    deadline = time.monotonic() + END_SECONDS
    while time.monotonic() < deadline:
        found = [each for each in leftover_workers(marker, contracts) if each.pid not in staying]
        if not found:
            return True
        signal_all(found)
        time.sleep(_LOOK_SECONDS)
    return False
