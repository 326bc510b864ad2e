"""The launcher's hold on its zygote, the process from which workers are forked (`dcd.worker.zygote`).

A thread of its own starts it, waits for its end and starts it again, and does nothing else: forked workers
are children of that thread, whose end would kill them. While there is no zygote a worker is started without
one. A zygote is started by the same command from the same places, so after a change of the code on disk a new
one has the new code, and so have the workers that it forks, wholly; what they read of the launcher is data.
"""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from dcd.worker.marker import PLACEHOLDER
from dcd.worker.request import FORKED, MARKER, NETWORK, NO_NETWORK
from store.host.forking import patiently
from store.host.interpreter import module_command

IDLE_SECONDS = 2.0
"""How long after its preparation a launcher starts its zygote if no attempt is to be expected."""

PATIENCE_SECONDS = 10.0
"""Time limit for a reply, which may wait for all imports."""

SHORT_SECONDS = 5.0
"""A zygote that ends sooner is started again only after as long, and each further one after twice as long."""

LONGEST_SECONDS = 300.0
"""The longest such pause."""

_REAPING_SECONDS = 5.0
"""Time limit for reaping the workers that end with a zygote."""


class Zygote:
    """A zygote, kept running until `close` or the end of this process. `environment` is that of workers,
    without their marks. Safe for several threads."""

    def __init__(self, environment: dict[str, str], idle_seconds: float = IDLE_SECONDS) -> None:
        self._environment = {**environment, MARKER: PLACEHOLDER}
        self._idle_seconds = idle_seconds
        self._turn = threading.Lock()
        self._changed = threading.Condition()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted = False
        self._hopeless = False
        self._closed = False
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    def expect(self) -> None:
        """Start the zygote if it does not run: an attempt is to be expected."""
        with self._changed:
            self._wanted = True
            self._changed.notify_all()

    def fork(self, descriptors: Sequence[int], *, network: bool) -> int | None:
        """Fork a worker with these descriptors: its input, its log and the pipe for its messages. Returns its
        pid, or None when there is no zygote. Raises OSError when the host has no process left."""
        with self._turn:
            if (control := self._ready()) is None:
                return None
            try:
                socket.send_fds(control, [NETWORK if network else NO_NETWORK], descriptors)
                reply = control.recv(FORKED.size)
            except OSError:
                reply = b""
            if len(reply) != FORKED.size:
                # It has died, or hangs. A worker that it may have forked gets no request, and so ends.
                if self._process is not None:
                    self._process.kill()
                return None
        pid, number = FORKED.unpack(reply)
        if number:
            raise OSError(number, os.strerror(number))
        return int(pid)

    def close(self) -> None:
        """End the zygote, and all workers."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            if self._control is not None:
                with contextlib.suppress(OSError):
                    self._control.shutdown(socket.SHUT_RDWR)
        self._keeper.join()

    def _ready(self) -> socket.socket | None:
        self.expect()
        with self._changed:
            self._changed.wait_for(lambda: self._control or self._hopeless, PATIENCE_SECONDS)
            return self._control

    def _keep(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._wanted or self._closed, self._idle_seconds)
        pause = SHORT_SECONDS
        while not self._closed:
            started = time.monotonic()
            try:
                self._run()
            except Exception as error:  # noqa: BLE001 - the end of this thread would end all workers
                _log(f"no zygote can be started: {error}")
            if time.monotonic() >= started + SHORT_SECONDS:
                pause = SHORT_SECONDS
                continue
            with self._changed:
                self._hopeless = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._closed, pause)
                self._hopeless = False
            pause = min(2 * pause, LONGEST_SECONDS)

    def _run(self) -> None:
        """Run a zygote to its end. Raises OSError."""
        control, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        control.settimeout(PATIENCE_SECONDS)
        with control:
            with its:
                process = self._process = patiently(lambda: self._started(its.fileno()))
            with self._changed:
                self._control = control
                self._changed.notify_all()
                if self._closed:
                    control.shutdown(socket.SHUT_RDWR)
            status = process.wait()
            with self._changed:
                self._control = None
            _reap(process.pid)
        if not self._closed:
            _log(f"the zygote ended with status {status}; another one is started")

    def _started(self, control: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                "setpriv",
                "--pdeathsig",
                "SIGKILL",
                *module_command("dcd.worker.zygote"),
                str(control),
            ],
            env=self._environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            pass_fds=(control,),
            start_new_session=True,
        )


def _reap(zygote: int) -> None:
    """Reap the workers that an ended zygote has forked in advance, which end with it: children of this thread
    in the zygote's process group."""
    deadline = time.monotonic() + _REAPING_SECONDS
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if os.waitid(os.P_PGID, zygote, os.WEXITED | os.WNOHANG) is None:
                time.sleep(0.001)


def _log(what: str) -> None:
    with contextlib.suppress(OSError):
        print(f"dcd launcher: {what}", file=sys.stderr, flush=True)
