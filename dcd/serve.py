"""The daemon's life: start, service and stop.

Start: take the state directory's lock, end processes left by a dead daemon, open the event log, remove
a dead daemon's unfinished work, load the builds that have not ended, listen, report readiness, continue
the builds. Stop (SIGTERM, SIGINT): start no new work, let running checkpoints finish within the grace
time, interrupt the others, close the log. SIGHUP reads the settings again. A SIGKILL at any point is
safe: the next start cleans up.
"""

import asyncio
import contextlib
import fcntl
import grp
import os
import resource
import secrets
import signal
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import structlog
from starlette.types import ASGIApp

from dcd import log as logging
from dcd.api import server as http
from dcd.api.app import make_app
from dcd.api.listening import Listener, Place
from dcd.api.metrics import Metrics
from dcd.configuration import Configuration, Effective, Live, Reloaded
from dcd.engine.backup import remove_leftovers
from dcd.engine.broadcast import Broadcast
from dcd.engine.builds import Builds, now
from dcd.engine.engine import Engine
from dcd.engine.losses import Losses, look_for_losses
from dcd.engine.runner import Runner
from dcd.engine.scheduler import Scheduler
from dcd.engine.secret_digests import secret_key
from dcd.engine.stores import Stores
from dcd.engine.workspaces import claiming_workspace, kept_workspace
from dcd.planner.client import Planner
from dcd.platform import control_group, notify
from dcd.platform.control_group import Delegated
from dcd.worker.recover import detach_loops, kill_leftovers
from statemachine.build import BuildState
from statemachine.errors import DcdError, Unavailable
from store.artifacts import Artifacts
from store.blobs import Blobs
from store.eventlog import EventLog
from store.host.durable import write_file
from store.host.identity import service_identity
from store.layers import LayerStore
from store.layers.choose import TRIAL, choose, retired
from store.logs import AttemptLogs
from store.packages import Packages

logger = structlog.get_logger()

THREADS = 32
"""The number of threads for blocking work, which mostly waits."""

LOOK_SECONDS = 2.0
"""The interval for checking whether the socket is reachable."""

LAST_SECONDS = 5.0
"""The time limit of each step of a stop, in addition to the grace time. A step blocked longer ends with
the process, and the next start cleans up."""

OPEN_FILES = 65536
"""The limit of the systemd unit. Not higher, because some tools close every possible descriptor."""


def serve(read_settings: Callable[[], Effective]) -> int:
    """Run the daemon until it is stopped. Returns the exit code for `os._exit`, since waiting threads
    may remain.

    `read_settings` is called now and at each reload. Raises InvalidConfiguration, and Unavailable
    when the state directory or the socket cannot be used.
    """
    settings = Live(read_settings)
    logging.configure(settings().log_format, settings().log_level)
    with locked(settings().state_dir):
        # Not closed afterwards: that would wait for threads and tasks, and one may be blocked forever.
        # All ordered steps are done when `run` returns; the end of the process does the rest.
        asyncio.Runner().run(Daemon(settings).run())
    return 0


