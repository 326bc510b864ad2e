"""A real PostgreSQL for tests: initialised once, on a socket in a directory of its own, as an unprivileged
user."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

USER = "nobody"
"""PostgreSQL does not run as root."""

MEMORY = Path("/dev/shm")
MEMORY_BYTES = 2 << 30
"""Where servers keep their files if so much is free: databases are made and dropped by the hundred, and each
waits for the disk twice. What survives is a question of processes here, not of disks."""


def program(name: str) -> str:
    """A program of the newest PostgreSQL of this host."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda p: int(p.parts[4]))
    return str(found[-1]) if found else name


def unprivileged() -> dict[str, Any]:
    """The arguments of Popen for a process that is not root."""
    if os.geteuid():
        return {}
    user = pwd.getpwnam(USER)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _inside(namespace: str) -> list[str]:
    """The beginning of a command that runs in a network namespace and is not root."""
    user = pwd.getpwnam(USER)
    ids = ["--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups"]
    return ["ip", "netns", "exec", namespace, "setpriv", *ids]


def _in_memory() -> bool:
    return MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_BYTES


class Cluster:
    """A server, which is stopped at first. Anybody on its socket may be any role. Its files are in a new
    directory in `directory`, which others must be able to enter; else in memory or in /tmp."""

    def __init__(self, copied: "Cluster | None" = None, directory: Path | None = None) -> None:
        if directory is None and _in_memory():
            directory = MEMORY
        self.place = Path(tempfile.mkdtemp(prefix="dcd-postgresql-", dir=directory))
        self.place.chmod(0o755)
        self.data = self.place / "data"
        self._server: subprocess.Popen[bytes] | None = None
        self.data.mkdir()
        if not os.geteuid():
            user = pwd.getpwnam(USER)
            os.chown(self.place, user.pw_uid, user.pw_gid)
            os.chown(self.data, user.pw_uid, user.pw_gid)
        if copied:
            command = ["cp", "-a", f"{copied.data}/.", str(self.data)]
            subprocess.run(command, check=True)
            return
        subprocess.run(
            [
                *(program("initdb"), "-D", str(self.data), "-U", "postgres", "-A", "trust"),
                *("--no-sync", "--encoding", "UTF8", "--locale", "C.UTF-8"),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd="/",
            **unprivileged(),
        )

    def start(self, *settings: str, namespace: str = "") -> "Cluster":
        """Start the server with settings (`name=value`), in a network namespace if given, and wait until it
        answers on its socket."""
        given = [part for setting in settings for part in ("-c", setting)]
        with (self.place / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [
                    *(_inside(namespace) if namespace else ()),
                    *(program("postgres"), "-D", str(self.data), "-k", str(self.place), "-h", ""),
                    *("-c", "max_connections=60", "-c", "shared_buffers=16MB"),
                    *("-c", "max_wal_size=96MB", *given),
                ],
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                **({} if namespace else unprivileged()),
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.dsn()).close()
            except psycopg.OperationalError:
                assert self._server.poll() is None, (self.place / "log").read_text()
                assert time.monotonic() < deadline, "PostgreSQL does not answer"
                time.sleep(0.02)
            else:
                return self

    def dsn(self, database: str = "postgres", role: str = "postgres") -> str:
        """A connection string."""
        return f"host={self.place} dbname={database} user={role}"

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server: fast (SIGINT), or as in a crash (SIGQUIT)."""
        if self._server is not None:
            self._server.send_signal(how)
            self._server.wait(timeout=60)
            self._server = None

    def remove(self) -> None:
        """Stop the server and remove its files."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.place)
