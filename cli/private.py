"""A private daemon for one user, where no other answers: started with the first `dcctl build`, ended with
the last.

Each `dcctl build` holds a shared lock on a file while it uses the daemon; the daemon stops when none is
held. So it does not outlive a dcctl that was killed, and two that run at once share it. Its state stays,
so the next one continues unfinished builds and reuses results.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cli.client import ClientError, Unreachable, request, service_socket
from cli.text import printable, short_path

START_SECONDS = 120.0
"""The longest start; it cleans up what a killed daemon left."""

STOP_SECONDS = 60.0

NOTICE_SECONDS = 1.0
"""A daemon without users notices that within this time."""

LOG_LINES = 10


def default_directory() -> Path:
    """Where a private daemon of this user keeps its state, by the XDG Base Directory Specification."""
    home = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
    return Path(home, "dcd")


@contextmanager
def some_daemon(socket_path: str, directory: Path) -> Iterator[str]:
    """The socket of the daemon on `socket_path` if that answers; otherwise, when it is that of the service,
    of a private one with its state in `directory`, which ends with its last user. Raises ClientError."""
    try:
        request(socket_path, "GET", "/v1/version")
    except Unreachable:
        if socket_path != service_socket() or "DCD_SOCKET" in os.environ:
            raise
    else:
        yield socket_path
        return
    with _private(directory.absolute()) as private:
        yield private


@contextmanager
def _private(directory: Path) -> Iterator[str]:
    place = directory / "dcd.sock"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_own(directory)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        users = os.open(directory / "users.lock", flags, 0o600)
    except OSError as error:
        raise ClientError(
            "unprepared", f"cannot write {directory}", error.strerror or str(error)
        ) from None
    started = None
    try:
        fcntl.flock(users, fcntl.LOCK_SH)  # waits for the end of one that stops
        if not _answers(place):
            print(f"a private daemon keeps its state in {_shown(directory)}", file=sys.stderr)
            started = _start(directory, place)
        yield str(place)
    finally:
        os.close(users)
        if started is not None:
            _wait_for_end(started, place)


def _require_own(directory: Path) -> None:
    """Raise ClientError for a directory in which others could put a socket, a link or a layer of theirs."""
    found = directory.stat()
    if found.st_uid != os.geteuid():
        wrong, remedy = f"it belongs to the user with id {found.st_uid}", "name one of your own"
    elif found.st_mode & 0o022:
        wrong = f"its mode is {found.st_mode & 0o7777:04o}: others may write to it"
        remedy = f"close it: chmod go-w {_shown(directory)}"
    else:
        return
    raise ClientError(
        "unprepared",
        f"a private daemon does not keep its state in {_shown(directory)}",
        wrong,
        remedy,
    )


def _create(log: Path) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.fdopen(os.open(log, flags, 0o600), "wb")


def _start(directory: Path, place: Path) -> "subprocess.Popen[bytes]":
    """Start a daemon and wait until it answers. Raises ClientError when it does not."""
    log = directory / "daemon.log"
    command = [_program(), "serve", "--state-dir", str(directory / "state"), "--socket", str(place)]
    command += ["--while-locked", str(directory / "users.lock")]
    with _create(log) as output:
        # A session of its own: Ctrl-C is for dcctl, which then lets the daemon stop in its way.
        started = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    limit = time.monotonic() + START_SECONDS
    while not _answers(place):
        if started.poll() is not None or time.monotonic() > limit:
            started.kill()
            started.wait()
            said = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
            raise ClientError(
                "unavailable",
                "the private daemon does not start",
                printable("\n".join(said)),
                f"its log is {_shown(log)}; dcd doctor examines this host",
            )
        time.sleep(0.05)
    return started


def _program() -> str:
    """The command `dcd` beside this one, or on the PATH."""
    beside = Path(sys.argv[0]).with_name("dcd")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("dcd")
    if found is None:
        raise ClientError(
            "unavailable",
            "no daemon answers, and the program dcd is not installed",
            f"looked for {beside}, and on the PATH",
            "install dcd, or name a daemon with --socket PATH or $DCD_SOCKET",
        )
    return found


def _answers(place: Path) -> bool:
    try:
        request(str(place), "GET", "/v1/version")
    except Unreachable:
        return False
    return True


def _wait_for_end(started: "subprocess.Popen[bytes]", place: Path) -> None:
    """Until the daemon has ended; not when others use it too."""
    begin = time.monotonic()
    while started.poll() is None and (waited := time.monotonic() - begin) < STOP_SECONDS:
        if waited > NOTICE_SECONDS and _is_healthy(place):
            return
        time.sleep(0.05)


def _is_healthy(place: Path) -> bool:
    try:
        request(str(place), "GET", "/v1/health")
    except ClientError:  # it stops
        return False
    return True


def _shown(path: Path) -> str:
    return printable(short_path(str(path)))
