"""Varying the surroundings of a worker, for a build that repeats another one.

Called at the start of a worker, while it has its privileges, in its own UTS namespace. What the host does not
permit is left out, and the attempt's log names what was varied.
Source: sethostname(2), sched_setaffinity(2), time_namespaces(7), tzset(3), faketime(1).
"""

import ctypes
import errno
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from statemachine.variation import Variation

_CLONE_NEWTIME = 0x80
_OFFSETS = Path("/proc/self/timens_offsets")
_FAKETIME = "faketime/libfaketime.so.1"
_LIBRARIES = (Path("/usr/lib"), Path("/usr/local/lib"))


def vary(variation: Variation, *, own_host: bool = True) -> None:
    """Vary the surroundings of this process and of all that it starts. `own_host`: it has a UTS namespace;
    without one its host name is the host's, and stays."""
    done = [name for name, change in _changes(variation, own_host) if _tried(change)]
    print(f"# varied for this repetition: {', '.join(done) or 'nothing'}", flush=True)


def for_image(variation: Variation | None) -> Mapping[str, str]:
    """Variables of all tools, also of those inside the image."""
    return {"TZ": variation.time_zone} if variation and variation.time_zone else {}


def for_host_tools(variation: Variation | None) -> Mapping[str, str]:
    """Variables of the host's tools: their clock, if this host has libfaketime. It changes no times of
    files."""
    library = _faketime() if variation and variation.later_seconds else None
    if variation is None or library is None:
        return {}
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": f"+{variation.later_seconds}s",
        "NO_FAKE_STAT": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def _changes(variation: Variation, own_host: bool) -> Iterator[tuple[str, Callable[[], None]]]:
    variables = {
        "TZ": variation.time_zone,
        "LANG": variation.language,
        "HOME": variation.home,
    }
    given = {name: value for name, value in variables.items() if value}
    if given:
        yield ", ".join(given), lambda: _set(given)
    if variation.host_name and own_host:
        yield "host name", lambda: socket.sethostname(variation.host_name)
    if variation.processors and hasattr(os, "sched_setaffinity"):
        yield "processors", lambda: _use_fewer(variation.processors)
    if variation.place:
        yield "directory of the workspace", lambda: None
    if variation.later_seconds:
        yield "clocks since the start of the host", lambda: _move_clocks(variation.later_seconds)
        if _faketime() is not None:
            yield "clock of the host's tools", lambda: None


def _tried(change: Callable[[], None]) -> bool:
    with suppress(OSError):
        change()
        return True
    return False


def _set(variables: Mapping[str, str]) -> None:
    os.environ.update(variables)
    time.tzset()


def _use_fewer(processors: int) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    # The last: a tool that asks for the first would find another.
    os.sched_setaffinity(0, allowed[-processors:])


def _move_clocks(seconds: int) -> None:
    """Move the clocks of the processes that this one starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if libc.unshare(_CLONE_NEWTIME) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    _OFFSETS.write_text(f"monotonic {seconds} 0\nboottime {seconds} 0\n")


def _faketime() -> Path | None:
    for place in _LIBRARIES:
        for path in (place / _FAKETIME, *sorted(place.glob(f"*/{_FAKETIME}"))):
            if path.is_file():
                return path
    return None
