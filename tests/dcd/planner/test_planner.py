"""Planners: processes that answer one question, within bounds, and leave nothing behind."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dcd.configuration import Configuration
from dcd.manifest.diagnostics import ManifestError
from dcd.manifest.inputs import InputsMissing
from dcd.planner import client
from dcd.planner.client import ClientLeft, Planner
from dcd.planner.rules import Rules
from dcd.planner.tasks import (
    CHECK,
    FIND,
    PLAN,
    PREVIEW,
    Captured,
    InDocument,
    Manifest,
)
from statemachine.errors import (
    PermissionDenied,
    TooManyRequests,
    Unavailable,
    Unprepared,
    UsageError,
)
from statemachine.events import Actor

pytestmark = pytest.mark.slow

ADA, BOB = Actor(uid=70001, gid=1, pid=1, user="ada"), Actor(uid=70002, gid=1, pid=2, user="bob")

SCRIPT = """<checkpoint name="{0}" mod_path="dcd/checkpoints/custom_script"
 checkpoint_class="CustomScript"><args>true</args><kwargs>{1}</kwargs></checkpoint>"""
INSIDE = '<arg name="chroot">true</arg>'


def manifest(steps: str, more: str = "", **other: Any) -> Manifest:
    text = f'<dc><distro name="small">{more}<execution>{steps}</execution></distro></dc>'
    return Manifest(text, "/home/ada/small.xml", Rules(), **other)


SMALL = manifest(SCRIPT.format("one", INSIDE))


@pytest.fixture
def planner() -> Iterator[Planner]:
    with Planner(Configuration) as running:
        yield running


@pytest.fixture
def silent_mirror() -> Iterator[tuple[Manifest, list[socket.socket]]]:
    """A manifest whose repository takes connections and never answers, and its connections."""
    connections: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepting = threading.Thread(target=_accept, args=(server, connections), daemon=True)
        accepting.start()
        port = server.getsockname()[1]
        source = (
            '<software name="t" type="DEB"><source><repository suite="stable" '
            f'uri="http://127.0.0.1:{port}/debian"/></source></software>'
        )
        step = (
            '<checkpoint name="t" mod_path="dcd/checkpoints/transfer/deb" '
            'checkpoint_class="TransferDEB"/>'
        )
        yield manifest(step, source), connections
        server.shutdown(socket.SHUT_RDWR)
    for connection in connections:
        connection.close()


def _accept(server: socket.socket, connections: list[socket.socket]) -> None:
    while True:
        try:
            connections.append(server.accept()[0])
        except OSError:
            return


def children(process: int) -> list[int]:
    found = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for path in found for child in path.read_text().split()]


def until(happened: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def forker(planner: Planner) -> int:
    """The process from which planners are forked: root starts it in namespaces of its own."""
    assert planner._forker is not None
    started = planner._forker.process.process.pid
    if os.geteuid() != 0:
        return started
    until(lambda: children(started))
    return children(started)[0]


def kill_forker(planner: Planner) -> None:
    assert planner._forker is not None
    os.kill(forker(planner), signal.SIGKILL)
    planner._forker.process.process.wait(30)


async def happened(what: Callable[[], object], seconds: float = 30.0) -> None:
    await asyncio.to_thread(until, what, seconds)


def test_a_plan_comes_back_as_it_was_made(planner: Planner) -> None:
    planned = asyncio.run(planner.ask(PLAN, SMALL, ADA))
    assert planned.name == "small"
    assert [checkpoint.name for checkpoint in planned.plan.checkpoints] == ["one"]
    assert planned.plan.checkpoints[0].kwargs == {"chroot": "true"}
    assert "<checkpoint" in planned.canonical


def test_errors_come_back_as_what_they_are(planner: Planner) -> None:
    with pytest.raises(ManifestError) as refused:
        asyncio.run(planner.ask(CHECK, replace(SMALL, text="<dc><a/></dc>"), ADA))
    said = [found.message for found in refused.value.diagnostics]
    assert said == ["<dc> needs <distro>", "there is no element <a>"]
    script = SCRIPT.replace("<args>true</args>", "").format(
        "one", f'{INSIDE}<arg name="script">s.sh</arg>'
    )
    with pytest.raises(InputsMissing) as missing:
        asyncio.run(planner.ask(CHECK, manifest(script), ADA))
    assert [wanted.path for wanted in missing.value.missing] == ["/home/ada/s.sh"]
    with pytest.raises(UsageError):
        asyncio.run(planner.ask(FIND, InDocument("<dc/>", None, "no path", True), ADA))


def test_a_captured_file_is_read_only_when_it_is_a_regular_file(
    tmp_path: Path,
) -> None:
    (tmp_path / "blobs").mkdir()
    os.mkfifo(tmp_path / "blobs/fifo")
    include = '<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="part.xml"/>'
    files = {"/home/ada/part.xml": Captured("0" * 64, 0o644, tmp_path / "blobs/fifo")}
    settings = Configuration(state_dir=tmp_path)
    with (
        Planner(lambda: settings) as planner,
        pytest.raises(ManifestError, match=r"part\.xml cannot be read: not a regular file"),
    ):
        asyncio.run(planner.ask(CHECK, manifest("", include, files=files), ADA))


def test_nothing_that_a_manifest_names_is_opened_without_the_right(
    planner: Planner, public_path: Path
) -> None:
    fifo = public_path / "shell"
    os.mkfifo(fifo, 0o644)
    asking = manifest(SCRIPT.format("one", f'<arg name="shell">{fifo}</arg>'))
    for task in (PLAN, PREVIEW):
        with pytest.raises(PermissionDenied, match="one would run code on the host"):
            asyncio.run(planner.ask(task, asking, ADA))
    # With the right it is looked at, and not waited for.
    trusted = replace(asking, host_code=True)
    with pytest.raises(Unprepared, match="not a regular file"):
        asyncio.run(planner.ask(PLAN, trusted, ADA))
    (seen,) = asyncio.run(planner.ask(PREVIEW, trusted, ADA)).rest
    assert seen.action == "unknown"
    assert str(fifo) in seen.reason
    with pytest.raises(OSError, match="No such device or address"):  # nobody reads it
        os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)


def test_a_user_has_one_manifest_read_at_a_time_and_others_do_not_wait_for_it(
    planner: Planner, silent_mirror: tuple[Manifest, list[socket.socket]]
) -> None:
    waiting, connections = silent_mirror

    async def asked() -> tuple[bool, str]:
        first = asyncio.ensure_future(planner.ask(PLAN, waiting, ADA))
        await happened(lambda: connections)
        second = asyncio.ensure_future(planner.ask(CHECK, SMALL, ADA))
        other = await asyncio.wait_for(planner.ask(PLAN, SMALL, BOB), 30)
        done = second.done()
        assert len(children(forker(planner))) == 1
        for asking in (second, first):
            asking.cancel()
        await asyncio.wait({first, second})
        return done, other.name

    assert asyncio.run(asked()) == (False, "small")


def test_who_has_left_is_not_planned_for(
    planner: Planner, silent_mirror: tuple[Manifest, list[socket.socket]]
) -> None:
    waiting, connections = silent_mirror

    async def asked() -> None:
        left = asyncio.Event()
        asking = asyncio.ensure_future(planner.ask(PLAN, waiting, ADA, left.wait))
        await happened(lambda: connections)
        left.set()
        with pytest.raises(ClientLeft):
            await asking
        await happened(lambda: children(forker(planner)) == [])

    asyncio.run(asked())
    # What it had started is gone too: the mirror sees the end of the connection.
    connections[0].settimeout(30)
    while connections[0].recv(65536):
        pass


def test_a_manifest_has_its_seconds_and_no_more(
    silent_mirror: tuple[Manifest, list[socket.socket]],
) -> None:
    waiting, _ = silent_mirror
    with Planner(lambda: Configuration(planning_seconds=3.0)) as planner:
        with pytest.raises(Unprepared, match="took too long to read and plan"):
            asyncio.run(planner.ask(PLAN, waiting, ADA))
        until(lambda: children(forker(planner)) == [])


def test_whoever_waits_too_long_for_a_turn_is_asked_to_come_back(
    silent_mirror: tuple[Manifest, list[socket.socket]],
) -> None:
    waiting, _ = silent_mirror
    with Planner(lambda: Configuration(planning_seconds=2.0)) as planner:

        async def asked() -> list[Any]:
            both = [planner.ask(PLAN, waiting, ADA) for _ in range(3)]
            return await asyncio.gather(*both, return_exceptions=True)

        outcomes = asyncio.run(asked())
    assert {type(outcome) for outcome in outcomes} >= {TooManyRequests}
    assert {type(outcome) for outcome in outcomes} <= {TooManyRequests, Unprepared}


def test_a_manifest_that_takes_too_much_memory_is_refused() -> None:
    many = manifest(SCRIPT.format("one", INSIDE), "<software/>" * 40_000)
    with (
        Planner(lambda: Configuration(planning_memory_bytes=48 * 2**20)) as planner,
        pytest.raises(Unprepared, match=r"too much memory|ended without an answer"),
    ):
        asyncio.run(planner.ask(CHECK, many, ADA))


def test_the_daemon_goes_on_when_the_process_that_forks_planners_dies(planner: Planner) -> None:
    assert asyncio.run(planner.ask(PLAN, SMALL, ADA)).name == "small"
    kill_forker(planner)
    assert asyncio.run(planner.ask(PLAN, SMALL, ADA)).name == "small"


def test_a_question_is_asked_again_once_when_that_process_dies_before_the_answer(
    planner: Planner, silent_mirror: tuple[Manifest, list[socket.socket]]
) -> None:
    waiting, connections = silent_mirror

    async def ask() -> None:
        asking = asyncio.ensure_future(planner.ask(PLAN, waiting, ADA))
        for times in (1, 2):
            await happened(lambda times=times: len(connections) >= times)  # type: ignore[misc]
            await asyncio.to_thread(kill_forker, planner)
        with pytest.raises(Unprepared, match="ended without an answer"):
            await asking

    asyncio.run(ask())


def test_a_planner_that_ends_without_a_word_ends_no_other(
    planner: Planner, silent_mirror: tuple[Manifest, list[socket.socket]]
) -> None:
    """As one would that was taken over."""
    waiting, connections = silent_mirror

    async def silent(*_: object) -> None:
        raise client._ForkerDied

    async def ask() -> None:
        other = asyncio.ensure_future(planner.ask(PLAN, waiting, ADA))
        await happened(lambda: connections)
        before = forker(planner)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(client, "_conversation", silent)
            with pytest.raises(Unprepared, match="ended without an answer"):
                await planner.ask(PLAN, SMALL, BOB)
        assert forker(planner) == before
        assert not other.done()
        other.cancel()
        await asyncio.gather(other, return_exceptions=True)

    asyncio.run(ask())


@pytest.mark.parametrize("dies", [False, True], ids=["asked", "started again"])
def test_want_of_files_is_reported_and_passes(planner: Planner, no_file_left, dies: bool) -> None:
    async def ask() -> None:
        assert (await planner.ask(PLAN, SMALL, ADA)).name == "small"
        if dies:
            kill_forker(planner)
        with (
            no_file_left(),
            pytest.raises(Unavailable, match="too many files open") as refused,
        ):
            await planner.ask(PLAN, SMALL, ADA)
        assert "LimitNOFILE" in refused.value.resolution
        assert (await planner.ask(PLAN, SMALL, ADA)).name == "small"

    asyncio.run(ask())


def test_a_planner_that_cannot_be_started_again_is_started_for_a_later_question(
    planner: Planner, no_file_left
) -> None:
    async def ask() -> None:
        await planner.ask(PLAN, SMALL, ADA)
        planner.__exit__()  # as after its death
        with no_file_left(), pytest.raises(Unavailable, match="cannot be read now"):
            planner.__enter__()
        assert (await planner.ask(PLAN, SMALL, ADA)).name == "small"

    asyncio.run(ask())


def test_planners_end_with_the_daemon(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from dcd.configuration import Configuration\n"
        "from dcd.planner.client import Planner\n"
        "with Planner(Configuration) as planner:\n"
        "    print(planner._forker.process.process.pid, flush=True)\n"
        "    time.sleep(1000)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout is not None
        started = int(daemon.stdout.readline())
        until(lambda: os.geteuid() != 0 or children(started))
        chain = [started, *children(started)]
        daemon.kill()
    for process in chain:
        until(partial(_is_zombie, process))


def _is_zombie(process: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return True
