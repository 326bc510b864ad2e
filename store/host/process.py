"""The one function through which subprocesses run.

`run` starts a program from an argument list (never a shell) in its own process group, with an explicit
environment, and returns when it has ended. No process of its group outlives the call, after success,
failure, the time limit, an exception, or SIGTERM to the calling process. Output goes to the caller's
standard error, which in a worker is the attempt's log, unless it is captured. A failure raises
`ToolFailed` with the command, its status and its last lines. Safe in any thread (SIGTERM is handled
only in the main thread, where Python runs signal handlers).
"""

import contextlib
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from statemachine.errors import CheckpointError, Unprepared
from store.host.forking import patiently, shortage
from store.host.process_table import MARK
from store.host.tools import TOOL_PATH, remedy_for_program

BASE_ENVIRONMENT: Mapping[str, str] = {"PATH": TOOL_PATH, "LC_ALL": "C.UTF-8", "HOME": "/root"}
"""The environment of every subprocess; `env` extends and overrides it. Nothing is inherited."""

GRACE_SECONDS = 5.0
"""The time between SIGTERM and SIGKILL for a group."""

LAST_LINES = 20
"""The number of last lines of output in an error."""

LONGEST_LINE_BYTES = 16 * 1024
"""The length of a line that is kept for `on_line`, `on_meter` and errors; the rest is only logged."""

SHOWN_LINE_BYTES = 1000
"""The length of a line in an error."""

CAPTURE_BYTES = 256 * 1024 * 1024
"""The limit of captured output; a program that prints more fails."""

_POLL_SECONDS = 0.1
_CHUNK_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that succeeded. `stdout` is "" unless it was captured; bytes that are not UTF-8 are
    kept as surrogates (so file names survive). `status` is the exit status."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    seconds: float


class ToolFailed(CheckpointError):
    """A tool ended with an unexpected status, by a signal or at its time limit.

    `exit_status` is as in `subprocess` (negative: the signal), `output` its last lines of text.
    """

    def __init__(self, argv: Sequence[str], status: int, output: str, limit: float | None) -> None:
        name = Path(argv[0]).name
        if limit is not None:
            brief = f"{name} did not finish within {limit:g} seconds and was stopped"
        elif status < 0:
            brief = f"{name} was killed by {_signal_name(-status)}"
        else:
            brief = f"{name} failed with exit status {status}"
        last = f"\nits last lines:\n{output}" if output else "\nit printed nothing"
        super().__init__(brief, f"command: {shlex.join(argv)}{last}")
        self.argv = tuple(argv)
        self.exit_status = status
        self.output = output
        self.timed_out = limit is not None


def run(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes | None = None,
    timeout_seconds: float | None = None,
    capture: bool = False,
    merge: bool = False,
    log_errors: bool = True,
    on_line: Callable[[str], None] | None = None,
    on_meter: Callable[[str], None] | None = None,
    ok: Sequence[int] = (0,),
    start: Callable[[], None] | None = None,
) -> Completed:
    """Run a program to its end.

    `env` is added to `BASE_ENVIRONMENT`. `stdin` is its standard input (None: /dev/null). With
    `capture` its standard output is returned instead of logged, and with `merge` its standard error
    too; without `log_errors` that is not logged, and only an error has its last lines. `on_line` is
    called, in this thread, with each line of output (without the line end), and `on_meter` with each
    state of a progress meter that overwrites its line; an exception from them stops the program. `ok`
    lists the successful exit statuses. `start` is called in the new process just before exec, which
    looks up the program only then; it must not take locks, since their owners do not exist after the
    fork. Raises `ToolFailed`, and `Unprepared` when the program does not exist.
    """
    arguments = [os.fspath(part) for part in argv]
    environment = {**BASE_ENVIRONMENT, **_marked(), **(env or {})}
    if start is None:
        _require(arguments[0], environment["PATH"])
    started = time.monotonic()
    with _Group() as group:
        try:
            process = patiently(
                lambda: subprocess.Popen(
                    arguments,
                    env=environment,
                    cwd=cwd,
                    stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT if merge or not capture else subprocess.PIPE,
                    start_new_session=True,
                    preexec_fn=start,
                )
            )
        except (OSError, subprocess.SubprocessError) as error:
            name = Path(arguments[0]).name
            short = shortage(error)
            raise CheckpointError(
                f"{name} cannot be started" + (f": {short.what}" if short else ""),
                f"{error}: {arguments}",
                f"{short.remedy}, then dcctl retry" if short else "",
            ) from error
        group.start(process)
        output = _Output(
            Path(arguments[0]).name,
            capture=capture,
            log_errors=log_errors,
            on_line=on_line,
            on_meter=on_meter,
        )
        status, timed_out = _attend(group, output, stdin, timeout_seconds)
    seconds = time.monotonic() - started
    if timed_out or status not in ok:
        raise ToolFailed(arguments, status, output.last(), timeout_seconds if timed_out else None)
    return Completed(tuple(arguments), status, output.captured(), seconds)


