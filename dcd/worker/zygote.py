"""`python -m dcd.worker.zygote FD`: the process from which workers are forked.

It has imported all modules of the project that attempts need, so a worker starts within milliseconds. It has
one thread, and knows of no attempt: FD is its end of a socket shared with the launcher, and each message
there says only whether a worker shares the host's network, with three descriptors: the worker's input, its
log and the pipe for its messages. The reply is the worker's pid, or an error number. Everything else the
worker reads from its input, after the fork: a `Mark`, then its request. So no worker inherits anything of
another one.

A worker without the network is forked in advance, with the process of it that works (`dcd.worker.ready`), and
waits in its namespaces for its descriptors. It makes its mount and UTS namespaces only then, so that it has
the host's mounts and name of that moment.

A worker is a child of the launcher (`store.host.namespaces`), and ends with the thread there that has started
this process; when this process ends, running workers continue, and waiting ones end. Code of plug-ins and
users is imported by workers only. Python's hashes are the same in all workers (PYTHONHASHSEED), so that
results cannot depend on them.
"""

import contextlib
import os
import signal
import socket
import sys
import traceback
from dataclasses import dataclass
from typing import NoReturn

from dcd.construction.preload import preload, rehearse
from dcd.platform.control_group import enter
from dcd.worker.attempt import work
from dcd.worker.first_process import be_first
from dcd.worker.marker import put_mark
from dcd.worker.messages import decode_mark
from dcd.worker.ready import make_ready
from dcd.worker.request import FORKED, NETWORK
from dcd.worker.stream import heed_signals, take_stream
from store.host.forking import close_all_but
from store.host.kernel_scopes import end_with_parent
from store.host.namespaces import be_apart, become_root, fork_beside

_DESCRIPTORS = 3


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A worker that waits at the other end of a socket for its descriptors."""

    pid: int
    socket: socket.socket


def main(control: socket.socket) -> None:
    """Fork workers until the launcher ends."""
    preload()
    user = os.geteuid(), os.getegid()
    waiting: _Waiting | None = None
    while True:
        if waiting is None:
            with contextlib.suppress(OSError):  # the next worker is then forked when it is needed
                waiting = _forked(network=False, user=user)
        order, descriptors, _, _ = socket.recv_fds(control, 1, _DESCRIPTORS)
        if not order:
            return
        network = order == NETWORK
        pid = number = 0
        try:
            if not network and waiting is not None:
                with contextlib.suppress(OSError):  # it has died
                    pid = _started(waiting, descriptors)
                waiting = None
            pid = pid or _started(_forked(network=network, user=user), descriptors)
        except OSError as error:
            number = error.errno or 0
        for descriptor in descriptors:
            os.close(descriptor)
        control.send(FORKED.pack(pid, number))


def _started(worker: _Waiting, descriptors: list[int]) -> int:
    """Give a worker its descriptors. Returns its pid. Raises OSError when it has died."""
    with worker.socket:
        socket.send_fds(worker.socket, [b"-"], descriptors)
    return worker.pid


def _forked(*, network: bool, user: tuple[int, int]) -> _Waiting:
    """A new worker. Raises OSError."""
    own, its = socket.socketpair()
    with its:
        try:
            pid = fork_beside(network=network)
        except BaseException:
            own.close()
            raise
        if pid == 0:
            _work(user, its)
    return _Waiting(pid, own)


def _work(user: tuple[int, int], waiting: socket.socket) -> NoReturn:
    """The worker: the first process of its namespaces."""
    try:
        end_with_parent(signal.SIGKILL)
        close_all_but(waiting.fileno())
        become_root(*user)
        heed_signals()  # for the process that works, which may be sent one at once
        ready = None
        with contextlib.suppress(OSError):  # it is then forked when it is needed
            ready = make_ready(work, rehearse)
        _, descriptors, _, _ = socket.recv_fds(waiting, 1, _DESCRIPTORS)
        if not descriptors:
            os._exit(0)  # the zygote has ended
        os.setsid()
        requests, log, messages = descriptors
        for descriptor, standard in ((requests, 0), (log, 1), (log, 2)):
            os.dup2(descriptor, standard)
        close_all_but(messages, *([ready.socket.fileno()] if ready else []))
        stream = take_stream()
        line = stream.readline()
        if not line.endswith(b"\n"):
            os._exit(1)  # the launcher has ended
        mark = decode_mark(line)
        if mark.group is not None:
            enter(mark.group)
        put_mark(mark.marker)
        be_apart()
        be_first(stream, messages, ready, mark.group)
    except BaseException:  # noqa: BLE001 - nobody else would print it
        traceback.print_exc()
    finally:
        os._exit(1)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
    os._exit(0)
