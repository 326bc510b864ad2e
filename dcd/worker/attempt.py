"""Carrying out one attempt, inside the worker's namespaces, if it has any.

Two processes. The first, with namespaces the first of its PID namespace, keeps the worker's privileges: it
enters the workspace, hides the rest of the host, waits for the second, kills the remaining processes, leaves
the workspace, and only then reports success: by the time success is reported, no process, mount or file is
held. The second drops all privileges that the checkpoint has not declared, rebuilds the DOC, constructs the
checkpoint, executes it and sends the DOC's persistent part. Every outcome is sent as a verdict. Only defects
of the code leave a traceback, in the log.
"""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import signal
import socket
import struct
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import NoReturn, Protocol

from dcd.checkpoints.interface import Checkpoint, Context, Report, UnsuitedBase
from dcd.checkpoints.packages import list_kept_true
from dcd.checkpoints.recorded import left_among_media, recorded_files_kept
from dcd.construction.constructors import construct
from dcd.manifest.canonical import restore
from dcd.manifest.places import put_places
from dcd.platform.resources import RELEASE
from dcd.worker.areas import make_areas, require_areas
from dcd.worker.ending import end_all
from dcd.worker.isolation import confine, isolate
from dcd.worker.marker import hide_mark
from dcd.worker.messages import (
    Cancelled,
    Claim,
    Completed,
    Delivered,
    Failed,
    Message,
    Progress,
    Saved,
    Unsuited,
    decode_request,
    encode,
)
from dcd.worker.recover import detach_loops, noted_contracts
from dcd.worker.request import WorkerRequest
from dcd.worker.signals import CLAIMED
from dcd.worker.variation import for_host_tools, for_image, vary
from statemachine.errors import DcdError, PermissionDenied, Unavailable
from statemachine.plan import Stage
from statemachine.results import Artifact, ErrorInfo, Publication
from store.host.capabilities import NEEDS_ROOT, in_user_namespace
from store.host.durable import FULL, used_up
from store.host.mounts import unmount_below
from store.layers.choose import open_store

_DONE, _TOLD = 0, 3
"""Exit statuses of a worker, and of its process that does the work."""

MOST_WARNINGS, LONGEST_WARNING = 100, 2000
"""How many warnings of an attempt are kept, and how many characters of each."""

_NAMED = 5
"""How many files a message names."""

_ELSEWHERE = re.compile(r"(?<![\w/.])/(?:boot|etc|home|media|mnt|opt|root|run|srv|var)/[^\s:'\"]+")
"""A path in a tool's output, in directories of the host that workers hardly see."""

_LAST_PROCESSES_SECONDS = 10.0

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1  # netdevice(7)


class Start(Protocol):
    """Starts the process that works (`work`) in the workspace at `root`, and sees that it gets the lines that
    follow the request. `varied`: its surroundings were varied. Returns its pid."""

    def __call__(self, root: Path, *, varied: bool) -> int: ...


class _Asked(BaseException):
    """The daemon asked to stop. Not an Exception, so that no checkpoint handles it as a failure."""


