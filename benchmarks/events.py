"""(c) Durable appends; (d) dcctl on short and long lists; (e) starting with a long history."""

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from benchmarks.daemon import Daemon, daemon
from benchmarks.figure import Figure
from benchmarks.history import completed, halfway, interrupted, write_history
from benchmarks.rounds import Rounds
from statemachine.codec import encode
from statemachine.events import Actor, ArtifactPublished, BuildPaused, Payload
from statemachine.results import Artifact
from store.eventlog import SqliteLog

APPENDS = 1000
TOGETHER = 50
ENDED_BUILDS = 10_000
CHECKPOINTS = 49
"""Of each ended build in the long history: 101 events, so a million in all."""
UNFINISHED_BUILDS = 1_000
INTERRUPTED = 2
"""As many of them as run at once."""
MOST_RECOVERY_SECONDS = 5.0
MOST_CLIENT_SECONDS = 0.1
STARTS = 10


def appends(scratch: Path, rounds: Rounds) -> Iterator[Figure]:
    """(c): one event a commit, each waited for, beside what the disk and SQLite can do."""
    payload = BuildPaused("the disk is nearly full; the build goes on when there is space")
    line = encode(payload).encode().ljust(512, b"\n")
    rates: dict[str, list[float]] = {"fdatasync": [], "SQLite": [], "event log": [], "together": []}
    for number in rounds:
        rates["fdatasync"].append(_raw_writes(scratch / f"raw-{number}", line))
        rates["SQLite"].append(_raw_commits(scratch / f"raw-{number}.db", line.decode()))
        rates["event log"].append(_appends(scratch / f"log-{number}.db", 1))
        rates["together"].append(_appends(scratch / f"group-{number}.db", TOGETHER))
    yield Figure("write of 512 bytes and fdatasync", "/s", tuple(rates["fdatasync"]))
    yield Figure("SQLite alone, WAL and FULL, one row a commit", "/s", tuple(rates["SQLite"]))
    yield Figure("event log, one event waited for", "/s", tuple(rates["event log"]))
    yield Figure(
        f"event log, {TOGETHER} builds at once",
        "/s",
        tuple(rates["together"]),
        note="shared commits",
    )


def listing(scratch: Path, rounds: Rounds) -> Iterator[Figure]:
    """(d): dcctl's whole run, Python's start with it."""
    times = max(rounds.most, STARTS)
    for builds in (10, ENDED_BUILDS):
        directory = scratch / f"list-{builds}"
        (directory / "state").mkdir(parents=True)
        write_history(directory / "state/events.db", builds, partial(completed, checkpoints=6))
        with daemon(directory) as running:
            yield Figure(
                f"dcctl list, {builds:,} builds", "s", _timed(times, lambda: running.ctl("list"))
            )
            if builds == ENDED_BUILDS:
                yield Figure(
                    f"dcctl list --all, {builds:,} builds",
                    "s",
                    _timed(rounds.most, lambda: running.ctl("list", "--all")),
                )
                version = _timed(times, lambda: running.ctl("version"))
                yield Figure("dcctl version", "s", version)
    yield Figure("dcctl --help", "s", _timed(times, _help), most=MOST_CLIENT_SECONDS)
    yield Figure("python -c pass", "s", _timed(times, _nothing), note="what nobody can go below")


