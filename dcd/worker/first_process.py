"""The first process of a worker's PID namespace.

It reads the request from the stream that the launcher holds, and carries it out (`dcd.worker.attempt`). When
it ends, the kernel kills all other processes of the namespace. While the process with the checkpoint's
privileges runs, a thread reads on: a line on the stream asks that process to stop, or is an answer for it. At
the end of the stream, when the launcher closes it or dies, this process ends at once.
"""

import os
import threading
from pathlib import Path
from typing import BinaryIO, NoReturn

from dcd.worker.attempt import carry_out, work
from dcd.worker.ready import Ready
from dcd.worker.stream import obey, read_request
from store.host.forking import close_all_but, exit_with


def be_first(
    stream: BinaryIO, messages: int, ready: Ready | None = None, group: Path | None = None
) -> NoReturn:
    """Carry out one attempt; see the module. `messages` is the descriptor for its messages. `ready` is the
    process that works, if it has been forked already. It is not in the control `group` yet."""
    request = read_request(stream)
    os.set_inheritable(messages, False)
    reading, answers = os.pipe()

    def start(root: Path, *, varied: bool) -> int:
        child = 0
        if ready is not None and varied:
            # Some variations are for processes that are forked later. The unused one, which is outside of the
            # view, ends before there is a process of the checkpoint that could reach it.
            ready.discard()
        elif ready is not None and ready.hand_over(request, root, messages, reading, group):
            child = ready.pid
        if child == 0 and (child := os.fork()) == 0:
            try:
                close_all_but(messages, reading)
                work(request, root, messages, reading)
            finally:
                os._exit(1)
        os.close(reading)
        threading.Thread(target=_obey, args=(stream, child, answers), daemon=True).start()
        return child

    exit_with(lambda: carry_out(request, messages, start))


def _obey(stream: BinaryIO, child: int, answers: int) -> None:
    obey(stream, child, answers)
    os._exit(1)