class _Pipe:
    """The messages to the daemon and its answers. Safe for several threads, except `claim`."""

    def __init__(self, messages: int, answers: int | None = None) -> None:
        self._file = os.fdopen(messages, "wb")
        self._answers = None if answers is None else os.fdopen(answers, "rb")
        self._lock = threading.Lock()
        self._last_message = ""
        self.warnings: list[str] = []
        self.resolved = self.handed = ""
        self.publications: list[Publication] = []
        self.delivered: set[str] = set()
        """The paths of the delivered files in the workspace."""

    def send(self, message: Message) -> None:
        with self._lock:
            self._file.write(encode(message) + b"\n")
            self._file.flush()

    def report(self, report: Report) -> None:
        message = _readable(report.message)
        if report.warning:
            self._warn(message)
            message = f"warning: {message}"
        if message and message != self._last_message and not report.logged:
            # Progress is only broadcast; the log keeps the messages.
            self._last_message = message
            print(f"# {message}", flush=True)
        self.send(Progress(report.fraction, message))

    def _warn(self, message: str) -> None:
        """Keep a warning, up to a limit. The log has all of them."""
        if len(self.warnings) < MOST_WARNINGS:
            self.warnings.append(message[:LONGEST_WARNING])
        elif len(self.warnings) == MOST_WARNINGS:
            self.warnings.append("there are more warnings in the log")

    def deliver(self, artifact: Artifact) -> None:
        self.delivered.add(artifact.path)
        self.send(Delivered(artifact))

    def resolve(self, digest: str) -> None:
        self.resolved = digest

    def hand_on(self, text: str) -> None:
        self.handed = text

    def claim(self, kind: str, name: str) -> None:
        if kind not in RELEASE:
            raise LookupError(f"nothing releases a resource of kind {kind}")
        self.send(Claim(kind, name))
        if self._answers is None or self._answers.readline() != CLAIMED:
            raise Unavailable(
                "the daemon is gone", f"{kind} {name} was not recorded, so not created"
            )


def carry_out(request_line: bytes, messages: int, start: Start) -> int:
    """Carry out the request. Sends its verdict to the descriptor `messages`. Returns the exit status: 0 when
    the checkpoint is completed, 3 when another verdict was sent. For the first process of a PID namespace, or
    the child of a supervisor."""
    os.umask(0o022)
    request = decode_request(request_line)
    pipe = _Pipe(messages)
    with _verdict_on_error(request, pipe):
        if request.variation is not None:
            vary(request.variation, own_host=not request.portable)
        if not request.network and not request.portable:
            _raise_loopback()
        with open_store(request.workspace.backend, request.layers).enter(request.workspace) as root:
            make_areas(root)
            if not request.portable:
                _isolate(request, pipe)
            try:
                ended = _confined(start(root, varied=request.variation is not None))
            finally:
                _let_go(request, root)
            if ended == _DONE:
                require_areas(root)
                _empty(root / "tmp")
        if ended == _DONE:
            pipe.send(Completed())
        return ended
    return _TOLD


def _isolate(request: WorkerRequest, pipe: _Pipe) -> None:
    try:
        isolate(request)
    except OSError as error:
        # A partial view allows neither work nor an orderly exit; the namespace ends with this process.
        told = ErrorInfo(
            "a worker cannot be isolated from the host", str(error), "run dcctl doctor"
        )
        pipe.send(Failed(told))
        os._exit(0)


