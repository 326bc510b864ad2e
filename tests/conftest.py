"""A private daemon for tests: real processes, a real socket, and a look for leaks afterwards."""

import ctypes
import fcntl
import gc
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any
from xml.sax.saxutils import escape

import pytest
from hypothesis import HealthCheck, settings

from cli import client
from dcd.worker.recover import leftover_workers
from store.packages import Packages
from tests.forking import Forked, Zygote, mount_namespace, python_here

PROMPT_SECONDS = 60.0
SETTLED = ("paused", "failed", "cancelled", "completed")


WORKER = "DCD_TEST_WORKER"
"""The variable with the kind of workers that daemons of tests use, `portable` or `namespaces`. Without it,
the host chooses."""

# How long an example takes says more about what else the host does than about the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

pytest_plugins = ("tests.directories", "tests.farms")

MARKED_BY = {"cold_daemon": pytest.mark.daemon, "initialised": pytest.mark.slow}
"""Fixtures that mark the tests which use them."""

NO_PACKAGE_HELPS = "this host"
"""How the reason of a skip begins that no package could have prevented."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """With CI set, a test that is skipped for want of a package fails: `make test` installs all of them."""
    report = yield
    if os.environ.get("CI") and report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith(NO_PACKAGE_HELPS):
            report.outcome = "failed"
            report.longrepr = f"skipped, though `make test` should install what it needs: {reason}"
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts a daemon or a PostgreSQL, which `make check` leaves out, and begin with what takes
    longest."""
    for item in items:
        for fixture, mark in MARKED_BY.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(mark)
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if processes > 1:
        items[:] = longest_first(items, processes)


def pytest_collection_finish() -> None:
    """Take the thousands of tests and all code out of what Python's collector looks through again and again:
    it took a tenth of the time of small tests."""
    gc.collect()
    gc.freeze()


