"""Running one attempt in a worker process, as the daemon sees it.

The worker is the first process of a PID namespace, with its own mount namespace and, unless its checkpoint
needs the network, its own network namespace. When the daemon dies for any reason, the kernel kills the
worker, and with it every process and mount of the attempt. Its output goes directly to the log file, never
through the daemon.

The chain, each killed by the death of the one before: daemon, unshare(1) (by setpriv's parent-death
signal), the namespace's first process (by --kill-child), and so all in the namespace. If control groups are
delegated to the daemon, the chain has its own, which limits the attempt as a whole. The signal is sent when
the *thread* that started the worker ends, so attempts run in the main thread's event loop. Until the signal
is set up, the end of its request stream also ends the worker.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcd.platform.control_group import AttemptGroup, Delegated
from dcd.worker.recover import detach_loops, kill_leftovers
from dcd.worker.request import (
    MARKER,
    SCRATCH,
    Cancelled,
    Claim,
    Completed,
    Delivered,
    Died,
    Failed,
    Outcome,
    Progress,
    Saved,
    Verdict,
    WorkerRequest,
    decode_message,
    encode,
)
from dcd.worker.signals import CANCEL, CLAIMED
from statemachine.errors import Unprepared
from statemachine.events import Artifact, ErrorInfo
from store.host import tools
from store.host.durable import reporting_disk_full, write_file
from store.host.forking import PAUSES_SECONDS, shortage
from store.host.interpreter import module_command, module_environment
from store.host.tools import TOOL_PATH

_TAIL_BYTES, _TAIL_LINES = 4096, 20
_LONGEST_MESSAGE_BYTES = 16 * 1024 * 1024

START_SECONDS = 120.0
"""Time limit for a worker to read its request."""

KILLED_SECONDS = 5.0
"""Interval at which a killed worker that has not ended is killed again and reported."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The outcome of an attempt and its duration; the delivered artifacts; `left` and `warnings` as in
    CheckpointCompleted."""

    outcome: Outcome
    seconds: float
    artifacts: tuple[Artifact, ...] = ()
    left: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


async def run_attempt(
    request: WorkerRequest,
    *,
    log_path: Path,
    on_progress: Callable[[Progress], None],
    on_claim: Callable[[Claim], Awaitable[object]],
    stop: asyncio.Event,
    grace_seconds: float = 10.0,
    groups: Delegated | None = None,
) -> Ending:
    """Run an attempt to its end. Call from the main thread's event loop.

    `on_claim` returns when a claim is in the event log; the worker waits for that. The caller releases the
    claimed resources. When `stop` is set, the worker is asked to stop, and `grace_seconds` later it is
    killed with all its processes; when the calling task is cancelled, it is killed immediately. When this
    function returns or raises, nothing of the worker is left: no process, mount, loop device or control
    group (created in `groups`). Raises Unprepared when the worker cannot be started, DiskFull when there
    is no space for its log.
    """
    started = time.monotonic()
    artifacts: list[Artifact] = []
    left: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    verdict: Verdict | None = None
    async with _control_group(groups, request) as group:
        async with _worker(request, log_path, group) as (process, messages):
            stopping = asyncio.create_task(
                _stop_when_asked(process, stop, grace_seconds, on_progress)
            )
            try:
                async for line in messages:
                    match decode_message(line):
                        case Progress() as progress:
                            on_progress(progress)
                        case Delivered(artifact):
                            artifacts.append(artifact)
                        case Saved(document, left, warnings):
                            await asyncio.to_thread(_save, request, document)
                        case Claim() as claim:
                            await on_claim(claim)
                            _tell(process, CLAIMED)
                        case Completed() | Failed() | Cancelled() as said:
                            verdict = said
                status = await process.wait()
            finally:
                stopping.cancel()
        no_memory = group is not None and group.ran_out_of_memory()
    seconds = time.monotonic() - started
    outcome: Outcome
    match verdict:
        case Completed():
            outcome = verdict
        case _ if stop.is_set():
            outcome = Cancelled()
        case _ if no_memory:
            outcome = Failed(_no_memory(request))
        case Failed():
            outcome = verdict
        case _:
            outcome = Died(_ending(status), _tail(log_path))
    return Ending(outcome, seconds, tuple(artifacts), left, warnings)


@contextlib.asynccontextmanager
async def _control_group(
    groups: Delegated | None, request: WorkerRequest
) -> AsyncIterator[AttemptGroup | None]:
    if groups is None:
        yield None
        return
    grants = request.grants
    name = request.workspace.directory.name
    try:
        group = groups.begin(name, grants.total_memory_bytes, grants.processes)
    except OSError as error:
        raise Unprepared(
            "no control group can be made for an attempt",
            str(error),
            "restart the service; no other program may use the groups that are delegated to it",
        ) from error
    try:
        yield group
    finally:
        await _uninterrupted(asyncio.to_thread(group.end))


def _save(request: WorkerRequest, document: str) -> None:
    path = request.workspace.document
    with reporting_disk_full("keeping what a checkpoint has recorded", path):
        write_file(path, document.encode(), 0o600)


def _no_memory(request: WorkerRequest) -> ErrorInfo:
    most = request.grants.total_memory_bytes
    return ErrorInfo(
        f"{request.checkpoint} was killed because it used too much memory",
        f"an attempt may use {most} bytes" if most else "the service or the host had no more",
        "raise attempt_memory_bytes and reload the daemon, or run fewer builds at once, then dcctl retry",
    )


@contextlib.asynccontextmanager
async def _worker(
    request: WorkerRequest, log_path: Path, group: AttemptGroup | None
) -> AsyncIterator[tuple[asyncio.subprocess.Process, asyncio.StreamReader]]:
    """A worker that has its request, and the stream of its messages. On exit nothing of it is left."""
    receiving, sending = os.pipe()
    try:
        with reporting_disk_full("opening the attempt's log", log_path), _log(log_path) as log:
            command = [*(group.command() if group else ()), *_command(request, sending)]
            process = await _started(command, _environment(request), log, sending)
    except FileNotFoundError as error:
        os.close(receiving)
        raise tools.cannot_start(error) from error
    except BaseException:
        os.close(receiving)
        raise
    finally:
        os.close(sending)
    try:
        messages = asyncio.StreamReader(limit=_LONGEST_MESSAGE_BYTES)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(messages), os.fdopen(receiving, "rb")
        )
        try:
            assert process.stdin is not None
            # A worker that dies while it reads its request also closes its messages.
            try:
                async with asyncio.timeout(START_SECONDS):
                    process.stdin.write(encode(request) + b"\n")
                    await process.stdin.drain()
            except ConnectionError:
                pass
            except TimeoutError:
                raise Unprepared(
                    "a worker does not start",
                    f"it did not read its request within {START_SECONDS:g} s",
                    "look for a disk that does not answer, or a lack of memory; then resume the build",
                ) from None
            yield process, messages
        finally:
            transport.close()
    finally:
        await _uninterrupted(_end(process, request))


async def _started(
    command: list[str], environment: dict[str, str], log: int, messages: int
) -> asyncio.subprocess.Process:
    """The worker's first process. Raises Unprepared when the host lacks a resource for it."""
    for pause in (*PAUSES_SECONDS, None):
        try:
            return await asyncio.create_subprocess_exec(
                *command,
                env=environment,
                cwd="/",
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(messages,),
                start_new_session=True,
            )
        except OSError as error:
            short = shortage(error)
            if short is None:
                raise
            if pause is None:
                raise Unprepared(
                    f"a worker cannot be started: {short.what}",
                    str(error),
                    f"{short.remedy}, then dcctl retry",
                ) from error
        await asyncio.sleep(pause)
    raise AssertionError


