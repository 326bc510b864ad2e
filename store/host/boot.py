"""The present boot of the host."""

import contextlib
import sys
from functools import cache
from pathlib import Path

from store.host.process_table import entry

_FIRST_PROCESS = 1


@cache
def boot_id() -> str:
    """An id of the host's present boot, or "" on a system without one: Linux has a random one; on illumos it
    is the time at which the first process of the zone has started.

    Source: random(4), /proc/sys/kernel/random/boot_id; proc(5) of illumos, pr_start.
    """
    if sys.platform == "sunos5":
        first = entry(_FIRST_PROCESS)
        return "" if first is None else str(first.started)
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
