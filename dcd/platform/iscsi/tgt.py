"""`Tgt`: the target in user space, tgtd(8), for the duration of an export.

It needs no kernel module and no service: tgtd runs as a child in the worker's own network namespace, so the
portal is reachable from nowhere else and its port is free; its control socket is in a directory of the
attempt. It ends with the worker's PID namespace, so nothing is ever left to release. tgtd ignores SIGTERM
while it has a target: the target is deleted first, then the process is killed. Tested with tgt 1.0.85.
"""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from dcd.platform.child import dies_with_caller, running
from dcd.platform.iscsi.interface import ADDRESS, LUN, PORT, Export, new_export
from dcd.platform.iscsi.tgtd_control import ALL, Control, Mode, Operation
from statemachine.errors import CheckpointError, Unprepared
from store.host.durable import sync_file
from store.host.process import BASE_ENVIRONMENT

_SOCKET = "control"
"""tgtd appends the number of its control port, 0."""
_READY_SECONDS = 30.0
_POLL_SECONDS = 0.02
_TARGET = 1
_LAST_LINES = 10


class Tgt:
    """Targets of tgtd."""

    kind: ClassVar[str] = "iscsi-tgt"
    tools: ClassVar[tuple[str, ...]] = ("tgtd",)

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @contextlib.contextmanager
    def export(self, file: Path, name: str) -> Iterator[Export]:
        """Serve a file; see `Target.export`."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        export = new_export(name)
        with self._tgtd() as control:
            control.ask(Mode.TARGET, Operation.MAKE, target=_TARGET, targetname=name)
            try:
                self._serve(control, file, export)
                yield export
            finally:
                _withdraw(control, export)
        # The guest relies on the writes that it has synced.
        sync_file(file)

    @staticmethod
    def release(name: str) -> None:
        """Nothing to do: tgtd ended with the worker's PID namespace, before any release."""

    def _serve(self, control: Control, file: Path, export: Export) -> None:
        """Set the permitted initiator, then add the file."""
        chap = export.chap
        control.ask(Mode.ACCOUNT, Operation.MAKE, user=chap.user, password=chap.secret)
        control.ask(Mode.ACCOUNT, Operation.BIND, target=_TARGET, user=chap.user)
        control.ask(Mode.TARGET, Operation.BIND, target=_TARGET, initiator_name=export.initiator)
        # Relative, since tgtd cuts its parameters at commas.
        link = self._directory / "file"
        link.symlink_to(file.absolute())
        control.ask(Mode.UNIT, Operation.MAKE, target=_TARGET, unit=LUN, path=link.name)

    @contextlib.contextmanager
    def _tgtd(self) -> Iterator[Control]:
        """A tgtd that answers, for the duration of the context."""
        log = self._directory / "tgtd.log"
        control = Control(self._directory / f"{_SOCKET}.0")
        command = ("tgtd", "--foreground", "--iscsi", f"portal={ADDRESS}:{PORT}")
        with (
            log.open("wb") as output,
            running(
                (*dies_with_caller(), *command),
                env={**BASE_ENVIRONMENT, "TGT_IPC_SOCKET": _SOCKET},
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            ) as process,
        ):
            _wait_until_it_answers(process, control, log)
            yield control


def _wait_until_it_answers(process: subprocess.Popen[bytes], control: Control, log: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        try:
            control.ask(Mode.TARGET, Operation.SHOW, target=ALL)
            break
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise _failed_to_start(process, log) from error
            time.sleep(_POLL_SECONDS)
    # It continues without its portal.
    if "Address already in use" in log.read_text("utf-8", "replace"):
        raise Unprepared(
            f"port {PORT} of {ADDRESS} is in use",
            "another program listens there, in the network namespace of this worker",
            f"find it with `ss -tlnp 'sport = :{PORT}'` and stop it; a checkpoint that does not need"
            " the network has its own namespace, in which the port is free",
        )


def _failed_to_start(process: subprocess.Popen[bytes], log: Path) -> CheckpointError:
    status = process.poll()
    how = "does not answer" if status is None else f"ended with exit status {status}"
    last = "\n".join(log.read_text("utf-8", "replace").splitlines()[-_LAST_LINES:])
    remedy = "" if "setpriv: " not in last else "install it: apt-get install tgt"
    return CheckpointError(f"tgtd {how}", f"its last lines:\n{last}", remedy)


def _withdraw(control: Control, export: Export) -> None:
    """Close the target. tgtd is killed next, so its errors do not matter."""
    with contextlib.suppress(OSError, CheckpointError):
        control.ask(Mode.TARGET, Operation.UNBIND, target=_TARGET, initiator_name=export.initiator)
    with contextlib.suppress(OSError, CheckpointError):
        control.ask(Mode.TARGET, Operation.DELETE, target=_TARGET, force=True)
