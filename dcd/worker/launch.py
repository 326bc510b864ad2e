"""One attempt as the daemon sees it: the messages of its worker, and how it ended.

The launcher starts the worker and ends it, and all that it started; its output goes straight to the log file,
never through the daemon. The worker's messages come over a pipe. When the daemon dies, by whatever cause, the
launcher dies, and with it the worker.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcd.worker.messages import (
    Cancelled,
    Claim,
    Completed,
    Delivered,
    Died,
    Failed,
    Outcome,
    Progress,
    Saved,
    Unsuited,
    Verdict,
    decode_message,
)
from dcd.worker.signals import CANCEL, CLAIMED, KILL
from statemachine.results import Artifact, ErrorInfo, Publication
from store.host.conversation import HEAD, gone, result_of

_TAIL_BYTES, _TAIL_LINES = 4096, 20
_LONGEST_MESSAGE_BYTES = 16 * 1024 * 1024

KILLED_SECONDS = 5.0
"""Interval at which a killed worker that has not ended is killed again and reported."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended, after so many seconds; the artifacts that it delivered, `document` and `handed`
    as in `dcd.worker.messages.Saved`, `left`, `warnings`, `resolved` and `publications` as in
    CheckpointCompleted."""

    outcome: Outcome
    seconds: float
    artifacts: tuple[Artifact, ...] = ()
    document: str | None = None
    left: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    resolved: str = ""
    handed: str = ""
    publications: tuple[Publication, ...] = ()


async def run_attempt(
    start: Callable[[int], socket.socket],
    *,
    checkpoint: str,
    log_path: Path,
    on_progress: Callable[[Progress], None],
    on_claim: Callable[[Claim], Awaitable[object]],
    stop: asyncio.Event,
    grace_seconds: float = 10.0,
) -> Ending:
    """Run an attempt to its end.

    `start` starts the worker, given the descriptor for its messages, and returns the conversation with the
    launcher. `on_claim` returns when a claim is in the event log; the worker waits for that. What it then
    made is the caller's to release. When `stop` is set the worker is asked to stop, and killed with all it
    started `grace_seconds` later; when the calling task is cancelled it is killed at once. When this
    returns or raises, nothing of the worker is left: no process, mount, loop device or control group.
    Raises Unprepared when the worker cannot be started, DiskFull when there is no space for its log.
    """
    started = time.monotonic()
    artifacts: list[Artifact] = []
    saved = Saved("")
    verdict: Verdict | None = None
    async with _worker(start) as (worker, messages):
        stopping = asyncio.create_task(_stop_when_asked(worker, stop, grace_seconds, on_progress))
        try:
            async for line in messages:
                match decode_message(line):
                    case Progress() as progress:
                        on_progress(progress)
                    case Delivered(artifact):
                        artifacts.append(artifact)
                    case Saved() as saved:
                        pass
                    case Claim() as claim:
                        await on_claim(claim)
                        worker.tell(CLAIMED)
                    case Completed() | Failed() | Cancelled() | Unsuited() as said:
                        verdict = said
            status, no_memory = await worker.end()
        finally:
            stopping.cancel()
    seconds = time.monotonic() - started
    outcome: Outcome
    match verdict:
        case Completed():
            outcome = verdict
        case _ if stop.is_set():
            outcome = Cancelled()
        case _ if no_memory:
            outcome = Failed(_no_memory(checkpoint))
        case Failed() | Unsuited():
            outcome = verdict
        case _:
            outcome = Died(_ending(status), _tail(log_path))
    return Ending(
        outcome,
        seconds,
        tuple(artifacts),
        saved.document or None,
        saved.left,
        saved.warnings,
        saved.resolved,
        saved.handed,
        saved.publications,
    )


def _no_memory(checkpoint: str) -> ErrorInfo:
    return ErrorInfo(
        f"{checkpoint} was killed because it used too much memory",
        "an attempt may use attempt_memory_bytes; without that the service or the host had no more",
        "raise attempt_memory_bytes and reload the daemon, or run fewer builds at once, then dcctl retry",
    )


class _Worker:
    """A worker that runs, by its conversation with the launcher."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._ended = asyncio.ensure_future(_reply(reader))

    def tell(self, line: bytes) -> None:
        """Send a line. To a worker that has ended it is lost, which its end reports."""
        self._writer.write(line)

    async def end(self) -> tuple[int, bool]:
        """Its exit status and whether it lacked memory, when it has ended and nothing of it is left."""
        finished = result_of(await asyncio.shield(self._ended))
        return finished["status"], finished["no_memory"]

    async def close(self) -> None:
        """Kill it if it runs, and wait until nothing of it is left."""
        if not self._ended.done():
            self.tell(KILL)
        await asyncio.wait({self._ended})
        self._ended.exception()  # reported by `end`, if anybody asks
        self._writer.close()


async def _reply(reader: asyncio.StreamReader) -> Any:
    try:
        (length,) = HEAD.unpack(await reader.readexactly(HEAD.size))
        return json.loads(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        raise gone("the launcher") from None


@contextlib.asynccontextmanager
async def _worker(
    start: Callable[[int], socket.socket],
) -> AsyncIterator[tuple[_Worker, asyncio.StreamReader]]:
    """A worker that has started, with the stream of its messages. On exit nothing of it is left."""
    receiving, sending = os.pipe()
    with os.fdopen(receiving, "rb") as pipe:
        starting = asyncio.ensure_future(asyncio.to_thread(start, sending))
        cancelled = await _done(starting)
        os.close(sending)
        streams = await asyncio.open_unix_connection(sock=starting.result())
        worker = _Worker(*streams)
        try:
            if cancelled:
                raise cancelled
            messages = asyncio.StreamReader(limit=_LONGEST_MESSAGE_BYTES)
            transport, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(messages), pipe
            )
            try:
                yield worker, messages
            finally:
                transport.close()
        finally:
            cancelled = await _done(asyncio.ensure_future(worker.close()))
            if cancelled:
                raise cancelled


async def _done(task: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait until a task is done, also when this one is cancelled meanwhile. Returns that cancellation."""
    cancelled = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


async def _stop_when_asked(
    worker: _Worker,
    stop: asyncio.Event,
    grace_seconds: float,
    on_progress: Callable[[Progress], None],
) -> None:
    await stop.wait()
    worker.tell(CANCEL)
    on_progress(Progress(message=f"asked to stop; killed in {grace_seconds:g} s"))
    await asyncio.sleep(grace_seconds)
    killed = time.monotonic()
    while True:
        worker.tell(KILL)
        waited = time.monotonic() - killed
        on_progress(Progress(message=f"killed; waiting for its processes to end ({waited:.0f} s)"))
        await asyncio.sleep(KILLED_SECONDS)


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
