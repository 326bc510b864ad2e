"""The daemon's life: start, service and stop.

Start, as root: take the state directory's lock, start the launcher, which removes the remains of a dead
daemon; then give up root. Open the event log, remove a dead daemon's unfinished work, load the builds that
have not ended, listen, report readiness, continue the builds. Stop (SIGTERM, SIGINT): start no new work, let
running checkpoints finish within the grace time, interrupt the others, close the log. SIGHUP reads the
settings again. A SIGKILL at any point is safe: the next start cleans up. When the launcher dies, the daemon
ends as if it had died itself.
"""

import asyncio
import contextlib
import fcntl
import grp
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from starlette.types import ASGIApp

from dcd import log as logging
from dcd.api import server as http
from dcd.api.app import make_app
from dcd.api.metrics import Metrics
from dcd.configuration import Configuration, Effective, Live, Reloaded
from dcd.engine.backup import remove_leftovers
from dcd.engine.broadcast import Broadcast
from dcd.engine.builds import Builds, now
from dcd.engine.engine import Engine
from dcd.engine.recovery import recover
from dcd.engine.runner import Runner
from dcd.engine.scheduler import Scheduler
from dcd.engine.sharing import NOT_SHARED
from dcd.engine.stores import Stores
from dcd.joining import as_member, login_of_registry, shared_layers
from dcd.launcher.client import Launcher, Listening, Planners
from dcd.launcher.orders import Prepared, Setup, Signing, bounds_of
from dcd.notify.secret import files_of_hooks, read_keys
from dcd.planner.client import Planner
from dcd.platform import notify
from dcd.signing.keys import INSTALL, can_sign, check_key
from dcd.signing.process import sign
from statemachine.errors import DcdError, Unavailable
from store.artifacts import Artifacts
from store.blobs import Blobs
from store.eventlog import SqliteLog
from store.host.identity import USER, Identity, give_up_root, service_identity
from store.host.interpreter import module_command
from store.host.secret_files import PREFIX
from store.host.system_paths import code_places
from store.logs import AttemptLogs
from store.packages import Packages

if TYPE_CHECKING:
    from dcd.farm.member import FarmMember

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


def serve(
    read_settings: Callable[[], Effective],
    named: tuple[str, ...] = (),
    config: Path | None = None,
    users: Path | None = None,
) -> int:
    """Run the daemon until it is stopped. Returns the exit code for `os._exit`, since waiting threads
    may remain.

    `read_settings` is called now and at each reload; `config` is the file that it reads, if any, and `named`
    are the options with which `dcd config` prints the same settings. With `users`, a file on which its users
    hold locks, it stops when none is held any more. Raises InvalidConfiguration, and Unavailable when the
    state directory or the socket cannot be used.
    """
    settings = Live(read_settings)
    logging.configure(settings().log_format, settings().log_level)
    _check_signing(settings())
    with locked(settings().state_dir):
        _raise_file_limit()
        setup, identity = _setup(settings(), named)
        launcher = Launcher()
        prepared = launcher.prepare(setup)
        _report(prepared)
        login = login_of_registry(settings())
        for name in [name for name in os.environ if name.startswith(PREFIX)]:
            del os.environ[name]  # the launcher has them
        lock = None if users is None else _opened(users)
        # Workers leave evidence in the state directory, and are root.
        keys = read_keys(settings())
        give_up_root(identity, _shown(settings(), config), [settings().state_dir.resolve()])
        # Not closed afterwards: that would wait for threads and tasks, and one may be blocked forever.
        # All ordered steps are done when `run` returns; the end of the process does the rest.
        asyncio.Runner().run(Daemon(settings, launcher, setup, lock, keys, login).run())
    return 0


