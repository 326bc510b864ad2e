"""Fault tests: a daemon that dies where it is told to, and a witness of what it had promised.

The witness talks to the daemon as a client, remembers every event that it was shown, and, when the
daemon is dead or all is done, says in what the state directory differs from the promises of
docs/promises.md. DCD_SOAK=1 makes the suites exhaustive; DCD_SEED repeats the random ones.
"""

import os
import random
import re
import shutil
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cli import client
from statemachine.errors import DcdError, NotFound
from statemachine.machine import BuildMachine
from store.eventlog import EventLog, SqliteLog
from tests.forking import Fault, Zygote

HERE = Path(__file__).parent
SOAK = os.environ.get("DCD_SOAK") == "1"


@pytest.fixture(scope="session")
def soak() -> bool:
    """Whether to test at length."""
    return SOAK


@pytest.fixture
def chance() -> random.Random:
    """Random numbers whose seed is shown when the test fails."""
    seed = int(os.environ.get("DCD_SEED", time.time_ns() % 1_000_000))
    print(f"DCD_SEED={seed}")
    return random.Random(seed)


@pytest.fixture(scope="session")
def injector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled inject.c."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("faults at exact calls need a C compiler: apt-get install gcc libc6-dev")
    library = tmp_path_factory.mktemp("inject") / "inject.so"
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-D_LARGEFILE64_SOURCE"]
    subprocess.run([compiler, *flags, "-o", library, HERE / "inject.c", "-ldl"], check=True)
    return library


@pytest.fixture(scope="session")
def frail_zygote(injector: Path) -> Iterator[Zygote]:
    """A process that forks daemons and their launchers, with faults and defects."""
    zygote = Zygote(LD_PRELOAD=str(injector))
    yield zygote
    zygote.end()


@pytest.fixture
def zygote(frail_zygote: Zygote) -> Iterator[Zygote]:
    """That process, without what the test before wanted."""
    frail_zygote.fault = frail_zygote.defect = None
    yield frail_zygote


@pytest.fixture
def frail(zygote: Zygote, cold_daemon: Any) -> Any:
    """A daemon that is not started, and will be forked."""
    cold_daemon.launch = zygote.launch
    return cold_daemon


_WORKSPACE = re.compile(r"/\.work/([a-z0-9]+)\.(\d+)\.(\d+)/")


