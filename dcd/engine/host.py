"""Facts about the host that go into events."""

import contextlib
from functools import cache
from pathlib import Path


@cache
def boot_id() -> str:
    """A name for the time since the host booted, or "" where the system has none.

    Source: random(4), /proc/sys/kernel/random/boot_id.
    """
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