def _command(request: WorkerRequest, messages: int) -> list[str]:
    # Slave: the worker's mounts do not reach the host, but unmounting on the host reaches the worker;
    # otherwise the worker's copies would keep file systems of the host busy.
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
    return {
        "PATH": TOOL_PATH,
        "LC_ALL": "C.UTF-8",
        "HOME": "/root",
        "PYTHONUNBUFFERED": "1",
        MARKER: request.marker,
        **module_environment(),
    }


@contextlib.contextmanager
def _log(path: Path) -> Iterator[int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o640)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


async def _stop_when_asked(
    process: asyncio.subprocess.Process,
    stop: asyncio.Event,
    grace_seconds: float,
    on_progress: Callable[[Progress], None],
) -> None:
    await stop.wait()
    _tell(process, CANCEL)
    on_progress(Progress(message=f"asked to stop; killed in {grace_seconds:g} s"))
    await asyncio.sleep(grace_seconds)
    killed = time.monotonic()
    while True:
        _kill(process)
        waited = time.monotonic() - killed
        on_progress(Progress(message=f"killed; waiting for its processes to end ({waited:.0f} s)"))
        await asyncio.sleep(KILLED_SECONDS)


def _tell(process: asyncio.subprocess.Process, line: bytes) -> None:
    """Write a line to a worker; it is lost if the worker has died."""
    assert process.stdin is not None
    process.stdin.write(line)


def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill the namespace's first process, and with it all others; unshare(1) ends after them. If there is no
    first process yet, kill unshare."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        first = children.read_text().split()
        os.kill(int(first[0]) if first else process.pid, signal.SIGKILL)


async def _end(process: asyncio.subprocess.Process, request: WorkerRequest) -> None:
    """Kill the remaining processes of a worker, wait for their end, and remove its files."""
    if process.returncode is None:
        _kill(process)
        await process.wait()
        await asyncio.to_thread(kill_leftovers, request.marker)
    await asyncio.to_thread(_remove_scratch, request.workspace.directory)


def _remove_scratch(workspace: Path) -> None:
    detach_loops(workspace)
    shutil.rmtree(workspace / SCRATCH, ignore_errors=True)


async def _uninterrupted(work: Coroutine[Any, Any, None]) -> None:
    """Complete the work even if this task is cancelled meanwhile; the cancellation is raised afterwards."""
    task = asyncio.ensure_future(work)
    cancelled = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    await task
    if cancelled:
        raise cancelled


def _ending(status: int) -> str:
    number = -status if status < 0 else status - 128
    if number in {known.value for known in signal.Signals}:
        return f"the worker was killed by {signal.Signals(number).name}"
    return f"the worker ended with exit status {status}"


def _tail(log_path: Path) -> str:
    with log_path.open("rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
        lines = log.read().decode("utf-8", "replace").splitlines()
    return "\n".join(lines[-_TAIL_LINES:])