def longest_first(items: list[pytest.Item], processes: int) -> list[pytest.Item]:
    """The tests in an order in which those of pytest-xdist's processes end together. Each gets a run of them,
    equally many, and when it has no more, some from the end of another's. So the files whose tests have time
    limits of their own are dealt to the beginnings of these runs, those with the longest first."""
    files: dict[Path, list[pytest.Item]] = {}
    others = []
    for item in items:
        if time_limit(item):
            files.setdefault(item.path, []).append(item)
        else:
            others.append(item)
    dealt: list[list[pytest.Item]] = [[] for _ in range(processes)]
    seconds = [0.0] * processes
    for file in sorted(files.values(), key=lambda file: -max(map(time_limit, file))):
        least = seconds.index(min(seconds))
        dealt[least] += file
        seconds[least] += max(map(time_limit, file))
    ordered: list[pytest.Item] = []
    for number, share in enumerate(dealt, 1):
        more = max(0, len(items) * number // processes - len(ordered) - len(share))
        ordered += [*share, *others[:more]]
        del others[:more]
    return [*ordered, *others]


def time_limit(item: pytest.Item) -> float:
    """The test's own time limit in seconds, if it is longer than that of all; else 0."""
    marker = item.get_closest_marker("timeout")
    own = float(marker.args[0]) if marker else 0.0
    return own if own > float(item.config.getini("timeout")) else 0.0


def rarer(since: float, least: float) -> float:
    """The seconds until the next look for what has been waited for since then. Those who look as often for
    minutes as for what takes no time take a tenth of a processor from the build that they wait for."""
    return min(0.5, max(least, (time.monotonic() - since) / 20))


@contextmanager
def _no_file_left() -> Iterator[Callable[[], None]]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def give_back() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        yield give_back
    finally:
        give_back()


@pytest.fixture
def no_file_left() -> Callable[[], AbstractContextManager[Callable[[], None]]]:
    """Makes contexts in which this process can open no file, until it calls what it gets."""
    return _no_file_left


def open_way(directory: Path) -> None:
    """Let the daemon's user enter a test's directory, as it can enter /var/lib. Only root has that."""
    for place in (directory, *directory.parents):
        if os.geteuid() == 0 and place.stat().st_mode & 0o077 == 0:
            place.chmod(0o711)


_python = python_here()
_zygotes: list[Zygote] = []
"""One for each mount namespace of this process; the last is that of the present one."""


def forked_or_started(command: list[str], **output: Any) -> "Forked | subprocess.Popen[bytes]":
    """Fork the daemon from a process that has loaded its code; start it where it is to load it otherwise, or
    by another program."""
    if command[:3] != [sys.executable, "-m", "dcd.main"] or python_here() != _python:
        return subprocess.Popen(command, **output)
    return zygote_here().launch(command, **output)


def zygote_here() -> Zygote:
    """The process that forks daemons in the present mount namespace."""
    if not _zygotes or _zygotes[-1].mounts != mount_namespace():
        _zygotes.append(Zygote())
    return _zygotes[-1]


def pytest_sessionfinish() -> None:
    """End the processes that fork daemons."""
    while _zygotes:
        _zygotes.pop().end()


class Daemon:
    """`dcd serve` on a state directory and a socket of its own, and dcctl to talk to it."""

    def __init__(self, directory: Path) -> None:
        open_way(directory)
        self.state_dir = directory / "state"
        self.event_log = self.state_dir / "events" / "events.db"
        self.socket = directory / "s"
        self.log = directory / "daemon.log"
        self.settings: dict[str, Any] = {"min_free_bytes": 0, "stop_grace_seconds": 0.5}
        if WORKER in os.environ:
            self.settings["worker"] = os.environ[WORKER]
        self.tables = ""
        """Tables of the settings, as TOML."""
        self.process: subprocess.Popen[bytes] | Forked | None = None
        self.launch: Callable[..., Any] = forked_or_started
        """How the command becomes a process; fault tests have another way."""
        self.wrapper: tuple[str, ...] = ()
        """What is put before the command each time."""

    def start(self, wrapper: tuple[str, ...] = ()) -> "Daemon":
        """Start it and wait until it is ready. `wrapper` is put before the command."""
        self.spawn(wrapper)
        self.wait_until_ready()
        return self

    def spawn(self, wrapper: tuple[str, ...] = ()) -> None:
        """Start it without waiting."""
        config = self.state_dir.parent / "dcd.toml"
        lines = [f"{k} = {json.dumps(v)}\n" for k, v in self.settings.items()]
        config.write_text("".join([*lines, self.tables]))
        self._ready_from = self.log.stat().st_size if self.log.exists() else 0
        command = [*self.wrapper, *wrapper, sys.executable, "-m", "dcd.main", "serve"]
        command += ["--config", str(config)]
        command += ["--state-dir", str(self.state_dir), "--socket", str(self.socket)]
        with self.log.open("ab") as log:
            self.process = self.launch(command, stderr=log, stdout=log)

    def wait_until_ready(self) -> None:
        """Until the daemon says so; fails with its log when it ends instead."""
        assert self.process is not None
        deadline = time.monotonic() + PROMPT_SECONDS
        while b'"event": "ready"' not in self.log.read_bytes()[self._ready_from :]:
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the daemon did not become ready:\n{self.log.read_text()}")
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL of the main process, as a power cut of it; its launcher ends with it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.wait_for_launcher()

    def kill_launcher(self) -> int:
        """SIGKILL of the launcher; the main process ends by itself. Returns its exit status."""
        assert self.process is not None
        os.kill(self.launcher(), signal.SIGKILL)
        status = self.process.wait(PROMPT_SECONDS)
        self.wait_for_launcher()
        return status

    def launcher(self) -> int:
        """The pid of the launcher."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return int(children.split()[0])

    def wait_for_launcher(self) -> None:
        """Until the launcher of a dead daemon has ended, with its mounts and open files."""
        lock = self.state_dir / "launcher.lock"
        deadline = time.monotonic() + PROMPT_SECONDS
        while lock.exists():
            with lock.open() as file, suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            assert time.monotonic() < deadline, "the launcher does not end"
            time.sleep(0.01)

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PROMPT_SECONDS)

    def ctl(self, *arguments: str | Path, status: int | None = 0) -> str:
        """Run dcctl; fails unless it exits with `status` (None: with any). Returns its output."""
        result = self.run(*arguments)
        if status is not None and result.returncode != status:
            pytest.fail(
                f"dcctl {arguments} exited {result.returncode}, not {status}\n"
                f"{result.stdout}{result.stderr}\n{self.log.read_text()[-3000:]}"
            )
        return result.stdout

    def run(self, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        """Run dcctl and return what came of it."""
        given, place = list(map(str, arguments)), str(self.socket)
        if python_here() == _python and current_thread() is main_thread():
            return zygote_here().run_dcctl(given, 120, DCD_SOCKET=place)
        command = [sys.executable, "-m", "cli.main", *given]
        environment = {**os.environ, "DCD_SOCKET": place}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)

    def json(self, *arguments: str | Path, status: int | None = 0) -> Any:
        """Run dcctl with --json and parse its one document."""
        return json.loads(self.ctl(*arguments, "--json", status=status))

    def submit(self, manifest: Path, *options: str) -> str:
        """Submit a manifest and return the build's id."""
        return self.ctl("submit", manifest, *options).strip()

    def events(self, build: str) -> list[dict[str, Any]]:
        """All events of a build."""
        return [json.loads(line) for line in self.ctl("events", build, "--json").splitlines()]

    def status(self, build: str) -> dict[str, Any]:
        """What `dcctl status --json` prints, without the cost of a process."""
        found: dict[str, Any] = client.request(str(self.socket), "GET", client.build_path(build))
        return found

    def _events(self, build: str) -> list[dict[str, Any]]:
        path = client.build_path(build, "events")
        found: list[dict[str, Any]] = client.request(
            str(self.socket), "GET", path, query={"limit": 1000}
        )["events"]
        return found

    def wait(self, build: str, *states: str, seconds: float = 120.0) -> dict[str, Any]:
        """Until the build is in one of the states (default: any in which it stands still)."""
        deadline = time.monotonic() + seconds
        while True:
            status = self.status(build)
            if status["state"] in (states or SETTLED):
                return status
            if time.monotonic() > deadline:
                pytest.fail(f"still {status['state']}: {status}\n{self.log.read_text()[-3000:]}")
            time.sleep(rarer(deadline - seconds, 0.05))

    def wait_for_event(self, build: str, kind: str, seconds: float = 120.0) -> dict[str, Any]:
        """Until the build has an event of that type; returns the last of them."""
        deadline = time.monotonic() + seconds
        while not (found := [event for event in self._events(build) if event["type"] == kind]):
            if time.monotonic() > deadline:
                pytest.fail(f"no {kind}: {self.events(build)}\n{self.log.read_text()[-3000:]}")
            time.sleep(rarer(deadline - seconds, 0.02))
        return found[-1]

    def leaks(self) -> list[str]:
        """Mounts, loop devices and worker processes that belong to the state directory."""
        place = str(self.state_dir)
        mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if place in line]
        loops = [
            path.read_text()
            for path in Path("/sys/block").glob("loop*/loop/backing_file")
            if path.read_text().startswith(place)
        ]
        identity = self.state_dir / "id"
        workers = leftover_workers(f"{identity.read_text()}:") if identity.exists() else []
        kept = self._failed()
        spaces = [
            str(path)
            for path in self.state_dir.glob("layers/*/.work/*")
            if path.name.split(".")[0] not in kept
        ]
        return [*mounts, *loops, *map(str, workers), *spaces]

    def _failed(self) -> set[str]:
        """Builds that have failed, which keep the workspace of the attempt."""
        if not self.event_log.exists():
            return set()
        with closing(sqlite3.connect(self.event_log)) as log:
            return {row[0] for row in log.execute("SELECT id FROM builds WHERE state = 'failed'")}


