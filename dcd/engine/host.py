"""Facts about the host that go into events."""

import contextlib
from functools import cache
from pathlib import Path


@cache
def boot_id() -> str:
    """The id of the host's present boot, or "" on a system without one.

    Source: random(4), /proc/sys/kernel/random/boot_id.
    """
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