def _marked() -> dict[str, str]:
    """The mark of this process's attempt in a portable worker, by which recovery finds what it starts."""
    return {MARK: os.environ[MARK]} if MARK in os.environ else {}


def _require(program: str, path: str) -> None:
    if shutil.which(program, path=path) is not None:
        return
    command = remedy_for_program(program)
    raise Unprepared(
        f"the tool {Path(program).name} is not installed",
        f"{program} was looked for in {path}" if "/" not in program else f"no program {program}",
        f"install it: {command}" if command else "install it, then resume the build",
    )


def operand(text: str) -> str:
    """The text, checked to be an operand and not an option of a program. Raises CheckpointError."""
    if not text or text.startswith("-") or "\0" in text:
        raise CheckpointError(
            f"{text[:100]!r} cannot be an argument of a program",
            "it is empty, or the program would treat it as an option",
            "correct it in the manifest",
        )
    return text


class _Group:
    """A program and its process group; on exit, all processes of the group have ended.

    In the main thread SIGTERM to this process is forwarded to the group, then handled as before;
    without a handler it ends this process by SystemExit, so that `finally` blocks run.
    """

    process: subprocess.Popen[bytes] | None = None
    _kill_at: float | None = None
    _terminated_early = False

    def __enter__(self) -> "_Group":
        self._in_main_thread = threading.current_thread() is threading.main_thread()
        if self._in_main_thread:
            self._previous = signal.signal(signal.SIGTERM, self._on_terminate)
        return self

    def start(self, process: subprocess.Popen[bytes]) -> None:
        """Start managing a program that was just started."""
        self.process = process
        if self._terminated_early:
            self._on_terminate(signal.SIGTERM, None)

    def __exit__(self, *_: object) -> None:
        try:
            if self.process is not None:
                self._finish(self.process)
        finally:
            if self._in_main_thread:
                signal.signal(signal.SIGTERM, self._previous)

    def terminate(self) -> None:
        """Send SIGTERM to the group; SIGKILL follows `GRACE_SECONDS` after the first call."""
        if self._kill_at is None:
            self._kill_at = time.monotonic() + GRACE_SECONDS
            self._signal(signal.SIGTERM)

    def ended(self) -> bool:
        """Whether the program has ended; kills the group after the grace time."""
        assert self.process is not None
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._signal(signal.SIGKILL)
        return self.process.poll() is not None

    def _finish(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            self.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)
        # Also when the program itself has ended: this ends the processes that it left in its group.
        self._signal(signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _signal(self, number: signal.Signals) -> None:
        # Safe after the program was waited for: the kernel does not reuse a pid that is still the id of
        # a group, and without a group there is no target.
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def _on_terminate(self, number: int, frame: FrameType | None) -> None:
        if self.process is None:
            self._terminated_early = True
            return
        self.terminate()
        if callable(self._previous):
            self._previous(number, frame)
        elif self._previous is signal.SIG_DFL:
            raise SystemExit(128 + number)


class _Output:
    """The output of a program: captured, logged and split into lines, as requested of `run`."""

    def __init__(
        self,
        program: str,
        *,
        capture: bool,
        log_errors: bool,
        on_line: Callable[[str], None] | None,
        on_meter: Callable[[str], None] | None,
    ) -> None:
        self._program = program
        self._capture = capture
        self._log_errors = log_errors
        self._on_line = on_line
        self._on_meter = on_meter
        self._whole = bytearray()
        self._tail: deque[bytes] = deque(maxlen=LAST_LINES)
        self._rest: dict[str, bytes] = {}

    def add(self, stream: str, chunk: bytes) -> None:
        if self._capture and stream == "stdout":
            self._whole += chunk
            if len(self._whole) > CAPTURE_BYTES:
                raise CheckpointError(f"{self._program} printed more than {CAPTURE_BYTES} bytes")
        elif stream == "stdout" or self._log_errors:
            _log(chunk)
        *lines, rest = (self._rest.get(stream, b"") + chunk).split(b"\n")
        for line in lines:
            self._line(line)
        shown, overwritten, after = rest.rpartition(b"\r")
        if overwritten:
            # A carriage return ends an overwritten line. The last one is kept until it is known whether
            # it belongs to "\r\n".
            shown = shown.rpartition(b"\r")[2][:LONGEST_LINE_BYTES]
            rest = after or shown + b"\r"
            if self._on_meter is not None:
                self._on_meter(shown.decode("utf-8", "surrogateescape"))
        # Bounded, so that a line without an end costs no more than the same bytes in short lines.
        self._rest[stream] = rest[: LONGEST_LINE_BYTES + 1]

    def end(self) -> None:
        for rest in self._rest.values():
            if rest:
                self._line(rest)
        self._rest.clear()

    def captured(self) -> str:
        return self._whole.decode("utf-8", "surrogateescape")

    def last(self) -> str:
        return b"\n".join(self._tail).decode("utf-8", "replace")

    def _line(self, line: bytes) -> None:
        # Progress meters overwrite their line: only the last text counts.
        line = line.rstrip(b"\r").rpartition(b"\r")[2][:LONGEST_LINE_BYTES]
        if line.strip():
            self._tail.append(line[:SHOWN_LINE_BYTES])
        if self._on_line is not None:
            self._on_line(line.decode("utf-8", "surrogateescape"))


def log_line(line: str) -> None:
    """Write a line to the log of uncaptured output, in order with that output."""
    _log(f"{line}\n".encode("utf-8", "surrogateescape"))


def _log(chunk: bytes) -> None:
    """Write to the caller's standard error, bypassing Python's buffers, to keep the order."""
    view = memoryview(chunk)
    while view:
        view = view[os.write(2, view) :]


def _attend(
    group: _Group, output: _Output, stdin: bytes | None, timeout_seconds: float | None
) -> tuple[int, bool]:
    """Write to and read from the program until it has ended. Returns its status and whether it timed
    out."""
    process = group.process
    assert process is not None
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    timed_out = False
    with _watched(process, stdin) as selector:
        while not group.ended():
            if selector.get_map():
                _exchange(selector, output, _POLL_SECONDS)
            else:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_SECONDS)
            if deadline is not None and not timed_out and time.monotonic() >= deadline:
                timed_out = True
                group.terminate()
        # All its output is in the pipes now. A child that it left behind may keep them open or continue
        # to write; there is no wait for that.
        last_look = time.monotonic() + GRACE_SECONDS
        while _exchange(selector, output, 0) and time.monotonic() < last_look:
            pass
    output.end()
    return process.wait(), timed_out


