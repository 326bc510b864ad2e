"""The launcher inside a test's own process: the same operations and workers, without a process between."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dcd.launcher.namespaced import NamespacedWorkers
from dcd.launcher.operations import Operations
from dcd.launcher.orders import AttemptOrder
from dcd.launcher.portable import PortableWorkers
from dcd.launcher.workers import Output, run_worker
from dcd.launcher.zygote import Zygote
from dcd.platform.control_group import Delegated
from dcd.worker.request import WorkerRequest
from statemachine.errors import DcdError
from store.host.conversation import encoded, receive, result_of, send


def starting(
    request: WorkerRequest,
    log: Path,
    groups: Delegated | None = None,
    ended: Callable[[], None] = lambda: None,
    zygote: Zygote | None = None,
) -> Callable[[int], socket.socket]:
    """Starts a worker as the launcher does, for `dcd.worker.launch.run_attempt`: forked from `zygote`, or as
    a program. `ended` is called after its end."""

    def start(messages: int) -> socket.socket:
        log.parent.mkdir(parents=True, exist_ok=True)
        mine, its = socket.socketpair()
        workers = PortableWorkers() if request.portable else NamespacedWorkers(zygote)
        arguments = (ended, its, request, Output(log), os.dup(messages), workers, groups)
        threading.Thread(target=_serve, args=arguments, daemon=True).start()
        try:
            result_of(receive(mine)[0])
        except BaseException:
            mine.close()
            raise
        return mine

    return start


def _serve(ended: Callable[[], None], connection: socket.socket, *arguments: object) -> None:
    with connection:
        try:
            try:
                reply = {"result": run_worker(connection, *arguments)}  # type: ignore[arg-type]
            finally:
                ended()
        except (DcdError, OSError) as error:
            reply = {"error": encoded(error)}
        with contextlib.suppress(OSError):  # nobody waits for it
            send(connection, reply)


@dataclass(slots=True)
class Here(Operations):
    """What an engine in the test's process uses as the launcher."""

    def start_worker(self, order: AttemptOrder, messages: int) -> socket.socket:
        """See `dcd.launcher.client.Privileged`."""
        log = self.logs.path(order.build, order.checkpoint, order.attempt)
        request = self.attempt(order)
        return starting(request, log, ended=lambda: self.ended(request))(messages)