@pytest.fixture
def cold_daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon that is not started; killed afterwards if it runs."""
    daemon = Daemon(tmp_path)
    try:
        yield daemon
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.kill()


@pytest.fixture
def really_started(cold_daemon: Daemon) -> None:
    """The daemon is started as a program, for tests of what its processes are and have."""
    cold_daemon.launch = subprocess.Popen


@pytest.fixture
def daemon(cold_daemon: Daemon) -> Iterator[Daemon]:
    """A running daemon. After the test it is stopped, and nothing of it may be left."""
    yield cold_daemon.start()
    if cold_daemon.process is not None and cold_daemon.process.poll() is None:
        assert cold_daemon.stop() == 0, cold_daemon.log.read_text()[-3000:]
    assert cold_daemon.leaks() == []


@pytest.fixture
def packages(tmp_path: Path) -> Packages:
    """An empty package store."""
    packages = Packages(tmp_path / "packages")
    packages.prepare()
    return packages


@pytest.fixture(scope="session")
def debian_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Debian package, built from the checkout as `make deb` does, or the one that DCD_PACKAGE names."""
    if given := os.environ.get("DCD_PACKAGE"):
        return Path(given)
    for tool in ("dpkg-buildpackage", "dh"):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")
    own = tmp_path_factory.getbasetemp()
    # One for all processes of the run.
    out = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "deb"
    script = Path(__file__).parents[1] / "packaging" / "build-deb.sh"
    directory = os.open(script.parent, os.O_RDONLY)
    try:
        # It may install what it builds with, and apt has one lock for the host.
        fcntl.flock(directory, fcntl.LOCK_EX)
        if not list(out.glob("dcd_*.deb")):
            command = [script, Path(sys.executable).parent, out]
            # lxml is compiled: without optimization in a third of the time. dpkg-deb(1) reads the level.
            environment = {**os.environ, "CFLAGS": "-O0", "DPKG_DEB_COMPRESSOR_LEVEL": "1"}
            result = subprocess.run(command, capture_output=True, text=True, env=environment)
            assert result.returncode == 0, result.stderr
    finally:
        os.close(directory)
    (built,) = out.glob("dcd_*.deb")
    return built


