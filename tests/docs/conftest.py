"""The blocks of the documentation's pages, and a machine of one's own on which to run them."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import open_way

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


class Block(NamedTuple):
    """A fenced block: its page (relative to the repository), the line of its first text, and its text."""

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path, language: str) -> list[Block]:
    """The blocks of a page in a language, in order."""
    text = page.read_text()
    return [
        Block(str(page.relative_to(ROOT)), text.count("\n", 0, found.start(1)) + 1, found[1])
        for found in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


ENTER = """
for directory in run srv var/lib; do
    mkdir -p {0}/upper/$directory {0}/own/$directory
    mount -t overlay none -o lowerdir=/$directory,upperdir={0}/upper/$directory,workdir={0}/own/$directory \\
        /$directory
done
mkdir -p /var/lib/dcd /var/lib/prometheus/node-exporter /run/dcd /srv/backup {0}/state
mount --bind {0}/state /var/lib/dcd
exec dcd serve --config {0}/dcd.toml
"""


class Machine:
    """A build server as the pages assume one: the daemon with its directories and socket where the service
    has them, in a mount namespace, beside this host's own files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {
            "PATH": f"{BIN}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LC_ALL": "C.UTF-8",
            "TERM": "dumb",
        }
        (directory / "dcd.toml").write_text("min_free_bytes = 0\n")
        with (directory / "daemon.log").open("wb") as log:
            self.daemon = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "slave", "bash", "-ec", ENTER.format(directory)],
                env=self.environment, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while self.run("dcctl version", directory)[0] != 0:
            if self.daemon.poll() is not None or time.monotonic() > deadline:
                pytest.fail((directory / "daemon.log").read_text())
            time.sleep(0.2)

    def run(self, script: str, directory: Path) -> tuple[int, str]:
        """Run a script of bash in that directory. Returns its exit status and all that it printed."""
        shell = ["bash", "-c", f'cd "$1"; {script}', "bash", directory]
        # With its root too: where this process is in a chroot, that of the namespace is another one.
        done = subprocess.run(
            ["nsenter", "--mount", "--root", "--target", str(self.daemon.pid), *shell],
            env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=250,
        )  # fmt: skip
        return done.returncode, done.stdout

    def ask(self, script: str, directory: Path) -> str:
        """What a script prints that has to succeed."""
        status, printed = self.run(script, directory)
        assert status == 0, printed
        return printed.strip()

    def end(self) -> None:
        """Stop the daemon; its namespace and all that is mounted in it go with it."""
        self.daemon.terminate()
        try:
            self.daemon.wait(60)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            self.daemon.wait()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """See `Machine`."""
    directory = tmp_path_factory.mktemp("machine")
    open_way(directory)
    machine = Machine(directory)
    try:
        yield machine
    finally:
        machine.end()
        with suppress(OSError):
            os.sync()
