"""The stream from the launcher, which is the request of a worker and its lifetime.

It begins with the request. Later lines ask the worker to stop, or are answers for it. Its end means that the
launcher has closed it or is dead.
"""

import os
import signal
import sys
from typing import BinaryIO

from dcd.worker.signals import CANCEL

IGNORED_BY_THE_LAUNCHER = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What it starts begins like that: a worker that is asked to stop before its checkpoint runs would not."""


def take_stream() -> BinaryIO:
    """The stream of this process's standard input, which is empty from now on: no tool reads it."""
    stream = os.fdopen(os.dup(0), "rb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return stream


def read_request(stream: BinaryIO) -> bytes:
    """The request, a line of JSON. Ends this process when there is none."""
    request = stream.readline()
    if not request.endswith(b"\n"):
        sys.exit("the daemon ended before it sent the request")
    heed_signals()
    return request


def heed_signals() -> None:
    """No longer ignore the signals that the launcher ignores."""
    for number in IGNORED_BY_THE_LAUNCHER:
        signal.signal(number, signal.SIG_DFL)


def obey(stream: BinaryIO, process: int, answers: int) -> None:
    """Pass the lines of the stream on to a process, until the stream's end: to stop as SIGTERM, others to the
    pipe `answers`."""
    while line := stream.readline():
        try:
            if line == CANCEL:
                os.kill(process, signal.SIGTERM)
            else:
                os.write(answers, line)
        except (ProcessLookupError, BrokenPipeError):
            pass  # it has ended
