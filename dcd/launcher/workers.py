"""One worker: its start, its supervision, and its end.

`run_worker` is the same for all kinds of workers; `Workers` is what a kind has to do. There are two:
`dcd.launcher.namespaced` for Linux namespaces, and `dcd.launcher.portable`. A worker of any kind ends with
the launcher, and also when its request stream does. Where the service has control groups to give, the worker
has one of its own, which limits the attempt as a whole.

The conversation after the start: the requester sends lines, `cancel` and `claimed` for the worker and `kill`
for its end; when it closes the conversation the worker is killed. The last reply is a `Finished`; by then no
process, mount, loop device or control group of the worker is left.
"""

import contextlib
import json
import os
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from dcd.launcher.processes import Process, exit_of
from dcd.platform.control_group import AttemptGroup, Delegated
from dcd.worker.recover import detach_loops
from dcd.worker.request import SCRATCH, Mark, WorkerRequest
from dcd.worker.signals import CANCEL, CLAIMED, KILL
from statemachine.errors import Unprepared
from store.host import tools
from store.host.conversation import send
from store.host.durable import reporting_disk_full
from store.host.forking import shortage
from store.host.interpreter import module_environment
from store.host.plain import as_plain
from store.host.removal import try_to_remove_tree
from store.host.tools import TOOL_PATH

Made = TypeVar("Made", bound=Process)

START_SECONDS = 120.0
"""Time limit for a worker to read its request."""

_LOOK_SECONDS = 0.2
"""How often the end of a worker is looked for where the kernel does not report it (pidfd_open(2))."""


@dataclass(frozen=True, slots=True)
class Output:
    """Where the output of a worker's tools goes: the log's path, and the group that may read it."""

    log: Path
    gid: int = -1


@dataclass(frozen=True, slots=True)
class Started:
    """A worker that has started: its process, the other end of its input, and what it reads there before its
    request."""

    process: Process
    requests: BinaryIO
    first: bytes = b""


