"""Daemons that are forked by `tests/zygote.py` instead of started: a third of the time, the same life."""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pytest

from dcd.worker.marker import PLACEHOLDER
from dcd.worker.request import MARKER

ROOT = Path(__file__).parents[1]
ZYGOTE = Path(__file__).with_name("zygote.py")
COUNTED_TRACE = "points"

FORK_SECONDS = 60.0
"""The longest time to wait for an answer to the request for a process."""

FOR_WORKERS = {MARKER: PLACEHOLDER}
"""What a process from which workers are forked has from its start. Python's hashes are others in each: no
result depends on them."""


@dataclass(frozen=True)
class Fault:
    """What is to happen at the counted call `at` (0: only count): SIGKILL, or, with `error`, that errno
    from then on. Counted are calls named in `calls` (all of inject.c when empty) on files below the
    state directory whose path contains `part`."""

    at: int = 0
    error: int = 0
    calls: tuple[str, ...] = ()
    part: str = ""


class Forked:
    """A daemon forked by the zygote; like subprocess.Popen as far as tests need it."""

    def __init__(self, pid: int, zygote: "Zygote") -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._zygote = zygote

    def poll(self) -> int | None:
        """The exit status, once it has ended."""
        if self.returncode is None:
            self.returncode = self._zygote.status_of(self.pid, 0.0)
        return self.returncode

    def wait(self, timeout: float = 60.0) -> int:
        """The exit status. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            self.returncode = self._zygote.status_of(self.pid, timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("dcd", timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(9)


class Zygote:
    """Forks daemons. `fault` and `defect` are for the next one only; `points` lists the counted calls
    of the last one that had a fault."""

    def __init__(self, **environment: str) -> None:
        self.mounts = mount_namespace()
        self.fault: Fault | None = None
        self.defect: str | None = None
        self._trace: Path | None = None
        self._answers = b""
        self._forked: list[int] = []
        self._ended: dict[int, int] = {}
        self._process = subprocess.Popen(
            [sys.executable, "-P", ZYGOTE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **FOR_WORKERS, **environment},
            bufsize=0,
        )

    def launch(self, command: list[str], *, stdout: Any, stderr: Any) -> Forked:
        """In the place of subprocess.Popen, for `python -m dcd.main ...`."""
        arguments = command[command.index("dcd.main") + 1 :]
        fault, defect = self._armed(arguments), self.defect
        self.fault = self.defect = None
        return self._fork("dcd", arguments, stdout, stderr, fault=fault, defect=defect)

    def run_dcctl(
        self, arguments: list[str], timeout: float, **variables: str
    ) -> "subprocess.CompletedProcess[str]":
        """In the place of subprocess.run, for `python -m cli.main ...` with more variables, whose output is
        captured."""
        with NamedTemporaryFile() as output, NamedTemporaryFile() as errors:
            forked = self._fork("dcctl", arguments, output, errors, variables)
            try:
                status = forked.wait(timeout)
            except subprocess.TimeoutExpired:
                forked.kill()
                raise
            texts = (file.read().decode() for file in (output, errors))
            return subprocess.CompletedProcess(arguments, status, *texts)

    def _fork(
        self,
        program: str,
        arguments: list[str],
        output: Any,
        errors: Any,
        variables: Mapping[str, str] | None = None,
        **how: Any,
    ) -> Forked:
        request = {
            "program": program,
            "arguments": arguments,
            "output": output.name,
            "errors": errors.name,
            "environment": {**os.environ, **(variables or {})},
            "directory": str(Path.cwd()),
            "fault": None,
            "defect": None,
            **how,
        }
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        deadline = time.monotonic() + FORK_SECONDS
        while not self._forked:
            if time.monotonic() > deadline:
                pytest.fail(f"nothing was forked within {FORK_SECONDS:g} s")
            self._listen(1.0)
        return Forked(self._forked.pop(), self)

    def points(self) -> list[str]:
        """The counted calls: name and path."""
        assert self._trace is not None
        lines = self._trace.read_text().splitlines() if self._trace.exists() else []
        return [line.partition(" ")[2] for line in lines]

    def status_of(self, pid: int, seconds: float) -> int | None:
        """The exit status of a daemon that ends within that time."""
        deadline = time.monotonic() + seconds
        self._listen(0.0)
        while pid not in self._ended and (left := deadline - time.monotonic()) > 0:
            self._listen(left)
        return self._ended.pop(pid, None)

    def end(self) -> None:
        """End it, and what daemons it has left."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(60)

    def _armed(self, arguments: list[str]) -> dict[str, Any] | None:
        if self.fault is None:
            return None
        state_dir = Path(arguments[arguments.index("--state-dir") + 1])
        self._trace = state_dir.parent / COUNTED_TRACE
        self._trace.unlink(missing_ok=True)
        return asdict(self.fault) | {
            "below": f"{state_dir}/",
            "calls": f",{','.join(self.fault.calls)}," if self.fault.calls else "",
            "trace": str(self._trace),
        }

    def _listen(self, seconds: float) -> None:
        """Take in the answers that come within that time, at least the first."""
        assert self._process.stdout
        while select.select([self._process.stdout], [], [], seconds)[0]:
            came = os.read(self._process.stdout.fileno(), 65536)
            if not came:
                pytest.fail("the zygote has ended")
            *lines, self._answers = (self._answers + came).split(b"\n")
            for answer in map(json.loads, lines):
                if "forked" in answer:
                    self._forked.append(answer["forked"])
                    # An earlier process had the same number.
                    self._ended.pop(answer["forked"], None)
                else:
                    self._ended[answer["ended"]] = answer["status"]
            seconds = 0.0


def mount_namespace() -> int:
    """The number of this process's mount namespace."""
    return Path("/proc/self/ns/mnt").stat().st_ino


def python_here() -> tuple[str, dict[str, str]]:
    """The Python that programs are started with, and the variables that make it another one. A process that
    another one was started with may know other plug-ins, or be changed at its start. Where PYTHONPATH only
    adds modules it is left out: the zygote's processes find them too."""
    variables = {name: value for name, value in os.environ.items() if name.startswith("PYTHON")}
    places = variables.get("PYTHONPATH", "").split(os.pathsep)
    if all(_only_adds_modules(Path(place)) for place in places if place):
        variables.pop("PYTHONPATH", None)
    return sys.executable, variables


def _only_adds_modules(place: Path) -> bool:
    changing = ("sitecustomize.py", "*.dist-info", "*.egg-info", "dcd", "cli")
    return place == ROOT or not any(any(place.glob(name)) for name in changing)
