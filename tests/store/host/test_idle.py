"""Work with the lowest priority."""

import os
import sys
import threading

import pytest

from store.host.idle import run_idle


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has priorities of threads")
def test_the_work_and_its_threads_go_last_and_the_caller_does_not() -> None:
    before = niceness()

    def work() -> list[int]:
        found = [niceness()]
        thread = threading.Thread(target=lambda: found.append(niceness()))
        thread.start()
        thread.join()
        return found

    assert run_idle(work) == [19, 19]
    assert niceness() == before


def test_an_error_of_the_work_is_the_callers() -> None:
    with pytest.raises(ZeroDivisionError):
        run_idle(lambda: 1 // 0)