class Daemon:
    """The running daemon: its settings and its parts."""

    def __init__(self, settings: Live) -> None:
        self.settings = settings
        self._stop = asyncio.Event()
        self._look = asyncio.Event()
        self._listener: Listener | None = None
        self._status = f"answering on {settings().socket}"
        """The status line for the service manager."""

    async def run(self) -> None:
        """Run the daemon from start to stop."""
        state_dir = self.settings().state_dir
        self._handle_signals()
        # Work that waits for mirrors and work that waits for disks must not block each other.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
        _raise_file_limit()
        identity = _identity(state_dir)
        groups = await asyncio.to_thread(_clear_away, identity, state_dir)
        identity = _keep_secret(state_dir)
        blobs = _blobs(state_dir)
        broadcast = Broadcast()
        metrics = Metrics()
        with (
            EventLog(state_dir / "events.db", metrics.committed) as events,
            Planner(self.settings) as planner,
        ):
            layers = await asyncio.to_thread(self._layers)
            logs = AttemptLogs(state_dir / "logs")
            logs.prepare()
            stores = Stores(
                layers=layers,
                blobs=blobs,
                artifacts=await asyncio.to_thread(_artifacts, self.settings()),
                logs=logs,
                packages=await asyncio.to_thread(Packages, state_dir / "packages"),
                state_id=identity,
                secret_key=secret_key(state_dir),
                retired=await asyncio.to_thread(retired, state_dir / "layers", layers.name),
            )
            builds = Builds(events, broadcast)
            unfinished = await builds.load_unfinished()
            kept = {
                name
                for state in unfinished
                if (name := kept_workspace(state) or claiming_workspace(state))
            }
            losses = await asyncio.to_thread(_losses, events, stores)
            kept.update(await asyncio.to_thread(_workspaces_of, layers, losses.builds))
            await asyncio.to_thread(_reconcile, events, layers, kept)
            await asyncio.to_thread(_give_inputs, stores.blobs, unfinished)
            logger.info("recovered", unfinished=len(unfinished), position=events.position)
            runner = Runner(builds, stores, self.settings, planner, groups)
            scheduler = Scheduler(builds, runner, self.settings)
            engine = Engine(builds, runner, scheduler, stores, self.settings, planner, losses)
            self.settings.watch(self._reloaded)
            self.settings.watch(lambda _: engine.settings_changed())
            builds.watch(metrics.happened)
            await self._answer(make_app(engine, self.settings, now(), metrics), engine, scheduler)
        notify.stopping("stopped")
        logger.info("stopped")

    async def _answer(self, application: ASGIApp, engine: Engine, scheduler: Scheduler) -> None:
        server = http.make_server(application, self.settings(), self._ready)
        inherited = notify.inherited_sockets()
        listener = None if inherited else Listener(self._place())
        sockets = inherited if listener is None else [listener.socket]
        serving = asyncio.create_task(server.serve(sockets=sockets))
        tasks: set[asyncio.Task[Any]] = {
            serving,
            working := asyncio.create_task(scheduler.run()),
            collecting := asyncio.create_task(engine.collector.run()),
            watching := asyncio.create_task(self._keep_listening(server, listener)),
            feeding := asyncio.create_task(_feed_watchdog()),
            stopped := asyncio.create_task(self._stop.wait()),
        }
        await asyncio.wait({stopped, serving, working}, return_when=asyncio.FIRST_COMPLETED)
        grace = self.settings().stop_grace_seconds
        longest = grace + self.settings().cancel_grace_seconds + LAST_SECONDS
        logger.info("stopping", grace_seconds=grace)
        notify.stopping(f"waiting up to {grace:g} s for running checkpoints")
        notify.extend_timeout(longest + 3 * LAST_SECONDS)
        working.cancel()
        collecting.cancel()
        watching.cancel()
        await _within(longest, "attempts", asyncio.create_task(scheduler.stop(grace)))
        await _within(LAST_SECONDS, "shells", asyncio.create_task(engine.shells.close_all()))
        server.should_exit = True
        feeding.cancel()
        stopped.cancel()
        await _within(LAST_SECONDS, "connections", *tasks)
        if self._listener is not None:
            self._listener.remove()
        for task in tasks:
            if task.done() and not task.cancelled() and (error := task.exception()):
                raise error

    async def _keep_listening(self, server: http.Server, listener: Listener | None) -> None:
        """Bind the socket again when its file was removed. The service manager is responsible for a
        socket that it passed."""
        self._listener = listener
        complained = ""
        while self._listener is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._look.wait(), LOOK_SECONDS)
            self._look.clear()
            if self._listener.is_reachable():
                continue
            try:
                self._listener = Listener(self._listener.place)
            except (Unavailable, OSError) as error:
                if str(error) != complained:
                    complained = str(error)
                    logger.error(
                        "the socket's file was removed and cannot be created again",
                        error=complained,
                    )
                continue
            complained = ""
            await server.listen(self._listener.socket)
            logger.warning(
                "the socket's file was removed; it is bound again",
                socket=str(self._listener.place.path),
            )

    def _ready(self) -> None:
        logger.info(
            "ready", socket=str(self.settings().socket), state_dir=str(self.settings().state_dir)
        )
        notify.ready(self._status)

    def _layers(self) -> LayerStore:
        backend = self.settings().layer_backend
        store, reason = choose(
            self.settings().state_dir / "layers", None if backend == "auto" else backend
        )
        logger.info("layers", backend=store.name, reason=reason)
        return store

    def _place(self) -> Place:
        configuration = self.settings()
        gid = None
        if configuration.group and os.geteuid() == 0:
            with contextlib.suppress(KeyError):  # a host without the group: only root may connect
                gid = grp.getgrnam(configuration.group).gr_gid
        return Place(configuration.socket, configuration.socket_mode, gid)

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _reload(self) -> None:
        self._look.set()
        notify.reloading()
        try:
            self.settings.reload()
        except DcdError as error:
            logger.error("the settings are unchanged", error=str(error))
        notify.ready(self._status)

    def _reloaded(self, outcome: Reloaded) -> None:
        logging.configure(self.settings().log_format, self.settings().log_level)
        logger.info(
            "settings reloaded", changed=outcome.changed, waiting_for_a_restart=outcome.waiting
        )
        self._status = f"answering on {self.settings().socket}"
        if outcome.waiting:
            self._status += f"; wait for a restart: {', '.join(outcome.waiting)}"


