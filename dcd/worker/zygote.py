"""`python -m dcd.worker.zygote FD`: the process from which workers are forked.

It has imported all modules of the project that attempts need, so a worker starts within milliseconds. It has
one thread, and knows of no attempt: FD is its end of a socket shared with the launcher, and each message
there says only whether a worker shares the host's network, with three descriptors: the worker's input, its
log and the pipe for its messages. The reply is the worker's pid, or an error number. Everything else the
worker reads from its input, after the fork: a `Mark`, then its request. So no worker inherits anything of
another one.

A worker is a child of the launcher (`store.host.namespaces`), and ends with the thread there that has started
this process; when this process ends, running workers continue. Code of plug-ins and users is imported by
workers only. Python's hashes are the same in all workers (PYTHONHASHSEED), so that results cannot depend on
them.
"""

import os
import signal
import socket
import sys
import traceback
from typing import NoReturn

from dcd.construction.preload import preload
from dcd.platform.control_group import enter
from dcd.worker.attempt import carry_out
from dcd.worker.first_process import be_first
from dcd.worker.marker import put_mark
from dcd.worker.messages import decode_mark
from dcd.worker.request import FORKED, NETWORK
from store.host.forking import close_all_but
from store.host.kernel_scopes import end_with_parent
from store.host.namespaces import fork_beside, settle

_DESCRIPTORS = 3


def main(control: socket.socket) -> None:
    """Fork workers until the launcher ends."""
    preload()
    user = os.geteuid(), os.getegid()
    while True:
        order, descriptors, _, _ = socket.recv_fds(control, 1, _DESCRIPTORS)
        if not order:
            return
        pid = number = 0
        try:
            pid = fork_beside(network=order == NETWORK)
        except OSError as error:
            number = error.errno or 0
        else:
            if pid == 0:
                _work(user, *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        control.send(FORKED.pack(pid, number))


def _work(user: tuple[int, int], requests: int, log: int, messages: int) -> NoReturn:
    """The worker: the first process of its namespaces."""
    try:
        end_with_parent(signal.SIGKILL)
        for descriptor, standard in ((requests, 0), (log, 1), (log, 2)):
            os.dup2(descriptor, standard)
        close_all_but(messages)
        os.setsid()
        line = sys.stdin.buffer.readline()
        if not line.endswith(b"\n"):
            os._exit(1)  # the launcher has ended
        mark = decode_mark(line)
        if mark.group is not None:
            enter(mark.group)
        put_mark(mark.marker)
        settle(*user)
        be_first(messages, carry_out)
    except BaseException:  # noqa: BLE001 - nobody else would print it
        traceback.print_exc()
    finally:
        os._exit(1)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
    os._exit(0)
