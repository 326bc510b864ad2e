"""Work that lets all other work go first: in a thread with the lowest priority for processor and disk.

Source: setpriority(2), which on Linux takes a thread; ioprio_set(2), the class idle.
"""

import contextlib
import ctypes
import os
import platform
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282}
_THIS_THREAD, _IDLE = 1, 3 << 13
_LOWEST = 19


def run_idle(work: Callable[[], T]) -> T:
    """The result of `work`, done in a thread of its own with the lowest priority, which the threads that it
    starts inherit. Raises its error."""
    done: Future[T] = Future()

    def run() -> None:
        _step_back()
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised by the caller's thread
            done.set_exception(error)

    threading.Thread(target=run, name="idle", daemon=True).start()
    return done.result()


def _step_back() -> None:
    if sys.platform != "linux":
        return  # there it would concern the whole process
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST)
    if (number := _IOPRIO_SET.get(platform.machine())) is not None:
        ctypes.CDLL(None).syscall(number, _THIS_THREAD, 0, _IDLE)
