"""The process from which planners are forked.

It has imported all modules for planning, so a planner starts within milliseconds, and has one thread,
so that it may fork. It has one end of a socket shared with the daemon. Each message there has a number,
and for `new` a socket: a forked process answers the question from that socket and exits. `kill` ends
the process with that number and all its descendants. When the daemon's end closes, even by the daemon's
death, all processes end.

A planner also has its own limits, in case the daemon cannot kill it: wall-clock time, CPU time and
memory. It runs with a lower priority than the daemon. Started by root, this process is confined
(`dcd.planner.confinement`), and each planner once more for its question.
"""

import contextlib
import os
import resource
import selectors
import shutil
import signal
import socket
import traceback
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NoReturn

from dcd.construction.constructors import learn_imports
from dcd.construction.preload import preload
from dcd.manifest.characters import is_xml_text
from dcd.manifest.plugins import installed_registry
from dcd.planner.border import (
    ANSWER,
    DEFECT,
    DIED,
    ERROR,
    HEAD,
    WAITING,
    decode_question,
    encode_answer,
    encode_error,
    message,
    unavailable,
)
from dcd.planner.confinement import Reach, confine_planner, own_directory
from dcd.planner.request import KILL, ORDER, Order
from dcd.planner.tasks import captured_files
from dcd.platform import sight
from dcd.platform.host_parts import entering_packages, host_parts, present_apt
from statemachine.errors import DcdError, Unprepared
from store.host.forking import close_all_but, patiently
from store.host.tools import TOOLS

NICENESS = 5

_LOOK_SECONDS = (2.0, 60.0)
"""Idle time before the host is examined: the first time, and afterwards."""

_NOT_FOR_IT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals for the daemon that this process also receives and ignores; it ends with the daemon."""


class _Children:
    """The running planners by the daemon's numbers, with the parent's copies of their sockets."""

    def __init__(self, reach: Reach | None) -> None:
        self._reach = reach
        self._running: dict[int, tuple[int, socket.socket]] = {}

    def fork(self, order: Order, connection: socket.socket) -> None:
        """Fork a planner for a question."""
        try:
            child = patiently(os.fork)
        except OSError as error:
            # The other planners continue.
            with connection, contextlib.suppress(OSError):
                refusal = message(ERROR, encode_error(unavailable(error)))
                connection.send(refusal, socket.MSG_DONTWAIT)
            return
        if child == 0:
            _answer(order, connection, self._reach)
        self._running[order.number] = (child, connection)

    def kill(self, number: int) -> None:
        """Kill a planner and its descendants."""
        if number in self._running:
            _kill_tree(self._running[number][0])

    def reap(self) -> None:
        """Reap the processes that have ended, and report the planners that died without an answer."""
        ended = dict(_ended())
        for number, (child, connection) in list(self._running.items()):
            if child not in ended:
                continue
            if ended[child] != 0:
                with contextlib.suppress(OSError):
                    connection.send(message(DIED, str(ended[child]).encode()), socket.MSG_DONTWAIT)
            connection.close()
            del self._running[number]
            self._clear(number)

    def _clear(self, number: int) -> None:
        """Remove what a planner has left. In namespaces of its own this process inherits the processes that
        planners leave."""
        if self._reach is None:
            return
        planners = {child for child, _ in self._running.values()}
        for left in set(_children(os.getpid())) - planners:
            _kill_tree(left)
        with contextlib.suppress(RecursionError):
            shutil.rmtree(own_directory(number), ignore_errors=True)

    def end(self) -> None:
        """Kill all planners."""
        for child, _ in self._running.values():
            _kill_tree(child)


def serve(control: socket.socket, reach: Reach | None) -> None:
    """Serve until the daemon ends; see the module. `reach` says how far planners reach when they are
    confined."""
    _import_everything()
    if reach is not None:
        sight.limit(reach.in_sight)
    woken, waking = socket.socketpair()
    for end in (woken, waking):
        end.setblocking(False)
    signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for ignored in _NOT_FOR_IT:
        signal.signal(ignored, signal.SIG_IGN)
    children = _Children(reach)
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        idle = 0
        while True:
            ready = {key.fileobj for key, _ in selector.select(_LOOK_SECONDS[min(idle, 1)])}
            if not ready:
                idle += 1
                _learn()
            if woken in ready:
                with contextlib.suppress(BlockingIOError):
                    woken.recv(4096)
                children.reap()
            if control in ready and not _obey(control, children):
                children.end()
                return


def _obey(control: socket.socket, children: _Children) -> bool:
    """Carry out one order. Returns False when the daemon has ended."""
    data, descriptors, _, _ = socket.recv_fds(control, ORDER.size, 1)
    if not data:
        return False
    order = Order.from_bytes(data)
    if order.kind == KILL:
        children.kill(order.number)
    else:
        (descriptor,) = descriptors
        children.fork(order, socket.socket(fileno=descriptor))
    return True


def _import_everything() -> None:
    """Import the modules that nearly every manifest needs. Planning reports a broken plug-in later."""
    with contextlib.suppress(DcdError):
        installed_registry()
    preload()
    is_xml_text("")  # compiles its pattern, which takes milliseconds


def _learn() -> None:
    """Look up what nearly every plan covers of the code and of the host. Planners inherit it, and look again
    only at what has changed."""
    for look in (learn_imports, partial(host_parts, TOOLS), entering_packages, present_apt):
        with contextlib.suppress(DcdError, OSError):
            look()


def _answer(order: Order, connection: socket.socket, reach: Reach | None) -> NoReturn:
    """The planner's process: one question, one answer."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (*_NOT_FOR_IT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        # A planner must not keep the sockets of other planners, nor write into the daemon's log.
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(nothing, standard)
        close_all_but(connection.fileno())
        _bound(order)
        connection.sendall(_said(_read(connection), connection, order, reach))
        status = 0
    finally:
        os._exit(status)


