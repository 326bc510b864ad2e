"""Workers in Linux namespaces.

The worker is the first process of a PID namespace, with a mount namespace and, unless its checkpoint
needs the network, a network namespace of its own. It is forked from a zygote (`dcd.launcher.zygote`) or,
while there is none, started as a program, in the same namespaces and with the same environment.

All in its namespaces end with the launcher. A forked worker has a parent-death signal. A program is in a
chain, each killed by the death of the one before: launcher, unshare(1) (by setpriv's parent-death signal),
the namespace's first process (by --kill-child). The signal comes when the *thread* that started a process
ends, so one thread serves a worker from start to end. For the moment before the signal is armed, the worker
also ends when its request stream does.
"""

import os

from dcd.launcher.processes import Chain, Forked, Process
from dcd.launcher.workers import Started, environment, line_of, with_input
from dcd.launcher.zygote import Zygote
from dcd.platform.control_group import AttemptGroup
from dcd.worker.permission import require_namespaces
from dcd.worker.recover import kill_leftovers
from dcd.worker.request import MARKER, Mark, WorkerRequest
from store.host.forking import patiently
from store.host.interpreter import module_command


class NamespacedWorkers:
    """See `dcd.launcher.workers.Workers`. Without a zygote, each worker is started as a program."""

    def __init__(self, zygote: Zygote | None = None) -> None:
        self._zygote = zygote
        self._permitted = os.geteuid() == 0
        """Whether this host is known to allow namespaces. Of root that is asked when one was refused."""

    def start(
        self, request: WorkerRequest, log: int, messages: int, group: AttemptGroup | None
    ) -> Started:
        if not self._permitted:
            require_namespaces()
            self._permitted = True
        try:
            return self._start(request, (log, messages), group)
        except PermissionError:
            require_namespaces()
            raise

    def _start(
        self, request: WorkerRequest, given: tuple[int, int], group: AttemptGroup | None
    ) -> Started:
        zygote = self._zygote
        if zygote is not None and (
            forked := with_input(lambda its: _forked(zygote, request, (its, *given)))
        ):
            mark = Mark(request.marker, group.directory if group else None)
            return Started(*forked, line_of(mark))
        _, messages = given
        command = [*(group.command() if group else ()), *_command(request, messages)]
        program = with_input(lambda its: _program(command, request, (its, *given)))
        assert program is not None
        return Started(*program)

    def end(self, process: Process, request: WorkerRequest) -> None:
        if process.poll() is None:
            process.kill()
            process.wait()
            kill_leftovers(request.marker)


def _forked(zygote: Zygote, request: WorkerRequest, given: tuple[int, int, int]) -> Process | None:
    pid = patiently(lambda: zygote.fork(given, network=request.network))
    return None if pid is None else Forked(pid)


def _program(command: list[str], request: WorkerRequest, given: tuple[int, int, int]) -> Process:
    its_input, log, messages = given
    return patiently(
        lambda: Chain(
            command,
            env=_environment(request),
            cwd="/",
            stdin=its_input,
            stdout=log,
            stderr=log,
            pass_fds=(messages,),
            start_new_session=True,
        )
    )


def _command(request: WorkerRequest, messages: int) -> list[str]:
    # Slave: no mount of the worker reaches the host, while unmounting there reaches the worker, which
    # would otherwise keep its copies busy.
    return [
        *("setpriv", "--pdeathsig", "SIGKILL"),
        *("unshare", "--mount", "--propagation", "slave", "--pid", "--fork"),
        *("--kill-child=SIGKILL", "--mount-proc", "--ipc", "--uts"),
        *(() if request.network else ("--net",)),
        *(() if os.geteuid() == 0 else ("--user", "--map-root-user")),
        *module_command("dcd.worker"),
        str(messages),
    ]


def _environment(request: WorkerRequest) -> dict[str, str]:
    return {**environment(), MARKER: request.marker}
