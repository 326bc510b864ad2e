"""Attempts run by `run_attempt` for real, with checkpoints made for the purpose."""

import asyncio
import contextlib
import re
import socket
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dcd.worker.launch import Ending, run_attempt
from dcd.worker.messages import Claim, Completed, Outcome, Progress
from dcd.worker.recover import detach_loops, kill_leftovers
from dcd.worker.request import Grants, WorkerRequest
from store.host.capabilities import MOUNTS
from store.host.devices import ALL_DEVICES
from store.layers.directory import LayerDirectory
from store.layers.overlay import OverlayTrees
from store.layers.trees import Trees
from tests.launching import starting

PROBES = '''
"""Checkpoints for tests."""

import os, signal, time
from pathlib import Path
from dcd.checkpoints.interface import Checkpoint, Context, Report
from dcd.checkpoints.transfer.deb_store import leave_store
from dcd.manifest.doc import DataObjectDict
from dcd.platform.chroot import chroot
from statemachine.errors import CheckpointError
from statemachine.results import Artifact
from store.host.mounts import bind, unmount


class Delivers(Checkpoint):
    """Uses every way of handing something on."""

    def execute(self, context: Context) -> None:
        (context.tmp / "scratch").mkdir()
        (context.tmp / "scratch" / "file").write_text("x")
        (context.media / "image.iso").write_text("iso")
        context.report(Report(0.5, "half \\udcff done"))
        context.deliver(Artifact("image.iso", "media/image.iso", "iso", 3, "0" * 64))
        (context.evidence / "console.log").write_text("booted")
        context.doc.persistent.insert_children([DataObjectDict("made", {"by": self.name})])


class Hands(Checkpoint):
    """Shows what it was handed."""

    def execute(self, context: Context) -> None:
        made = context.doc.persistent.get_first_child("made", DataObjectDict)
        print("the persistent part says", made["by"], flush=True)
        print("input", context.inputs["/captured"].read_text(), flush=True)
        print("areas", sorted(path.name for path in context.root.iterdir()), flush=True)
        print("scratch", list(context.tmp.iterdir()), flush=True)
        context.run(["sh", "-c", "echo the environment says $WHAT"])


class Stores(Checkpoint):
    """Uses the package store: reads one, keeps one, and tries to change it; then leaves it."""

    def execute(self, context: Context) -> None:
        store = context.packages
        try:
            (store.kept / "planted").write_text("x")
        except OSError as error:
            print("written:", error.strerror, flush=True)
        for sha256 in [path.name for path in store.kept.iterdir()]:
            print("copied:", store.copy(sha256, context.tmp / "copy.deb"), flush=True)
        (context.tmp / "new.deb").write_bytes(b"new")
        store.keep(context.tmp / "new.deb")
        leave_store(context)
        for place in (store.kept, store.incoming):
            print("left:", list(place.iterdir()), flush=True)


class Refuses(Checkpoint):
    def execute(self, context: Context) -> None:
        raise CheckpointError("it cannot be", "because", "do something else")


class Breaks(Checkpoint):
    def execute(self, context: Context) -> None:
        raise KeyError("odd")


class MakesTwice(Checkpoint):
    """Makes a directory that is there, as one that an earlier checkpoint of its class left would be."""

    def execute(self, context: Context) -> None:
        (context.pkg_image / "made").mkdir()
        (context.pkg_image / "made").mkdir()


class Tells(Checkpoint):
    """Says a tool's line, and one of its own; has packages change after their list was delivered."""

    def execute(self, context: Context) -> None:
        status = context.pkg_image / "var/lib/dpkg/status"
        status.parent.mkdir(parents=True)
        status.write_text("Package: new\\nStatus: install ok installed\\nVersion: 1\\n")
        (context.media / "packages.tsv").write_text("old\\t1\\tamd64\\n")
        context.report(Report(0.1, "of a tool", logged=True))
        context.report(Report(0.2, "of its own"))


class FillsTheDisk(Checkpoint):
    def execute(self, context: Context) -> None:
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise CheckpointError("it could not write") from error


class Dies(Checkpoint):
    def execute(self, context: Context) -> None:
        print("last words", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


class Runs(Checkpoint):
    """Runs a command; `ROOT` in it is the workspace."""

    def __init__(self, name: str, command: str) -> None:
        super().__init__(name)
        self.command = command

    def execute(self, context: Context) -> None:
        self.evidence = context.evidence
        (context.evidence / "started").write_text("")
        context.report(Report(message="started"))
        context.run(["sh", "-ec", self.command.replace("ROOT", str(context.root))])

    def cancel(self) -> None:
        (self.evidence / "cancelled").write_text("")


class Claims(Checkpoint):
    """Claims something, then makes it."""

    def execute(self, context: Context) -> None:
        context.report(Report(message="claiming"))
        context.claim("iscsi-tgt", context.attempt)
        (context.evidence / "made").write_text("")


class ClaimsTheUnknown(Checkpoint):
    def execute(self, context: Context) -> None:
        context.claim("perpetual motion", "one")


class Enters(Checkpoint):
    """Runs a command inside an image that has the host's programs."""

    def __init__(self, name: str, command: str) -> None:
        super().__init__(name)
        self.command = command

    def execute(self, context: Context) -> None:
        for name in ("usr", "bin", "sbin", "lib", "lib64"):
            source, target = Path("/", name), context.pkg_image / name
            if source.is_symlink():
                target.symlink_to(source.readlink())
            else:
                target.mkdir()
                bind(source, target)
        with chroot(context.pkg_image) as inside:
            inside.run(["sh", "-ec", self.command])
        unmount(context.pkg_image / "usr")


class Stubborn(Checkpoint):
    """Takes no notice of being asked."""

    def execute(self, context: Context) -> None:
        context.report(Report(message="started"))
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass
'''

