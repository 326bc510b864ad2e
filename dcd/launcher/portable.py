"""Portable workers: without namespaces, for illumos and for hosts without util-linux.

A worker is a supervisor (`dcd.worker.supervisor`) with all that it starts. The supervisor ends the attempt
when its input ends, so when the launcher dies; killing the supervisor is no way to end one, so `kill` ends
its processes before it. On illumos ctrun(1) starts it in a process contract and ends with the contract's last
member; when ctrun itself ends, or a process from outside kills a member, the kernel kills all members.

Source: ctrun(1), process(5) of illumos.
"""

import subprocess
import sys

from dcd.launcher.processes import Process
from dcd.launcher.workers import Started, environment, with_input
from dcd.platform.control_group import AttemptGroup
from dcd.worker.recover import (
    kill_leftovers,
    leftover_workers,
    noted_contracts,
    signal_all,
)
from dcd.worker.request import DESCENDANT, MARKER, WorkerRequest, descendant_mark
from store.host.forking import patiently
from store.host.interpreter import module_command

_IN_A_CONTRACT = ("ctrun", "-l", "contract", "-o", "noorphan", "-f", "signal,hwerr")


class Supervised(subprocess.Popen[bytes]):
    """A supervisor, or ctrun(1) that waits for its contract."""

    request: WorkerRequest

    def kill(self) -> None:
        """Kill all processes of the attempt, the supervisor last."""
        contracts = noted_contracts(self.request.workspace.directory)
        found = leftover_workers(self.request.marker, contracts)
        signal_all(each for each in found if each.pid != self.pid)
        super().kill()


class PortableWorkers:
    """See `dcd.launcher.workers.Workers`."""

    def start(
        self, request: WorkerRequest, log: int, messages: int, group: AttemptGroup | None
    ) -> Started:
        command = [
            *(group.command() if group else ()),
            *(_IN_A_CONTRACT if sys.platform == "sunos5" else ()),
            *module_command("dcd.worker.supervisor"),
            str(messages),
            str(request.workspace.directory),
        ]
        started = with_input(lambda its: _program(command, request, (its, log, messages)))
        assert started is not None
        process, requests = started
        process.request = request
        return Started(process, requests)

    def end(self, process: Process, request: WorkerRequest) -> None:
        if process.poll() is None:
            process.kill()
            process.wait()
        # Also after an orderly end: the supervisor itself may have been killed.
        kill_leftovers(request.marker, noted_contracts(request.workspace.directory))


def _program(command: list[str], request: WorkerRequest, given: tuple[int, int, int]) -> Supervised:
    its_input, log, messages = given
    marks = {MARKER: request.marker, DESCENDANT: descendant_mark(request.marker)}
    return patiently(
        lambda: Supervised(
            command,
            env={**environment(), **marks},
            cwd="/",
            stdin=its_input,
            stdout=log,
            stderr=log,
            pass_fds=(messages,),
            start_new_session=True,
        )
    )