@contextlib.contextmanager
def _watched(
    process: subprocess.Popen[bytes], stdin: bytes | None
) -> Iterator[selectors.BaseSelector]:
    with selectors.DefaultSelector() as selector:
        for name, stream in (("stdout", process.stdout), ("stderr", process.stderr)):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
                selector.register(stream, selectors.EVENT_READ, name)
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE, memoryview(stdin or b""))
        yield selector


def _exchange(selector: selectors.BaseSelector, output: _Output, wait_seconds: float) -> bool:
    """Handle all streams that are ready. Returns whether any bytes were read."""
    if not selector.get_map():
        return False
    came = False
    for key, events in selector.select(wait_seconds):
        if events & selectors.EVENT_WRITE:
            _feed(selector, key)
        else:
            chunk = os.read(key.fd, _CHUNK_BYTES)
            if chunk:
                came = True
                output.add(key.data, chunk)
            else:
                selector.unregister(key.fileobj)
    return came


def _feed(selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    stream: IO[bytes] = key.fileobj  # type: ignore[assignment]
    rest: memoryview = key.data
    try:
        rest = rest[os.write(key.fd, rest[:_CHUNK_BYTES]) :] if rest else rest
    except BrokenPipeError:
        # The program closed its input early; its exit status tells whether that is a failure.
        rest = memoryview(b"")
    if rest:
        selector.modify(stream, selectors.EVENT_WRITE, rest)
    else:
        selector.unregister(stream)
        stream.close()


def _signal_name(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"