MOUNTING = Grants(capabilities=MOUNTS, devices=(ALL_DEVICES,))
"""For probes that mount."""

MANIFEST = '<dc><distro name="probe"><execution/></distro></dc>'


@dataclass
class Bench:
    """A state directory with layers, and attempts in it."""

    directory: Path
    store: LayerDirectory
    state_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    progress: list[Progress] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    attempts: int = 0

    def request(
        self, probe: str, *args: str, parent: str | None = None, **more: Any
    ) -> WorkerRequest:
        """An attempt at the checkpoint class `probe`."""
        self.attempts += 1
        evidence = self.directory / f"evidence{self.attempts}"
        evidence.mkdir()
        return WorkerRequest(
            state_id=self.state_id,
            build="build",
            checkpoint="probe",
            attempt=self.attempts,
            mod_path="dcd_test_probes",
            checkpoint_class=probe,
            manifest=MANIFEST,
            layers=self.directory / "layers",
            workspace=self.store.begin(parent, f"a{self.attempts}"),
            evidence=evidence,
            args=args,
            allowed=("dcd_test_probes",),
            **more,
        )

    def run(
        self,
        request: WorkerRequest,
        *,
        stop_at: str | None = None,
        grace_seconds: float = 20.0,
        before: Callable[[], None] = lambda: None,
    ) -> Outcome:
        """Run it to its end; with `stop_at`, ask it to stop when it reports that message, and do something
        before."""
        ending = self.end(request, stop_at=stop_at, grace_seconds=grace_seconds, before=before)
        return ending.outcome

    def end(
        self,
        request: WorkerRequest,
        *,
        stop_at: str | None = None,
        grace_seconds: float = 20.0,
        before: Callable[[], None] = lambda: None,
    ) -> Ending:
        """As `run`, with all that is known of the end."""

        async def attempt() -> Ending:
            stop = asyncio.Event()

            def note(progress: Progress) -> None:
                self.progress.append(progress)
                if progress.message == stop_at:
                    before()
                    stop.set()

            return await run_attempt(
                self.starting(request),
                checkpoint=request.checkpoint,
                log_path=self.log(request),
                on_progress=note,
                on_claim=self.claimed,
                stop=stop,
                grace_seconds=grace_seconds,
            )

        return asyncio.run(attempt())

    def starting(self, request: WorkerRequest) -> Callable[[int], socket.socket]:
        """What starts the worker of a request."""
        return starting(request, self.log(request))

    async def claimed(self, claim: Claim) -> None:
        """Take note of a claim."""
        self.claims.append(claim)

    def log(self, request: WorkerRequest) -> Path:
        return self.directory / "logs" / f"{request.attempt}.log"

    def output(self, request: WorkerRequest) -> str:
        """What the attempt's tools printed: its log without what the checkpoint itself said."""
        lines = self.log(request).read_text().splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith("# "))


def said(bench: Bench, command: str, *, probe: str = "Runs", **more: object) -> str:
    """What a command that may fail prints, each line of it."""
    request = bench.request(probe, f"({command}) 2>&1 || true", **more)
    outcome = bench.run(request)
    assert isinstance(outcome, Completed), (outcome, bench.log(request).read_text())
    return bench.output(request)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    # Long: the kernel keeps 63 bytes of a loop device's file name.
    directory = tmp_path / "a-directory-with-a-name-that-is-rather-long-but-not-too-long"
    directory.mkdir()
    with bench_in(directory, OverlayTrees(), monkeypatch) as bench:
        yield bench


@contextlib.contextmanager
def bench_in(directory: Path, trees: Trees, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A bench in a directory, with layers of that kind."""
    (directory / "dcd_test_probes.py").write_text(PROBES)
    monkeypatch.syspath_prepend(directory)
    (directory / "layers").mkdir()
    store = LayerDirectory(directory / "layers" / trees.name, trees)
    store.prepare()
    bench = Bench(directory, store)
    try:
        yield bench
    finally:
        sys.modules.pop("dcd_test_probes", None)
        kill_leftovers(f"{bench.state_id}:")
        detach_loops(directory / "layers")


def processes_with(word: str) -> list[int]:
    """Every process on the host that has the word in its command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if word.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def mounts_below(directory: Path) -> list[str]:
    """Everything mounted below a directory in the host's namespace."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in mounts if re.search(rf" {re.escape(str(directory))}/", line)]


def loops_on(name: str) -> list[str]:
    """Loop devices on a file of that name, wherever the kernel thinks it is."""
    files = Path("/sys/block").glob("loop*/loop/backing_file")
    return [str(file) for file in files if Path(file.read_text().strip()).name == name]