def start(scratch: Path, rounds: Rounds) -> Iterator[Figure]:
    """(e): from the start of the process until the daemon answers."""
    empty = scratch / "empty"
    yield Figure("start with an empty log", "s", tuple(_starts(empty, rounds)))
    long = scratch / "long"
    (long / "state").mkdir(parents=True)
    began = time.monotonic()
    count = write_history(
        long / "state/events.db", ENDED_BUILDS, partial(completed, checkpoints=CHECKPOINTS)
    )
    rate = count / (time.monotonic() - began)
    yield Figure("making the long history", "events/s", (rate,), note="many to a commit")
    yield Figure(
        f"start with {ENDED_BUILDS:,} ended builds and {count:,} events",
        "s",
        tuple(_starts(long, rounds)),
        most=MOST_RECOVERY_SECONDS,
    )
    ready, again = [], []
    for number in rounds:
        directory = scratch / f"unfinished-{number}"
        (directory / "state").mkdir(parents=True)
        write_history(directory / "state/events.db", UNFINISHED_BUILDS, _unfinished)
        began = time.monotonic()
        with daemon(directory) as running:
            ready.append(running.start_seconds)
            _wait_until_recovered(running)
            again.append(time.monotonic() - began)
    what = f"{UNFINISHED_BUILDS:,} unfinished builds"
    yield Figure(f"start with {what}", "s", tuple(ready), most=MOST_RECOVERY_SECONDS)
    yield Figure(
        f"start with {what}, until the {INTERRUPTED} interrupted ones run again",
        "s",
        tuple(again),
        most=MOST_RECOVERY_SECONDS,
    )


def _raw_writes(path: Path, line: bytes) -> float:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def write() -> None:
        os.write(descriptor, line)
        os.fdatasync(descriptor)

    try:
        return _rate(write)
    finally:
        os.close(descriptor)


def _raw_commits(path: Path, line: str) -> float:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE lines (position INTEGER PRIMARY KEY, line TEXT NOT NULL)")
        return _rate(lambda: connection.execute("INSERT INTO lines (line) VALUES (?)", (line,)))
    finally:
        connection.close()


def _appends(path: Path, together: int) -> float:
    """Events a second when `together` builds each append one event at a time and wait for it."""
    actor, now = Actor(), datetime.now(UTC)
    artifact = Artifact("image.iso", "/artifacts/image.iso", "iso", 1, "0" * 64)
    with SqliteLog(path) as log:
        for number in range(together):
            log.append(f"build-{number}", 0, completed(number, 6)[:1], actor, now).result()
        sequence = 1

        def append() -> None:
            nonlocal sequence
            pending = [
                log.append(f"build-{number}", sequence, [ArtifactPublished(artifact)], actor, now)
                for number in range(together)
            ]
            for future in pending:
                future.result()
            sequence += 1

        return _rate(append) * together


def _rate(action: Callable[[], object]) -> float:
    """How often a second the action can be done."""
    began = time.monotonic()
    for _ in range(APPENDS):
        action()
    return APPENDS / (time.monotonic() - began)


def _timed(times: int, action: Callable[[], object]) -> tuple[float, ...]:
    found = []
    for _ in range(times):
        began = time.monotonic()
        action()
        found.append(time.monotonic() - began)
    return tuple(found)


def _starts(directory: Path, rounds: Rounds) -> Iterator[float]:
    for _ in range(rounds.most):
        with daemon(directory) as running:
            yield running.start_seconds


def _unfinished(number: int) -> list[Payload]:
    return (interrupted if number < INTERRUPTED else halfway)(number, checkpoints=8)


def _wait_until_recovered(running: Daemon) -> None:
    """Until each interrupted build runs its second attempt. Every build must be in a list."""
    while True:
        states = [running.json("status", f"build-{number:06}") for number in range(INTERRUPTED)]
        firsts = [state["checkpoints"][0] for state in states]
        if all((first["state"], first["attempts"]) == ("running", 2) for first in firsts):
            break
        if any(state["state"] != "running" for state in states):
            raise RuntimeError(f"an interrupted build does not go on: {states}")
        time.sleep(0.05)
    waiting = running.json("list", "--all", "--state", "queued")
    if len(waiting) != UNFINISHED_BUILDS - INTERRUPTED:
        raise RuntimeError(f"{len(waiting)} builds are queued")


def _nothing() -> None:
    subprocess.run([sys.executable, "-c", "pass"], check=True)


def _help() -> None:
    subprocess.run(
        [Path(sys.executable).with_name("dcctl"), "--help"], check=True, stdout=subprocess.DEVNULL
    )