class Workers(Protocol):
    """A kind of workers."""

    def start(
        self, request: WorkerRequest, log: int, messages: int, group: AttemptGroup | None
    ) -> Started:
        """Start a worker in this control group, with the descriptors of its log and of the pipe for its
        messages. Raises OSError when the host lacks something, FileNotFoundError for a program."""
        ...

    def end(self, process: Process, request: WorkerRequest) -> None:
        """Kill what still runs of a worker, and wait until none of its processes is left. Raises Unavailable
        when one hangs in the kernel."""
        ...


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a worker: its exit status (negative: the signal), and whether its group lacked memory."""

    status: int
    no_memory: bool


def run_worker(
    conversation: socket.socket,
    request: WorkerRequest,
    output: Output,
    messages: int,
    workers: Workers,
    groups: Delegated | None = None,
) -> Finished:
    """Run a worker of a kind to its end. `messages` is the descriptor for its messages, which this closes.
    Sends an empty result when the worker has started. Raises Unprepared when it cannot be started, DiskFull
    when there is no space for its log."""
    with contextlib.ExitStack() as held:
        its_messages = held.enter_context(os.fdopen(messages, "wb", buffering=0))
        group = held.enter_context(_control_group(groups, request))
        started = _started(request, output, messages, workers, group)
        process, requests = started.process, held.enter_context(started.requests)
        said = started.first + line_of(request)
        its_messages.close()  # else its end would not be seen
        try:
            send(conversation, {"result": None})
            _serve(conversation, process, requests.fileno(), said)
        finally:
            workers.end(process, request)
            directory = request.workspace.directory
            detach_loops(directory)
            try_to_remove_tree(directory / SCRATCH)
        return Finished(process.wait(), group is not None and group.ran_out_of_memory())


@contextlib.contextmanager
def _control_group(
    groups: Delegated | None, request: WorkerRequest
) -> Iterator[AttemptGroup | None]:
    if groups is None:
        yield None
        return
    grants = request.grants
    try:
        group = groups.begin(request.workspace.name, grants.total_memory_bytes, grants.processes)
    except OSError as error:
        raise Unprepared(
            "no control group can be created for an attempt",
            str(error),
            "restart the service; no other program may use the groups that are delegated to it",
        ) from error
    try:
        yield group
    finally:
        group.end()


def _started(
    request: WorkerRequest,
    output: Output,
    messages: int,
    workers: Workers,
    group: AttemptGroup | None,
) -> Started:
    """The worker. Raises Unprepared when the host lacks something."""
    with reporting_disk_full("opening the attempt's log", output.log), _log(output) as log:
        try:
            return workers.start(request, log, messages, group)
        except FileNotFoundError as error:
            raise tools.cannot_start(error) from error
        except OSError as error:
            if (short := shortage(error)) is None:
                raise
            raise Unprepared(
                f"a worker cannot be started: {short.what}",
                str(error),
                f"{short.remedy}, then dcctl retry",
            ) from error


def with_input(start: Callable[[int], Made | None]) -> tuple[Made, BinaryIO] | None:
    """What `start` starts, reading from a pipe of its own, with the other end; None if that is nothing. A
    worker that a zygote has forked before it died without a reply then finds the end of its input."""
    reading, writing = os.pipe()
    requests = os.fdopen(writing, "wb", buffering=0)
    with contextlib.ExitStack() as unless_started:
        unless_started.enter_context(requests)
        try:
            process = start(reading)
        finally:
            os.close(reading)
        if process is None:
            return None
        unless_started.pop_all()
    return process, requests


def line_of(value: Mark | WorkerRequest) -> bytes:
    """What a worker reads, as a line."""
    return json.dumps(as_plain(value)).encode() + b"\n"


def environment() -> dict[str, str]:
    """The environment of every worker, except its mark. Workers of one zygote have the same hashes of Python,
    so all have: no result may depend on them."""
    return {
        "PATH": TOOL_PATH,
        "LC_ALL": "C.UTF-8",
        "HOME": "/root",
        "PYTHONUNBUFFERED": "1",
        "PYTHONHASHSEED": "0",
        **module_environment(),
    }


@contextlib.contextmanager
def _log(output: Output) -> Iterator[int]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    descriptor = os.open(output.log, flags, 0o640)
    try:
        os.fchown(descriptor, -1, output.gid)
        yield descriptor
    finally:
        os.close(descriptor)


def _serve(conversation: socket.socket, process: Process, requests: int, said: bytes) -> None:
    """Give the worker its request, and pass lines on, until it ends or the requester closes the
    conversation."""
    pending, unread = bytearray(said), b""
    os.set_blocking(requests, False)
    deadline: float | None = time.monotonic() + START_SECONDS
    with selectors.DefaultSelector() as selector, exit_of(process) as ended:
        selector.register(conversation, selectors.EVENT_READ)
        if ended is not None:
            selector.register(ended, selectors.EVENT_READ)
        while process.poll() is None:
            patience = _LOOK_SECONDS if ended is None or deadline is not None else None
            if pending:
                selector.register(requests, selectors.EVENT_WRITE)
            ready = {key.fd for key, _ in selector.select(patience)}
            if pending:
                selector.unregister(requests)
            if requests in ready:
                try:
                    del pending[: os.write(requests, pending)]
                except OSError:  # it is ending
                    pending.clear()
            if not pending:
                deadline = None
            elif deadline is not None and time.monotonic() > deadline:
                raise Unprepared(
                    "a worker does not start",
                    f"it did not read its request within {START_SECONDS:g} s",
                    "look for a disk that does not answer, or a lack of memory; then resume the build",
                )
            if conversation.fileno() in ready:
                said = conversation.recv(4096)
                if not said:
                    return
                *lines, unread = (unread + said).split(b"\n")
                for line in lines:
                    if line + b"\n" == KILL:
                        process.kill()
                    elif line + b"\n" in (CANCEL, CLAIMED):
                        pending += line + b"\n"
