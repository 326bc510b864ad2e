"""Processes of namespaces that the launcher has started: waiting for them, and killing them.

Each is waited for by one thread. The end of one is the end of all in its namespaces: the kernel reports the
first process of a PID namespace only when it has killed all others there.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol


class Process(Protocol):
    """The process that is reported last of its namespaces."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None:
        """Its exit status (negative: the signal), None while it runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """The same at its end. Raises subprocess.TimeoutExpired."""
        ...

    def kill(self) -> None:
        """Kill all in its namespaces."""
        ...


class Chain(subprocess.Popen[bytes]):
    """unshare(1), perhaps below others that have become it, with the first process of its namespaces."""

    def kill(self) -> None:
        """Kill the first process, so that unshare reports its end last. Before there is one, kill unshare."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            first = children.read_text().split()
            os.kill(int(first[0]) if first else self.pid, signal.SIGKILL)


class Forked:
    """The first process of its namespaces, as a child of this process that something else has forked."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: int | None = None

    def poll(self) -> int | None:
        """See `Process`."""
        return self._wait(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int:
        """See `Process`; without a time limit only."""
        assert timeout is None
        status = self._wait(0)
        assert status is not None
        return status

    def kill(self) -> None:
        """See `Process`."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def _wait(self, options: int) -> int | None:
        if self._status is None:
            try:
                pid, status = os.waitpid(self.pid, options)
            except ChildProcessError:
                # It died at its start, and was reaped with what its zygote left.
                pid, status = self.pid, signal.SIGKILL
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status


@contextlib.contextmanager
def exit_of(process: Process) -> Iterator[int | None]:
    """A descriptor that is readable when a process has ended; None where there is none."""
    if not hasattr(os, "pidfd_open"):
        yield None
        return
    descriptor = os.pidfd_open(process.pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