WriteManifest = Callable[..., Path]


@pytest.fixture
def write_manifest(tmp_path: Path) -> WriteManifest:
    """Writes a manifest whose checkpoints are custom scripts, each (name, shell line), which may write to
    the test's directory, and with `mounts` may mount."""

    def write(*checkpoints: tuple[str, str], name: str = "small", mounts: bool = False) -> Path:
        if mounts and os.environ.get(WORKER) == "portable":
            pytest.skip(f"{NO_PACKAGE_HELPS} has portable workers, which mount nothing")
        rights = {"writes": tmp_path} | (
            {"capabilities": "SYS_ADMIN", "devices": "*"} if mounts else {}
        )
        arguments = "".join(
            f'<arglist name="{right}"><argitem>{value}</argitem></arglist>'
            for right, value in rights.items()
        )
        steps = "\n".join(
            f'<checkpoint name="{checkpoint}" mod_path="dcd/checkpoints/custom_script"'
            f' checkpoint_class="CustomScript"><args>{escape(line)}</args>'
            f"<kwargs>{arguments}</kwargs></checkpoint>"
            for checkpoint, line in checkpoints
        )
        path = tmp_path / f"{name}.xml"
        path.write_text(
            f'<dc><distro name="{name}"><execution>\n{steps}\n</execution></distro></dc>\n'
        )
        return path

    return write


@pytest.fixture(scope="session")
def own_mounts() -> None:
    """A mount namespace of this test process's own, as a worker has one; it ends with the process."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_namespace, recursive_slave = 0x00020000, 0x4000 | 0x80000
    if libc.unshare(new_namespace) != 0:
        pytest.skip("this host gives no right to make a mount namespace")
    # As a worker's: what others unmount goes here too, and is not kept busy.
    assert libc.mount(b"none", b"/", None, recursive_slave, None) == 0


@pytest.fixture(scope="session")
def zfs_fuse(own_mounts: None) -> Iterator[None]:
    """A zfs-fuse of this test process's own: its socket, its lock and its cache of pools have fixed
    places, and what it mounts is seen, and kept busy, by nobody else."""
    if shutil.which("zfs-fuse") is None:
        pytest.skip("zfs-fuse is not installed")
    for place in ("/run/zfs", "/run/lock/zfs", "/var/lib/zfs"):
        Path(place).mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    command = ["setpriv", "--pdeathsig", "KILL", "zfs-fuse", "--no-daemon", "--no-kstat-mount"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as daemon:
        deadline = time.monotonic() + PROMPT_SECONDS
        while subprocess.run(["zpool", "list"], capture_output=True).returncode != 0:
            assert daemon.poll() is None, "zfs-fuse has ended"
            assert time.monotonic() < deadline, "zfs-fuse does not answer"
            time.sleep(0.05)
        yield
        daemon.kill()