def _confined(child: int) -> int:
    """Wait for the process that works. Returns its exit status: `_DONE`; `_TOLD` when it has sent another
    verdict; any other when it died."""
    # Orphans become children of this process.
    while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)) and ended.si_pid != child:
        os.waitpid(ended.si_pid, 0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _, code = os.waitpid(child, 0)
    status = os.waitstatus_to_exitcode(code)
    return status if status >= 0 else 128 - status


def work(request_line: bytes, root: Path, messages: int, answers: int) -> NoReturn:
    """Do the work of the request in the workspace at `root`, with the checkpoint's privileges, and end this
    process. Sends messages to the descriptor `messages` and reads the daemon's answers from `answers`."""
    status = 1
    try:
        os.umask(0o022)
        # That of the view: by a descriptor of the host's, root could change its mode.
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        request = decode_request(request_line)
        pipe = _Pipe(messages, answers)
        with _verdict_on_error(request, pipe):
            confine(request.grants, network=request.network, portable=request.portable)
            hide_mark()
            os.environ.update(request.grants.variables)
            _work(request, root, pipe)
            status = _DONE
        if status != _DONE:
            status = _TOLD
    finally:
        # The callers of this function continue in the other process only.
        os._exit(status)


@contextlib.contextmanager
def _verdict_on_error(request: WorkerRequest, pipe: _Pipe) -> Iterator[None]:
    """Send an exception from inside as the verdict, and suppress it."""
    try:
        yield
    except _Asked:
        pipe.send(Cancelled())
    except UnsuitedBase as found:
        pipe.send(Unsuited(_readable(str(found))))
    except DcdError as error:
        pipe.send(_failed(request, error, ErrorInfo.of(error)))
    except Exception as error:  # noqa: BLE001 - the last one to know what happened
        with contextlib.suppress(OSError):  # the log may be on a full disk; the verdict counts
            traceback.print_exc()
        pipe.send(_failed(request, error, _broken_off(request, error)))


def _broken_off(request: WorkerRequest, error: Exception) -> ErrorInfo:
    """The message for an unexpected exception; the traceback is in the log."""
    if isinstance(error, OSError) and error.strerror:
        root = f"{request.workspace.root}/"
        names = (error.filename, error.filename2)
        paths = [
            os.fsdecode(name).removeprefix(root) for name in names if isinstance(name, str | bytes)
        ]
        return ErrorInfo(
            f"{request.checkpoint} broke off: {error.strerror}", " and ".join(paths) or str(error)
        )
    return ErrorInfo(
        f"{request.checkpoint} broke off: a defect in {request.mod_path}",
        f"{type(error).__name__}: {error}",
        "report it with the checkpoint's log, which says where it happened",
    )


def _work(request: WorkerRequest, root: Path, pipe: _Pipe) -> None:
    document = request.workspace.document
    saved = document.read_text() if document.exists() else None
    doc = restore(request.manifest, saved)
    put_places(doc, request.checkpoint, request.places, request.manifest_path)
    checkpoint = construct(
        request.mod_path,
        request.checkpoint_class,
        request.checkpoint,
        request.args,
        request.kwargs,
        request.allowed,
    )
    if checkpoint.runs_host_code and not request.grants.host_code:
        raise PermissionDenied(
            f"{request.checkpoint} would run code on the host", "it was not granted that right"
        )
    context = Context(
        root=root,
        doc=doc,
        evidence=request.evidence,
        inputs=request.inputs,
        report=pipe.report,
        deliver=pipe.deliver,
        claim=pipe.claim,
        attempt=request.attempt_name,
        environment={**request.environment, **for_image(request.variation)},
        host_tools=for_host_tools(request.variation),
        external=request.external,
        packages=request.packages,
        resolve=pipe.resolve,
        publish=pipe.publications.append,
        stage=Stage(request.stage),
        below=request.below,
        handed=request.handed,
        hand_on=pipe.hand_on,
        resolved=request.resolved,
        host_files=request.host_files,
        products=request.products,
        artifacts=request.artifacts,
        locked=request.locked,
    )
    before = left_among_media(context, ())
    with recorded_files_kept(context), list_kept_true(context), _can_be_asked(checkpoint):
        checkpoint.execute(context)
    left = left_among_media(context, pipe.delivered)
    if new := [path for path in left if path not in before]:
        names = ", ".join(new[:_NAMED])
        more = f" and {len(new) - _NAMED} more" if len(new) > _NAMED else ""
        context.report(Report(message=f"not delivered so far: {names}{more}"))
    warnings, published = tuple(pipe.warnings), tuple(pipe.publications)
    pipe.send(Saved(doc.persistent_text(), left, warnings, pipe.resolved, pipe.handed, published))


def _let_go(request: WorkerRequest, root: Path) -> None:
    """End what the checkpoint left running, mounted or attached."""
    if request.portable:
        contracts = noted_contracts(request.workspace.directory)
        end_all(request.marker, {os.getpid(), os.getppid()}, contracts)
    else:
        _end_other_processes()
    # Before anything is removed below: a mount there may be a directory of the host.
    for left in unmount_below(root):
        print(f"{request.checkpoint} left {left} mounted", flush=True)
    detach_loops(request.workspace.directory)


@contextlib.contextmanager
def _can_be_asked(checkpoint: Checkpoint) -> Iterator[None]:
    """Inside, SIGTERM cancels the checkpoint and raises `_Asked`. Before, it ends the process; after, it
    is ignored."""
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
    """Kill all other processes of this PID namespace, whose first one this is, and wait for their end, so
    that none writes into a workspace that is about to be committed."""
    if os.getpid() != 1:
        raise RuntimeError("all processes of the host would be killed")
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    deadline = time.monotonic() + _LAST_PROCESSES_SECONDS
    while time.monotonic() < deadline:
        # All become children of this process when their parents have ended.
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        if not _processes() - {"1"}:
            break
        time.sleep(0.001)


def _processes() -> set[str]:
    return {entry.name for entry in Path("/proc").iterdir() if entry.name.isdecimal()}


def _empty(directory: Path) -> None:
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _failed(request: WorkerRequest, error: BaseException, told: ErrorInfo) -> Failed:
    resolution = told.resolution or _remedy(request, error, told)
    info = ErrorInfo(
        _readable(told.brief), _readable(told.details), _readable(resolution), told.problem
    )
    # Not every tool or script reports a full disk.
    lacking = used_up(request.workspace.directory)
    if lacking == "inodes":
        info = replace(info, brief=f"no inodes are left on the file system: {info.brief}")
    return Failed(info, no_space=bool(lacking) or _is_behind(FULL, error, told))


def _remedy(request: WorkerRequest, error: BaseException, told: ErrorInfo) -> str:
    """The remedy if the worker's restrictions may have caused an error, or ""."""
    said = [line for line in told.details.strip().splitlines() if "dmesg(1)" not in line]
    # Only the last line counts, without mount's hint at dmesg(1): earlier ones may be harmless warnings
    # about missing privileges.
    last = replace(told, details=said[-1] if said else "")
    if _is_behind((errno.EROFS,), error, last):
        return (
            f"{request.checkpoint} may write only to its workspace; other paths must be "
            "declared: see `writes` in its needs or arguments"
        )
    if in_user_namespace() and _is_behind((errno.EPERM, errno.EACCES, errno.EINVAL), error, last):
        return f"the daemon is not root, so files have one owner and disks are not mounted: {NEEDS_ROOT}"
    if _is_behind((errno.EPERM, errno.EACCES), error, last):
        return (
            f"{request.checkpoint} has only the permissions that it declares; if it needs others, see "
            "`capabilities` and `devices` in its needs or arguments. It has the capabilities "
            f"{', '.join(request.grants.capabilities) or 'none'}"
        )
    if path := _out_of_sight(request, error, last):
        return (
            f"if {path} is a file of the host: checkpoints see the system's software and the paths that the "
            "manifest names; an administrator can add paths (worker_paths)"
        )
    if _is_behind((errno.EAGAIN,), error, told):
        return (
            "if a process could not be started, there were too many: in the attempt (worker_processes = "
            f"{request.grants.processes}), in the service (TasksMax) or on the host. Run fewer builds "
            "at once or raise the limit, then dcctl retry"
        )
    return ""


def _out_of_sight(request: WorkerRequest, error: BaseException, told: ErrorInfo) -> str:
    """The path that was not found, if it may be a file of the host that workers do not see; or ""."""
    if not _is_behind((errno.ENOENT,), error, told) and "not found" not in told.details:
        return ""
    own = (os.fspath(request.workspace.directory), os.fspath(request.evidence))
    found = [path for path in _ELSEWHERE.findall(told.details) if not path.startswith(own)]
    return found[-1] if found else ""


def _is_behind(numbers: tuple[int, ...], error: BaseException, told: ErrorInfo) -> bool:
    """Whether one of these error numbers caused the error, or a tool reported one."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in numbers:
            return True
        cause = cause.__cause__ or cause.__context__
    return any(os.strerror(number).lower() in told.details.lower() for number in numbers)


def _readable(text: str) -> str:
    """The text in a form that JSON can carry: the output of tools is not always UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _raise_loopback() -> None:
    """Bring up `lo`, which is down in a new network namespace. Source: netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        asked = struct.pack("16sh14x", b"lo", 0)
        name, flags = struct.unpack("16sh14x", fcntl.ioctl(control, _SIOCGIFFLAGS, asked))
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", name, flags | _IFF_UP))