@contextlib.contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    """Hold the state directory's lock. The kernel releases it with the process in any case."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = (state_dir / "lock").open("a+")
        os.fchmod(file.fileno(), 0o600)
    except OSError as error:
        raise Unavailable(
            f"the state directory {state_dir} cannot be used",
            str(error),
            "run dcd as root, or give --state-dir a directory of your own",
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Unavailable(
                f"another dcd uses {state_dir}",
                f"process {file.read().strip() or 'unknown'} holds {file.name}",
                "stop it first, or give --state-dir another directory",
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _blobs(state_dir: Path) -> Blobs:
    """The blobs, in a directory that belongs to the user of the planners, which read them."""
    blobs = Blobs(state_dir / "blobs")
    user = service_identity(state_dir)
    if user.separate:
        os.chown(blobs.directory, user.uid, user.gid)
    return blobs


def _artifacts(settings: Configuration) -> Artifacts:
    """The artifacts, in a state directory that only their group may traverse."""
    group = _artifact_group(settings)
    if os.geteuid() == 0:
        os.chown(settings.state_dir, -1, group or 0)
    settings.state_dir.chmod(0o700 if group is None else 0o710)
    artifacts = Artifacts(settings.state_dir / "artifacts", group)
    artifacts.prepare()
    return artifacts


def _artifact_group(settings: Configuration) -> int | None:
    """The id of the group that may read artifacts; None when it does not exist, or this daemon cannot
    give files to a group."""
    if os.geteuid() != 0:
        return None
    observing = [entry[1:] for entry in settings.observe if entry.startswith("@")]
    name = settings.artifact_group or next(iter(observing), "")
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        if settings.artifact_group:
            logger.warning("only root can read artifacts: the group does not exist", group=name)
        return None


def _raise_file_limit() -> None:
    """Raise the limit of open files: each follower has a connection, and shells start programs with a
    limit of 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _identity(state_dir: Path) -> str:
    """The mark of the processes of this state directory; created once, readable only by the daemon's
    user."""
    path = state_dir / "id"
    if not path.exists():
        write_file(path, secrets.token_hex(16).encode(), 0o600)
    return path.read_text().strip()


def _keep_secret(state_dir: Path) -> str:
    """The mark for new processes: a new one if the old one was world-readable, as in version 0.1.0. All
    processes with the old mark have ended."""
    path = state_dir / "id"
    if path.stat().st_mode & 0o077:
        write_file(path, secrets.token_hex(16).encode(), 0o600)
    return _identity(state_dir)


def _clear_away(identity: str, state_dir: Path) -> Delegated | None:
    """End and remove the remains of a dead daemon. Returns the control group for the groups of
    attempts."""
    for leftover in kill_leftovers(f"{identity}:"):
        logger.warning(
            "killed the processes of a dead daemon", pid=leftover.pid, attempt=leftover.attempt
        )
    for device in detach_loops(state_dir / "layers"):
        logger.warning("detached the devices of a dead daemon", device=device)
    remove_leftovers(state_dir)
    try:
        groups = control_group.take_over()
        for name in groups.clear() if groups else ():
            logger.warning("removed the control groups of a dead daemon", control_group=name)
    except OSError as error:
        logger.error("attempts get no control groups", error=str(error))
        return None
    if groups:
        logger.info(
            "control groups", directory=str(groups.directory), limits=sorted(groups.controllers)
        )
    return groups


def _give_inputs(blobs: Blobs, unfinished: Sequence[BuildState]) -> None:
    """Record the owners of captured inputs, which version 0.1.0 did not: the submitter of their
    build."""
    for state in unfinished:
        for file in state.inputs:
            if state.actor.uid is not None:
                blobs.give(file.sha256, state.actor.uid)


def _losses(events: EventLog, stores: Stores) -> Losses:
    """The log's losses, also logged as an error."""
    found = look_for_losses(
        events, stores.layers, (stores.artifacts.directory, stores.logs.directory)
    )
    if loss := found.error:
        logger.error(loss.brief, details=loss.details, resolution=loss.resolution)
    return found


def _workspaces_of(layers: LayerStore, builds: Collection[str]) -> list[str]:
    return [name for name, _ in layers.workspaces() if name.split(".")[0] in builds]


def _reconcile(events: EventLog, layers: LayerStore, living: Collection[str]) -> None:
    """Remove the unfinished work of a dead daemon. Complete layers are kept; `gc` removes unneeded
    ones."""
    kept = [layer.record.key for layer in layers.layers() if layer.record.made_by != TRIAL]
    for name in layers.reconcile(kept, living):
        logger.info("removed the unfinished work of a dead daemon", what=name)


async def _within(seconds: float, what: str, *tasks: asyncio.Task[Any]) -> None:
    """Wait for tasks to end within a time limit, and log those that did not."""
    _, late = await asyncio.wait(tasks, timeout=seconds)
    if late:
        logger.error(
            "the daemon stops without waiting for tasks that do not end", what=what, count=len(late)
        )


async def _feed_watchdog() -> None:
    while (seconds := notify.watchdog_seconds()) is not None:
        notify.alive()
        await asyncio.sleep(seconds)