@dataclass
class Witness:
    """See the module. What it finds wrong it returns as a list of texts."""

    daemon: Any
    effects: Path
    shown: dict[str, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))
    """By build, what was acknowledged: position to hash."""
    patience_seconds: float = 20.0
    """How long what a dead daemon started may take to end."""

    def clear(self) -> None:
        """Begin on nothing."""
        shutil.rmtree(self.daemon.state_dir, ignore_errors=True)
        self.effects.unlink(missing_ok=True)
        self.shown.clear()

    def step(self, name: str, line: str = "true") -> tuple[str, str]:
        """A checkpoint for `write_manifest` whose runs leave marks outside of the workspace."""
        mark = f"{name} {{BUILD_DATA}}/ >> {self.effects}"
        return name, f"echo begin {mark}; {line} && echo end {mark}"

    def ask(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """A request to the daemon. Raises cli.client.ClientError."""
        return client.request(
            str(self.daemon.socket), method, f"/v1{path}", body=body, query=query or None
        )

    def submit(self, manifest: Path, **options: Any) -> str:
        """Submit; the answer is an acknowledgement."""
        body = {"manifest": {"path": str(manifest), "text": manifest.read_text()}, **options}
        build = str(self.ask("POST", "/builds", body)["id"])
        self.shown[build].setdefault(0, "")
        return build

    def look(self) -> dict[str, dict[str, Any]]:
        """Take note of all new events; returns the builds as the daemon shows them."""
        found = {}
        for build, known in self.shown.items():
            after = max(known, default=0)
            while True:
                page = self.ask("GET", f"/builds/{build}/events", after=after)["events"]
                if not page:
                    break
                known.update((event["position"], event["hash"]) for event in page)
                after = page[-1]["position"]
            found[build] = self.ask("GET", f"/builds/{build}")
        return found

    def until(self, *states: str, seconds: float = 90.0) -> dict[str, dict[str, Any]]:
        """Look until every build is in one of the states."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.look()
            if all(build["state"] in states for build in found.values()):
                return found
            if time.monotonic() > deadline:
                pytest.fail(f"not {states}: {found}\n{self.daemon.log.read_text()[-4000:]}")
            time.sleep(0.02)

    def wait_for_effect(self, text: str, seconds: float = 60.0) -> None:
        """Until a line of the effects begins with `text`."""
        deadline = time.monotonic() + seconds
        while not any(line.startswith(text) for line in self._effect_lines()):
            if time.monotonic() > deadline:
                pytest.fail(f"no {text!r}\n{self.daemon.log.read_text()[-4000:]}")
            time.sleep(0.01)

    def wrong_after_death(self) -> list[str]:
        """What is wrong just after the daemon died, before anything is recovered."""
        return [*self._processes_left(), *self._wrong_in_log()]

    def wrong_at_rest(self) -> list[str]:
        """What is wrong when a daemon runs and no build does."""
        named = set()
        for build in self.shown:
            for event in self._events(build):
                if event["type"] in ("CheckpointCompleted", "CheckpointReused"):
                    named.add(event["data"]["key"])
        kept = {path.name for path in self.daemon.state_dir.glob("layers/*/*") if path.is_dir()}
        kept.discard(".work")
        # Not by a glob: a removed workspace may disappear meanwhile.
        asides = [
            f"{directory}/{name}"
            for place in ("artifacts", "blobs", "layers")
            for directory, directories, files in os.walk(self.daemon.state_dir / place)
            for name in (*directories, *files)
            if name.startswith(".") and "part" in name
        ]
        return [
            *(f"left: {leak}" for leak in self.daemon.leaks()),
            *(f"half-written: {path}" for path in asides),
            *(f"layer {key} is named by no event" for key in kept - named),
            *(f"layer {key} is named by an event, but not there" for key in named - kept),
            *self._wrong_in_effects(),
            *(
                f"{build}: {problem}"
                for build in self.shown
                for problem in self.ask("GET", f"/builds/{build}/events/verify")["problems"]
            ),
        ]

    def _events(self, build: str) -> list[dict[str, Any]]:
        return list(self.ask("GET", f"/builds/{build}/events", limit=1000)["events"])

    def _wrong_in_log(self) -> list[str]:
        source = self.daemon.state_dir / "events/events.db"
        if not source.exists():
            return [f"{build} was acknowledged, but there is no log" for build in self.shown]
        copy = self.daemon.state_dir.parent / "examined"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        # A copy, so that it is the daemon and not this test that recovers the log.
        for name in ("events.db", "events.db-wal"):
            if (file := source.with_name(name)).exists():
                shutil.copyfile(file, copy / name)
        with SqliteLog(copy / "events.db") as log:
            return self._wrong_in(log)

    def _wrong_in(self, log: EventLog) -> list[str]:
        wrong = log.verify_projection()
        positions = [event.position for event in log.read(limit=1_000_000)]
        if positions != list(range(1, len(positions) + 1)):
            wrong.append(f"the positions have gaps: {positions}")
        for build in {event.build for event in log.read(limit=1_000_000)} | set(self.shown):
            wrong += self._wrong_in_build(log, build)
        return wrong

    def _wrong_in_build(self, log: EventLog, build: str) -> list[str]:
        try:
            wrong = [f"{build}: {problem}" for problem in log.verify(build)]
            events = log.read_build(build)
            BuildMachine.rehydrate(events)
        except NotFound:
            return [f"{build} was acknowledged, but is not in the log"]
        except DcdError as error:
            return [f"{build}: {error}"]
        written = {event.position: event.hash for event in events}
        for position, digest in self.shown[build].items():
            if position and written.get(position) != digest:
                wrong.append(f"{build}: acknowledged event {position} is not in the log")
        completed = Counter(e.data.checkpoint for e in events if e.type == "CheckpointCompleted")
        return wrong + [f"{build}: {n} completed twice" for n, c in completed.items() if c > 1]

    def _processes_left(self) -> list[str]:
        deadline = time.monotonic() + self.patience_seconds
        while found := _processes_of(self.daemon.state_dir):
            if time.monotonic() > deadline:
                return [f"process {pid} is left: {what}" for pid, what in found.items()]
            time.sleep(0.02)
        return []

    def _effect_lines(self) -> list[str]:
        return self.effects.read_text().splitlines() if self.effects.exists() else []

    def _wrong_in_effects(self) -> list[str]:
        """Each attempt that had an effect was announced, ran once, and was not followed by another
        once its checkpoint had completed; a completed one ran to its end. Attempts are counted through
        all checkpoints of a build, as their workspaces are."""
        ran: dict[tuple[str, str, int], Counter[str]] = defaultdict(Counter)
        for line in self._effect_lines():
            what, name, place = line.split(" ", 2)
            build, _, attempt = _WORKSPACE.search(place).groups()
            ran[build, name, int(attempt)][what] += 1
        wrong = []
        announced, completed = set(), {}
        for build in self.shown:
            attempts = 0
            for event in self._events(build):
                data = event["data"]
                if event["type"] == "CheckpointStarted":
                    attempts += 1
                    announced.add((build, data["checkpoint"], attempts))
                if event["type"] == "CheckpointCompleted":
                    completed[build, data["checkpoint"]] = attempts
        for (build, name, attempt), counted in ran.items():
            where = f"{build} {name} attempt {attempt}"
            if (build, name, attempt) not in announced:
                wrong.append(f"{where} ran, but no event announced it")
            if max(counted.values()) > 1:
                wrong.append(f"{where} ran {counted}")
            if attempt > completed.get((build, name), attempt):
                wrong.append(f"{where} ran after the checkpoint had completed")
        for (build, name), attempt in completed.items():
            if ran[build, name, attempt] != Counter(begin=1, end=1):
                wrong.append(f"{build} {name} completed, but ran {ran[build, name, attempt]}")
        return wrong


def _processes_of(state_dir: Path) -> dict[int, str]:
    """Processes that have the state directory or its identity in their arguments, environment or
    working directory."""
    identity = state_dir / "id"
    wanted = [str(state_dir).encode()]
    if identity.exists():
        wanted.append(f"DCD_ATTEMPT={identity.read_text()}:".encode())
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or entry.name == str(os.getpid()):
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            if not command:  # a kernel thread or a zombie
                continue
            place = os.fsencode((entry / "cwd").readlink())
            seen = b"\0".join((command, (entry / "environ").read_bytes(), place))
        except OSError:
            continue
        if any(text in seen for text in wanted):
            found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace")
    return found


@pytest.fixture
def witness(frail: Any, tmp_path: Path) -> Witness:
    """The witness of `frail`."""
    return Witness(frail, tmp_path / "effects")


@pytest.fixture
def make_fault() -> Callable[..., Fault]:
    """Makes a Fault."""
    return Fault


@pytest.fixture
def small_disk(frail: Any, tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 MiB of its own for the state directory of `frail`; where it is mounted."""
    image, place = tmp_path / "disk.img", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(200 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    frail.state_dir = place / "state"
    try:
        yield place
    finally:
        if frail.process is not None:
            frail.kill()
            while _processes_of(frail.state_dir):
                time.sleep(0.02)
        subprocess.run(["umount", place], check=True)