def _said(body: bytes, connection: socket.socket, order: Order, reach: Reach | None) -> bytes:
    try:
        task, question = decode_question(body)
        if reach is not None:
            confine_planner(reach, captured_files(question), order.number)
        answer = task.work(question, lambda: connection.sendall(message(WAITING)))
        return message(ANSWER, encode_answer(answer))
    except DcdError as error:
        return message(ERROR, encode_error(error))
    except MemoryError:
        too_big = Unprepared(
            "the manifest needs too much memory",
            f"the limit for reading and planning it is {order.memory_bytes} bytes",
            "split it, or have an administrator raise planning_memory_bytes",
        )
        return message(ERROR, encode_error(too_big))
    except Exception as defect:  # noqa: BLE001 - the client waits for an answer in any case
        connection.sendall(message(DEFECT, traceback.format_exc().encode()))
        said = f"{type(defect).__name__}: {defect}"
        reported = DcdError("a defect in dcd", said, "see the daemon's log; please report it")
        return message(ERROR, encode_error(reported))


def _bound(order: Order) -> None:
    os.nice(NICENESS)
    # Twice the daemon's limit: the daemon also kills the descendants.
    signal.setitimer(signal.ITIMER_REAL, 2 * order.seconds)
    for what, most in (
        (resource.RLIMIT_CPU, int(order.seconds) + 1),
        (resource.RLIMIT_DATA, order.memory_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        resource.setrlimit(what, (most, most))


def _read(connection: socket.socket) -> bytes:
    """The question. Ends the process when the client has disconnected."""
    with connection.makefile("rb") as stream:
        head = stream.read(HEAD.size)
        length = HEAD.unpack(head)[1] if len(head) == HEAD.size else 0
        body = stream.read(length)
    if not head or len(body) < length:
        os._exit(0)
    return body


def _kill_tree(first: int) -> None:
    for process in (*_descendants(first), first):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, signal.SIGKILL)


def _ended() -> Iterator[tuple[int, int]]:
    """The children that have ended, with their exit codes."""
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            yield found[0], os.waitstatus_to_exitcode(found[1])


def _descendants(process: int) -> Iterator[int]:
    """All descendants of a process, if the kernel reports them (Linux; elsewhere none)."""
    for child in _children(process):
        yield from _descendants(child)
        yield child


def _children(process: int) -> Iterator[int]:
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            yield from map(int, children.read_text().split())
