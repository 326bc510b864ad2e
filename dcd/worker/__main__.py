"""`python -m dcd.worker FD`: the first process of a worker's PID namespace.

It reads the request, starts the process that carries it out (`dcd.worker.attempt`) with FD for its
messages, and then reaps the processes that tools leave behind. When it ends, the kernel kills all
processes of the namespace. It ends with its child, and immediately when the daemon closes the stream of
the request or dies. A line on that stream asks the child to stop, or is an answer for the child.
"""

import os
import signal
import sys
import threading
from typing import NoReturn

from dcd.worker.signals import CANCEL


def main() -> NoReturn:
    """Run one attempt; see the module."""
    if os.getpid() != 1:
        sys.exit("dcd.worker is started by the daemon, as the first process of a PID namespace")
    messages = int(sys.argv[1])
    request = sys.stdin.buffer.readline()
    if not request.endswith(b"\n"):
        sys.exit("the daemon ended before it sent the request")
    reading, answers = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(answers)
        _carry_out(request, messages, reading)
    os.close(messages)
    os.close(reading)
    threading.Thread(target=_obey, args=(child, answers), daemon=True).start()
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            # Skips Python's shutdown, which would wait for the reading thread.
            os._exit(code if code >= 0 else 128 - code)


def _carry_out(request: bytes, messages: int, answers: int) -> NoReturn:
    """Run the attempt in the child. No process that it starts shares the daemon's streams."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.set_inheritable(messages, False)
    # Imported here, so that the first process stays small and starts fast.
    from dcd.worker.attempt import carry_out

    sys.exit(carry_out(request, messages, answers))


def _obey(child: int, answers: int) -> None:
    while line := sys.stdin.buffer.readline():
        if line == CANCEL:
            os.kill(child, signal.SIGTERM)
        else:
            os.write(answers, line)
    os._exit(1)


if __name__ == "__main__":
    main()
