"""What surrounds an engine in a simulation: threads, workers and disks, as its surroundings want them."""

import asyncio
import errno
import hashlib
import os
from collections import namedtuple
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from dcd.launcher.orders import AttemptOrder
from dcd.worker.launch import Ending
from dcd.worker.messages import Cancelled, Completed, Died, Failed
from statemachine.results import Artifact, ErrorInfo
from store.artifacts import Artifacts
from store.host.durable import reporting_disk_full
from store.layers import Layer, LayerRecord, Workspace
from store.layers.copy import CopyTrees
from store.layers.directory import LayerDirectory
from store.layers.interface import nothing

PLENTY = 2**40
START = datetime(2026, 1, 1, tzinfo=UTC)
EXPECTED_ERRORS = (
    "the event log accepts no events; waiting",
    "the event log accepted no events before the stop",
)

DiskUsage = namedtuple("DiskUsage", "total used free")


class Killed(BaseException):
    """The daemon is dead: nothing that it still wants has an effect."""


class Host(Protocol):
    """Where a daemon lives."""

    state_dir: Path
    free_bytes: int

    @property
    def seconds(self) -> float: ...


@dataclass(eq=False)
class Attempt:
    """An attempt whose worker runs. It ends when `verdict` has a result."""

    order: AttemptOrder
    root: Path
    verdict: "asyncio.Future[Ending]"

    @property
    def number(self) -> tuple[str, str, int]:
        return self.order.build, self.order.checkpoint, self.order.attempt

    @property
    def history(self) -> Path:
        """A file in the workspace to which each checkpoint adds a line."""
        return self.root / "pkg_image" / "history"

    def begin(self) -> None:
        """Do what the checkpoint does."""
        self.history.parent.mkdir(exist_ok=True)
        with self.history.open("a") as lines:
            lines.write(f"{self.order.checkpoint} {' '.join(self.order.args)}\n")

    def end(self, outcome: str) -> None:
        """Let the worker end."""
        if self.verdict.done():
            return
        error = ErrorInfo("the checkpoint says no")
        match outcome:
            case "completed":
                self.verdict.set_result(Ending(Completed(), 1.0, self._delivered()))
            case "failed":
                self.verdict.set_result(Ending(Failed(error), 1.0))
            case "no-space":
                self.verdict.set_result(Ending(Failed(error, no_space=True), 1.0))
            case "died":
                self.verdict.set_result(Ending(Died("killed by SIGKILL", "the last line"), 1.0))
            case "broken":
                self.verdict.set_exception(OSError(errno.EIO, os.strerror(errno.EIO)))

    def _delivered(self) -> tuple[Artifact, ...]:
        if self.order.checkpoint != "iso":
            return ()
        content = self.history.read_bytes()
        path = self.root / "media" / "image.iso"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        return (Artifact("image.iso", "media/image.iso", "iso", len(content), digest),)


async def run_attempt(
    attempts: list[Attempt],
    layers: LayerDirectory,
    begin: Callable[[Attempt], None],
    start: Any,
    stop: asyncio.Event,
) -> Ending:
    """In the place of `dcd.worker.launch.run_attempt`: an attempt is one of `attempts` while it runs."""
    (order,) = start.args
    root = layers.opened(order.workspace).root
    attempt = Attempt(order, root, asyncio.get_running_loop().create_future())
    attempts.append(attempt)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        begin(attempt)
        await asyncio.wait({attempt.verdict, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        if attempt in attempts:
            attempts.remove(attempt)
    return attempt.verdict.result() if attempt.verdict.done() else Ending(Cancelled(), 1.0)


class Jobs(ThreadPoolExecutor):
    """Makes jobs of what would run in a thread."""

    def __init__(self, job: "Callable[[Callable[[], Any]], Future[Any]]") -> None:
        super().__init__(max_workers=1)
        self._job = job

    def submit(self, work: Any, /, *args: Any, **kwargs: Any) -> "Future[Any]":
        return self._job(partial(work, *args, **kwargs))


def check_space(host: Host) -> None:
    if host.free_bytes == 0:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Trees(CopyTrees):
    """The real copy back end, on a disk that can be full."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def create(self, *arguments: Any) -> None:
        check_space(self._host)
        super().create(*arguments)

    def seal(self, layer: Path) -> None:
        check_space(self._host)
        super().seal(layer)


class SimulatedLayers(LayerDirectory):
    """Real layers, used at the world's time."""

    def __init__(self, host: Host) -> None:
        super().__init__(host.state_dir / "layers" / "copy", Trees(host))
        self._host = host

    def commit(
        self,
        workspace: Workspace,
        record: LayerRecord,
        document: str | None = None,
        require: Callable[[], None] = nothing,
    ) -> Layer:
        super().commit(workspace, record, document, require)
        self.touch(record.key)
        return self._found(record.key)

    def touch(self, key: str) -> None:
        moment = self._host.seconds
        os.utime(self._found(key).directory / "layer.json", (moment, moment))


class SimulatedArtifacts(Artifacts):
    """The real artifacts, on a disk that can be full."""

    def __init__(self, host: Host) -> None:
        super().__init__(host.state_dir / "artifacts")
        self._host = host

    def publish(self, build: str, artifact: Artifact, source: Path) -> Artifact:
        with reporting_disk_full("publishing", self.directory):
            check_space(self._host)
        return super().publish(build, artifact, source)
