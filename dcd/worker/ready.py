"""The process of an attempt that works, forked before the attempt is known.

It waits for what the first process of its namespaces hands over, and then enters the mount and UTS namespaces
of that one. Source: unix(7), setns(2).
"""

import json
import os
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from dcd.platform.control_group import enter
from store.host.forking import close_all_but
from store.host.namespaces import enter_place, own_place

Work = Callable[[bytes, Path, int, int], NoReturn]
"""What it does, with the request, the root of the workspace, and the descriptors for its messages and of the
answers; see `dcd.worker.attempt.work`."""

_DESCRIPTORS = 6


@dataclass(frozen=True, slots=True)
class Ready:
    """A process that waits at the other end of a socket."""

    pid: int
    socket: socket.socket

    def hand_over(
        self, request: bytes, root: Path, messages: int, answers: int, group: Path | None
    ) -> bool:
        """Have it work with this process's root and output, in its mount and UTS namespaces and the control
        group. Returns whether it still waited."""
        place = own_place()
        told = json.dumps([str(root), str(group or "")]).encode() + b"\n"
        try:
            with self.socket:
                given = (1, messages, answers, *place)
                socket.send_fds(self.socket, [b"-"], given)
                self.socket.sendall(told + request)
        except OSError:
            return False
        finally:
            for descriptor in place:
                os.close(descriptor)
        return True

    def discard(self) -> None:
        """End it."""
        self.socket.close()
        os.waitpid(self.pid, 0)


def make_ready(work: Work, rehearse: Callable[[], None]) -> Ready:
    """Fork the process. `rehearse` does there what every attempt does. Raises OSError."""
    own, its = socket.socketpair()
    with its:
        pid = os.fork()
        if pid == 0:
            _wait(its, work, rehearse)
    return Ready(pid, own)


def _wait(waiting: socket.socket, work: Work, rehearse: Callable[[], None]) -> NoReturn:
    try:
        close_all_but(waiting.fileno())
        rehearse()
        _, descriptors, _, _ = socket.recv_fds(waiting, 1, _DESCRIPTORS)
        with waiting, waiting.makefile("rb") as stream:
            told, request = stream.readline(), stream.readline()
        if len(descriptors) == _DESCRIPTORS and request.endswith(b"\n"):
            for descriptor in descriptors:
                os.set_inheritable(descriptor, False)
            log, messages, answers, *place = descriptors
            for standard in (1, 2):
                os.dup2(log, standard)
            root, group = json.loads(told)
            if group:
                enter(Path(group))
            enter_place(*place)
            for descriptor in (log, *place):
                os.close(descriptor)
            os.setsid()
            work(request, Path(root), messages, answers)
    except BaseException:  # noqa: BLE001 - nobody else would print it
        traceback.print_exc()
    finally:
        os._exit(1)
