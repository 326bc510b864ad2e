"""A daemon of the benchmarks' own, and dcctl to talk to it: real processes, as users have them."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

READY_SECONDS = 120.0
STOP_SECONDS = 60.0


class Daemon:
    """A running daemon. `start_seconds` is the time from its start until it was ready, `pid` its process."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.state_dir = directory / "state"
        self.socket = directory / "s"
        self.log = directory / "daemon.log"
        self.start_seconds = 0.0
        self.pid = 0

    def ctl(self, *arguments: str | Path) -> str:
        """Run dcctl and return what it printed. Raises CalledProcessError when it fails."""
        return subprocess.run(
            [Path(sys.executable).with_name("dcctl"), *arguments],
            env={**os.environ, "DCD_SOCKET": str(self.socket)},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout

    def json(self, *arguments: str | Path) -> Any:
        """Run dcctl with --json and return its one document."""
        return json.loads(self.ctl(*arguments, "--json"))

    def build(self, manifest: Path, *options: str) -> tuple[dict[str, Any], float]:
        """Submit a manifest, with these options, and follow the build to its end: its status, and the
        seconds from the start of dcctl until the build was complete."""
        started = time.monotonic()
        build = self.ctl("submit", manifest, *options).strip()
        try:
            self.ctl("follow", build)
        except subprocess.CalledProcessError:
            raise RuntimeError(f"the build failed:\n{self.ctl('status', build)}") from None
        seconds = time.monotonic() - started
        return self.json("status", build), seconds


@contextmanager
def daemon(directory: Path, settings: str = "") -> Iterator[Daemon]:
    """A daemon whose state is in `directory`/state, with these further settings; stopped at the end."""
    found = Daemon(directory)
    config = directory / "dcd.toml"
    # What is still running at the end is of no interest.
    config.write_text(f"stop_grace_seconds = 0\n{settings}")
    command = [sys.executable, "-m", "dcd.main", "serve", "--config", str(config)]
    command += ["--state-dir", str(found.state_dir), "--socket", str(found.socket)]
    started = time.monotonic()
    with found.log.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        while b'"event": "ready"' not in found.log.read_bytes():
            if process.poll() is not None or time.monotonic() > started + READY_SECONDS:
                raise RuntimeError(f"the daemon did not start:\n{found.log.read_text()[-3000:]}")
            time.sleep(0.005)
        found.pid = process.pid
        found.start_seconds = time.monotonic() - started
        yield found
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def children_cpu_seconds() -> float:
    """CPU time of all processes that this one has started and waited for, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
