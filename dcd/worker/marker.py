"""The mark of an attempt in the environment that the kernel shows of a process (/proc/PID/environ).

That is the memory in which a program found its environment at its start, and a fork of it the same. So a
process that is forked writes its mark over a placeholder there, and one that has the mark overwrites it
before a checkpoint can read it. Source: proc_pid_environ(5).
"""

import ctypes
import os

from dcd.worker.request import MARKER

MARK_BYTES = 1024
"""The most bytes of a mark."""

PLACEHOLDER = "-" * MARK_BYTES
"""The value of `MARKER` in the environment of a process from which marked ones are forked."""


def put_mark(mark: str) -> None:
    """Give this process, forked from one with the placeholder, its mark. Raises ValueError when it is too
    long."""
    value = mark.encode()
    if len(value) > MARK_BYTES:
        raise ValueError(f"a mark of {len(value)} bytes")
    address, length = _value()
    ctypes.memmove(address, value.ljust(length, b"\0"), length)


def hide_mark() -> None:
    """Take the mark, or the placeholder, from this process."""
    address, length = _value()
    if address:
        name = len(MARKER) + 1
        ctypes.memset(address - name, ord("-"), length + name)
    os.environ.pop(MARKER, None)


def _value() -> tuple[int, int]:
    """The address of the variable's value and its length; 0 when there is none."""
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_void_p
    address = libc.getenv(MARKER.encode()) or 0
    return address, len(ctypes.string_at(address)) if address else 0
