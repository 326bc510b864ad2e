"""The first process of a worker.

It reads the request, starts the process that carries it out (`dcd.worker.attempt`), and then reaps the
processes that tools leave behind. When it ends, the kernel kills all processes of its PID namespace; where it
has none, it kills them itself before (`dcd.worker.supervisor`). It ends with its child, and immediately when
the daemon closes the stream of the request or dies. A line on that stream asks the child to stop, or is an
answer for the child.
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import NoReturn

from dcd.worker.signals import CANCEL

IGNORED_BY_THE_LAUNCHER = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What it starts begins like that: a worker that is asked to stop before its checkpoint runs would not."""

CarryOut = Callable[[bytes, int, int], int]
"""See `dcd.worker.attempt.carry_out`."""


def _by_the_kernel() -> None:
    """The end of the first process of a PID namespace is the end of all others there."""


def be_first(
    messages: int, carry_out: CarryOut, end_others: Callable[[], None] = _by_the_kernel
) -> NoReturn:
    """Run one attempt by `carry_out`; see the module. `messages` is the descriptor for its messages.
    `end_others` is called, in any thread, before this process ends."""
    request = sys.stdin.buffer.readline()
    if not request.endswith(b"\n"):
        sys.exit("the daemon ended before it sent the request")
    for number in IGNORED_BY_THE_LAUNCHER:
        signal.signal(number, signal.SIG_DFL)
    reading, answers = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(answers)
        _carry_out(carry_out, request, messages, reading)
    os.close(messages)
    os.close(reading)
    threading.Thread(target=_obey, args=(child, answers, end_others), daemon=True).start()
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            end_others()
            # Skips Python's shutdown, which would wait for the reading thread.
            os._exit(code if code >= 0 else 128 - code)


def _carry_out(carry_out: CarryOut, request: bytes, messages: int, answers: int) -> NoReturn:
    """Run the attempt in the child. No process that it starts shares the daemon's streams."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.set_inheritable(messages, False)
    try:
        status = carry_out(request, messages, answers)
    except BaseException:  # noqa: BLE001 - nobody else would print it
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    # Python's shutdown takes longer than many a checkpoint.
    os._exit(status)


def _obey(child: int, answers: int, end_others: Callable[[], None]) -> None:
    while line := sys.stdin.buffer.readline():
        if line == CANCEL:
            os.kill(child, signal.SIGTERM)
        else:
            os.write(answers, line)
    end_others()
    os._exit(1)
