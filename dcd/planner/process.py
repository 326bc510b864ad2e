"""The daemon's hold on the process from which planners are forked."""

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from dcd.configuration import Configuration
from dcd.planner.border import unavailable
from dcd.planner.command import Sight, command, environment, settings_state
from dcd.planner.request import Order
from store.host.forking import end
from store.host.identity import Identity, service_identity, workers_are_root
from store.host.system_paths import code_places

END_SECONDS = 5.0
"""The time for the process to end."""


def identity_of(settings: Configuration) -> Identity:
    """The identity of planners."""
    return service_identity(settings.state_dir)


def sight_of(settings: Configuration, asked: tuple[Path, ...] = ()) -> Sight:
    """What planners see with these settings; `asked` are paths that a question is about."""
    modules = code_places(settings.checkpoint_modules)
    return Sight(
        blobs=settings.state_dir / "blobs",
        hidden=(settings.state_dir, settings.socket),
        configured=(*settings.worker_paths, *modules),
        asked=asked,
    )


def present_view(settings: Configuration) -> object:
    """A value that changes when a view made now would be another."""
    if not workers_are_root():
        return None
    return sight_of(settings), settings_state()


class Process(Protocol):
    """A process that forks planners, as its starter knows it."""

    def end(self) -> None:
        """Wait until it has ended, since its socket was closed; or kill it."""
        ...


Start = Callable[[Configuration, int, tuple[Path, ...]], Process]
"""Starts a process that forks planners: with these settings, its end of a socket, and the paths that a
question is about. Raises OSError and Unavailable."""


class Child:
    """Such a process as a child of this one."""

    def __init__(self, settings: Configuration, control: int, asked: tuple[Path, ...]) -> None:
        self.process = subprocess.Popen(
            command(control, identity_of(settings), sight_of(settings, asked)),
            env=environment(os.environ),
            stdin=subprocess.DEVNULL,
            pass_fds=(control,),
            cwd="/",
            # Signals from a terminal are for the daemon.
            start_new_session=True,
        )

    def end(self) -> None:
        """See `Process`."""
        end(self.process, END_SECONDS)


class Forker:
    """A running process that forks planners, and the view that it has. `questions` is how many planners are
    in use."""

    def __init__(
        self, settings: Configuration, start: Start = Child, asked: tuple[Path, ...] = ()
    ) -> None:
        """Start it. Raises Unavailable."""
        self.view = present_view(settings)
        self.questions = 0
        try:
            control, its = socket.socketpair()
            with contextlib.ExitStack() as unless_started, its:
                unless_started.callback(control.close)
                self.process = start(settings, its.fileno(), asked)
                unless_started.pop_all()
        except OSError as error:
            raise unavailable(error) from error
        self._control = control

    def order(self, order: Order, connection: socket.socket | None = None) -> None:
        """Send an order, with a planner's end of a socket. Raises OSError when the process has died."""
        descriptors = [] if connection is None else [connection.fileno()]
        socket.send_fds(self._control, [bytes(order)], descriptors)

    def has_ended(self) -> bool:
        """Whether the process has closed its end, on which it says nothing."""
        try:
            return not self._control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def end(self) -> None:
        """End it and all planners."""
        self._control.close()
        self.process.end()
