"""Carrying out one attempt, inside the worker's namespaces.

Enters the workspace, rebuilds the DOC, constructs the checkpoint, executes it, saves the DOC's
persistent part, ends every process that is left, leaves the workspace, and only then tells the
verdict: a checkpoint that is said to have succeeded holds nothing any more. Whatever happens is a
verdict; a traceback goes to the log, and only for what is a fault of the code.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import signal
import socket
import struct
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from dcd.checkpoints.interface import Checkpoint, Context, Report
from dcd.manifest.constructors import construct
from dcd.manifest.parse import restore
from dcd.platform import resources
from dcd.worker.recover import detach_loops
from dcd.worker.request import (
    AREAS,
    Claim,
    Delivered,
    Message,
    Progress,
    Rejected,
    Stopped,
    Succeeded,
    Verdict,
    WorkerRequest,
    decode_request,
    encode,
)
from dcd.worker.words import CLAIMED
from statemachine.errors import DcdError, Unavailable
from statemachine.events import Artifact, ErrorInfo
from store.layers.choose import open_store
from store.layers.mounts import unmount_below

_FULL = (errno.ENOSPC, errno.EDQUOT)
_LITTLE_BYTES = 16 * 1024 * 1024
_LAST_PROCESSES_SECONDS = 10.0

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1  # netdevice(7)


class _Asked(BaseException):
    """The daemon asked to stop. Not an Exception: no checkpoint may take it for a failure."""


class _Pipe:
    """The messages to the daemon and its answers; safe for several threads, claims apart."""

    def __init__(self, messages: int, answers: int) -> None:
        self._file = os.fdopen(messages, "wb")
        self._answers = os.fdopen(answers, "rb")
        self._lock = threading.Lock()
        self._last_message = ""

    def send(self, message: Message) -> None:
        with self._lock:
            self._file.write(encode(message) + b"\n")
            self._file.flush()

    def report(self, report: Report) -> None:
        if report.message and report.message != self._last_message:
            # Progress is broadcast and gone; what was said belongs into the log too.
            self._last_message = report.message
            print(f"# {_readable(report.message)}", flush=True)
        self.send(Progress(report.fraction, _readable(report.message)))

    def deliver(self, artifact: Artifact) -> None:
        self.send(Delivered(artifact))

    def claim(self, kind: str, name: str) -> None:
        if kind not in resources.RELEASE:
            raise LookupError(f"nobody could release a resource of kind {kind}")
        self.send(Claim(kind, name))
        if self._answers.readline() != CLAIMED:
            raise Unavailable("the daemon is gone", f"{kind} {name} was not recorded, so not made")


def carry_out(request_line: bytes, messages: int, answers: int) -> int:
    """Carry out the request and send what happens to the descriptor `messages`; the daemon's answers
    come from `answers`. Returns the exit status: 0 when a verdict was sent. Only for the child of a PID
    namespace's first process."""
    os.umask(0o022)
    request = decode_request(request_line)
    pipe = _Pipe(messages, answers)
    verdict: Verdict = Succeeded()
    try:
        if not request.network:
            _raise_loopback()
        with open_store(request.workspace.backend, request.layers).enter(request.workspace) as root:
            _work(request, root, pipe)
    except _Asked:
        verdict = Stopped()
    except DcdError as error:
        verdict = _rejected(request, error, ErrorInfo(error.brief, error.details, error.resolution))
    except Exception as error:  # noqa: BLE001 - the last one to know what happened
        with contextlib.suppress(OSError):  # the log may be on a full disk; the verdict counts
            traceback.print_exc()
        said = f"{type(error).__name__}: {error}"
        verdict = _rejected(request, error, ErrorInfo(f"{request.checkpoint} broke off", said))
    pipe.send(verdict)
    return 0


def _work(request: WorkerRequest, root: Path, pipe: _Pipe) -> None:
    for area in AREAS:
        (root / area).mkdir(exist_ok=True)
    document = request.workspace.document
    saved = document.read_text() if document.exists() else None
    doc = restore(request.manifest, saved)
    checkpoint = construct(
        request.mod_path,
        request.checkpoint_class,
        request.checkpoint,
        request.args,
        request.kwargs,
        request.allowed,
    )
    context = Context(
        root=root,
        doc=doc,
        evidence=request.evidence,
        inputs=request.inputs,
        report=pipe.report,
        deliver=pipe.deliver,
        claim=pipe.claim,
        attempt=request.marker,
        environment=request.environment,
        external=request.external,
    )
    try:
        with _can_be_asked(checkpoint):
            checkpoint.execute(context)
    finally:
        _end_other_processes()
        # Before anything is removed below: what is mounted there may be the host's.
        for left in unmount_below(root):
            print(f"{request.checkpoint} left {left} mounted", flush=True)
        detach_loops(request.workspace.directory)
    document.write_text(doc.persistent_text())
    _empty(root / "tmp")


@contextlib.contextmanager
def _can_be_asked(checkpoint: Checkpoint) -> Iterator[None]:
    """Inside, SIGTERM cancels the checkpoint and leaves the context by `_Asked`. Before, it ends the
    process; after, it comes too late to matter."""
    asked = False

    def on_terminate(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if not asked:
            asked = True
            try:
                checkpoint.cancel()
            finally:
                raise _Asked

    signal.signal(signal.SIGTERM, on_terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _end_other_processes() -> None:
    """Kill everything in this PID namespace but its first process and this one, and wait until it is
    gone: nothing may write into a workspace that is to be committed."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    staying = {"1", str(os.getpid())}
    deadline = time.monotonic() + _LAST_PROCESSES_SECONDS
    while _processes() - staying and time.monotonic() < deadline:
        time.sleep(0.001)


def _processes() -> set[str]:
    return {entry.name for entry in Path("/proc").iterdir() if entry.name.isdecimal()}


def _empty(directory: Path) -> None:
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _rejected(request: WorkerRequest, error: BaseException, told: ErrorInfo) -> Rejected:
    info = ErrorInfo(_readable(told.brief), _readable(told.details), _readable(told.resolution))
    return Rejected(info, no_space=_lacks_space(request, error, info))


def _lacks_space(request: WorkerRequest, error: BaseException, told: ErrorInfo) -> bool:
    """Whether want of disk space is behind an error: it says so, a tool said so, or it is seen."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return True
        cause = cause.__cause__ or cause.__context__
    if any(os.strerror(number) in told.details for number in _FULL):
        return True
    return shutil.disk_usage(request.workspace.directory).free < _LITTLE_BYTES


def _readable(text: str) -> str:
    """Text that JSON can carry: bytes that tools print are not always UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _raise_loopback() -> None:
    """Bring up `lo`, which is down in a new network namespace. Source: netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        asked = struct.pack("16sh14x", b"lo", 0)
        name, flags = struct.unpack("16sh14x", fcntl.ioctl(control, _SIOCGIFFLAGS, asked))
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", name, flags | _IFF_UP))