def _opened(users: Path) -> int:
    try:
        return os.open(users, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Unavailable(f"cannot open {users}", error.strerror or str(error)) from error


def _setup(settings: Configuration, named: tuple[str, ...]) -> tuple[Setup, Identity]:
    """What the launcher is started with, and the identity of the other processes."""
    identity = service_identity(settings.state_dir)
    artifact_gid = _artifact_group(settings)
    socket_gid = _group_id(settings.group) if identity.separate else None
    private = not identity.separate or (socket_gid is None and not settings.socket_mode & 0o007)
    if identity.separate:
        if identity.gid == socket_gid:
            raise Unavailable(
                "the daemon's user has the group of its clients",
                f"the user {USER} has the primary group {settings.group}, which may connect",
                f"give the user {USER} a primary group without members",
            )
        groups = (identity.gid, *(() if artifact_gid is None else (artifact_gid,)))
        identity = replace(identity, groups=groups)
        artifact_gid = identity.gid if artifact_gid is None else artifact_gid
    keys = tuple(map(Path, filter(None, [settings.signing_key])))
    if settings.signing_gpg:
        keys += (settings.signing_gpg_home,)
    setup = Setup(
        state_dir=settings.state_dir,
        uid=identity.uid,
        gid=identity.gid,
        separate=identity.separate,
        artifact_gid=artifact_gid,
        backend=None if settings.layer_backend == "auto" else settings.layer_backend,
        socket=settings.socket,
        socket_mode=settings.socket_mode,
        socket_gid=socket_gid,
        settings_command=(*module_command("dcd.main"), "config", "--json", *named),
        bounds=bounds_of(
            partial(getattr, settings),
            private=private,
            hidden=(settings.state_dir, settings.socket),
            keys=keys,
        ),
        worker=settings.worker,
        signing=Signing(
            key=settings.signing_key,
            gpg_key=settings.signing_gpg,
            gpg_home=settings.signing_gpg_home,
            builder=settings.builder_id,
        ),
    )
    return setup, identity


def _check_signing(settings: Configuration) -> None:
    """Raise BadKey for a signing key that cannot be used. Without the library, products are not signed."""
    if not settings.signing_key:
        return
    check_key(Path(settings.signing_key), settings.worker_paths)
    if can_sign():
        # A build would find out at its end.
        sign(Path(settings.signing_key), ())
    else:
        logger.warning("products are not signed", reason="dcd[sign] is missing", remedy=INSTALL)


def _shown(settings: Configuration, config: Path | None) -> Iterator[Path]:
    """The paths that the daemon reads after it has given up root."""
    includes = (*settings.include_directories, *settings.include_map.values())
    named = (*includes, *files_of_hooks(settings), *filter(None, [config]))
    yield settings.state_dir
    yield from filter(Path.exists, (*code_places(), *named))


def _report(prepared: Prepared) -> None:
    for what in prepared.removed:
        logger.warning("removed what a dead daemon left", what=what)
    logger.info("layers", backend=prepared.backend, reason=prepared.reason)
    logger.info("workers", kind=prepared.worker, reason=prepared.worker_reason)
    if prepared.obstacle:
        logger.warning("no checkpoint can run", reason=prepared.obstacle, remedy=prepared.remedy)
    if prepared.controllers:
        logger.info("control groups", limits=prepared.controllers)


class Daemon:
    """The running daemon: its settings and its parts."""

    def __init__(
        self,
        settings: Live,
        launcher: Launcher,
        setup: Setup,
        lock: int | None = None,
        keys: Mapping[Path, bytes] | None = None,
        login: tuple[str, str] | None = None,
    ) -> None:
        self.settings = settings
        self._launcher = launcher
        self._setup = setup
        self._lock = lock
        """The descriptor of the file on which the users of this daemon hold locks."""
        self._keys = keys
        """The keys of webhooks that were read as root."""
        self._login = login
        """The login of the registry for layers."""
        self._stop = asyncio.Event()
        self._look = asyncio.Event()
        self._listener: Listening | None = None
        self._status = f"answering on {settings().socket}"
        """The status line for the service manager."""

    async def run(self) -> None:
        """Run the daemon from start to stop."""
        state_dir = self.settings().state_dir
        self._handle_signals()
        loop = asyncio.get_running_loop()
        if self._lock is not None:
            arguments = (self._lock, loop)
            threading.Thread(target=self._wait_for_users, args=arguments, daemon=True).start()
        loop.add_reader(self._launcher.fileno(), self._launcher_ended)
        # Work that waits for mirrors and work that waits for disks must not block each other.
        loop.set_default_executor(ThreadPoolExecutor(THREADS))
        remove_leftovers(state_dir / EVENTS)
        broadcast = Broadcast()
        metrics = Metrics()
        farm = await as_member(self.settings, metrics.committed)
        with (
            (
                SqliteLog(state_dir / EVENTS / "events.db", metrics.committed)
                if farm is None
                else farm.open_log(state_dir / EVENTS)
            ) as events,
            Planner(self.settings, self._start_planners) as planner,
        ):
            stores = Stores(
                privileged=self._launcher,
                blobs=Blobs(state_dir / "blobs"),
                artifacts=Artifacts(state_dir / "artifacts", self._setup.artifact_gid),
                logs=AttemptLogs(state_dir / "logs"),
                packages=Packages(state_dir / "packages"),
            )
            builds = Builds(events, broadcast) if farm is None else farm.builds(events, broadcast)
            unfinished = await builds.load_unfinished()
            losses = await asyncio.to_thread(recover, events, stores, unfinished)
            logger.info("recovered", unfinished=len(unfinished), position=events.position)
            shared = shared_layers(self.settings, self._login, stores, events, builds.host)
            sharing = shared or NOT_SHARED
            runner = Runner(builds, stores, self.settings, planner, sharing)
            scheduler = Scheduler(builds, runner, self.settings)
            if farm is not None:
                scheduler = await asyncio.to_thread(farm.scheduler, runner, self._launcher)
            engine = Engine(
                builds,
                runner,
                scheduler,
                stores,
                self.settings,
                planner,
                losses,
                self._keys,
                farm,
                sharing,
            )
            engine.notifier.begin()
            self.settings.watch(self._reloaded)
            self.settings.watch(lambda _: engine.settings_changed())
            builds.watch(metrics.happened)
            if shared is not None:
                builds.watch(shared.happened)
            application = make_app(engine, self.settings, now(), metrics)
            await self._answer(application, engine, scheduler, farm)
            if shared is not None:
                shared.close()
        loop.remove_reader(self._launcher.fileno())
        await asyncio.to_thread(self._launcher.close)
        notify.stopping("stopped")
        logger.info("stopped")

    def _start_planners(
        self, settings: Configuration, control: int, asked: tuple[Path, ...]
    ) -> Planners:
        return Planners(self._launcher, control, asked)

    def _wait_for_users(self, lock: int, loop: asyncio.AbstractEventLoop) -> None:
        """Stop when no user is left. The kernel releases the lock of a user that was killed; the next
        user waits for this process to end."""
        fcntl.flock(lock, fcntl.LOCK_EX)
        with contextlib.suppress(RuntimeError):  # it has stopped meanwhile
            loop.call_soon_threadsafe(self._stop.set)

    def _launcher_ended(self) -> None:
        """End at once: nothing works without the launcher, and the next start recovers."""
        status = self._launcher.process.poll()
        logger.critical("the launcher has ended; the daemon ends too", status=status)
        os._exit(1)

    async def _answer(
        self,
        application: ASGIApp,
        engine: Engine,
        scheduler: Scheduler,
        farm: "FarmMember | None",
    ) -> None:
        server = http.make_server(application, self.settings(), self._ready)
        inherited = notify.inherited_sockets()
        listener = None if inherited else await asyncio.to_thread(Listening, self._launcher)
        sockets = inherited if listener is None else [listener.socket]
        serving = asyncio.create_task(server.serve(sockets=sockets))
        tasks: set[asyncio.Task[Any]] = {
            serving,
            working := asyncio.create_task(scheduler.run()),
            collecting := asyncio.create_task(engine.collector.run()),
            scrubbing := asyncio.create_task(engine.scrub.run()),
            retaining := asyncio.create_task(engine.retention.run()),
            notifying := asyncio.create_task(engine.notifier.run()),
            watching := asyncio.create_task(self._keep_listening(server, listener)),
            feeding := asyncio.create_task(_feed_watchdog()),
            stopped := asyncio.create_task(self._stop.wait()),
        }
        member = None if farm is None else asyncio.create_task(farm.run())
        tasks |= {member} if member else set()
        ending = {stopped, serving, working, *({member} if member else ())}
        await asyncio.wait(ending, return_when=asyncio.FIRST_COMPLETED)
        grace = self.settings().stop_grace_seconds
        longest = grace + self.settings().cancel_grace_seconds + LAST_SECONDS
        logger.info("stopping", grace_seconds=grace)
        notify.stopping(f"waiting up to {grace:g} s for running checkpoints")
        notify.extend_timeout(longest + 3 * LAST_SECONDS)
        for task in (working, collecting, scrubbing, retaining, notifying, watching):
            task.cancel()
        await _within(longest, "attempts", asyncio.create_task(scheduler.stop(grace)))
        if member is not None:
            member.cancel()  # not before: others would take its builds
        await _within(LAST_SECONDS, "shells", asyncio.create_task(engine.shells.close_all()))
        server.should_exit = True
        feeding.cancel()
        stopped.cancel()
        await _within(LAST_SECONDS, "connections", *tasks)
        if self._listener is not None:
            await asyncio.to_thread(self._listener.remove)
        for task in tasks:
            if task.done() and not task.cancelled() and (error := task.exception()):
                raise error

    async def _keep_listening(self, server: http.Server, listener: Listening | None) -> None:
        """Bind the socket again when its file was removed. The service manager is responsible for a
        socket that it passed."""
        self._listener = listener
        complained = ""
        while self._listener is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._look.wait(), LOOK_SECONDS)
            self._look.clear()
            if await asyncio.to_thread(self._listener.is_reachable):
                continue
            try:
                self._listener = await asyncio.to_thread(Listening, self._launcher)
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
                socket=str(self.settings().socket),
            )

    def _ready(self) -> None:
        logger.info(
            "ready", socket=str(self.settings().socket), state_dir=str(self.settings().state_dir)
        )
        notify.ready(self._status)

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
        try:
            self._launcher.reload()  # takes as long as `dcd config`
        except (DcdError, OSError) as error:
            logger.error("the launcher keeps its settings", error=str(error))
        self._status = f"answering on {self.settings().socket}"
        if outcome.waiting:
            self._status += f"; wait for a restart: {', '.join(outcome.waiting)}"


EVENTS = "events"
"""The directory of the event log in the state directory."""


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


def _artifact_group(settings: Configuration) -> int | None:
    """The id of the group that may read artifacts; None when it does not exist, or this daemon cannot
    give files to a group."""
    if os.geteuid() != 0:
        return None
    observing = [entry[1:] for entry in settings.observe if entry.startswith("@")]
    name = settings.artifact_group or next(iter(observing), "")
    found = _group_id(name)
    if found is None and settings.artifact_group:
        logger.warning("only root can read artifacts: the group does not exist", group=name)
    return found


def _group_id(name: str) -> int | None:
    """The id of a group; None when it does not exist on this host."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def _raise_file_limit() -> None:
    """Raise the limit of open files: each follower has a connection, and shells start programs with a
    limit of 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


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
