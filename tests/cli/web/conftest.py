"""The web page before a real daemon: gateways of two users, and one browser for all tests."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from cli import client
from tests.conftest import Daemon

GUEST = 65534
"""A user with the role observe alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All share a daemon, and most a browser."""
    here = f"{Path(__file__).parent}/"
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.daemon)


AS_USER = """
import os, sys
from cli.main import build_parser, main
from cli.web import page, serve
import encodings.idna, uvicorn.lifespan.off, uvicorn.loops.asyncio, uvicorn.protocols.http.h11_impl
build_parser()
page.contents()
serve.HEAD_SECONDS = 2.0
user = int(sys.argv[1])
os.setgroups([]); os.setgid(user); os.setuid(user)
sys.exit(main(sys.argv[2:]))
"""
"""dcctl as another user, who may be unable to read this checkout or to start its Python."""


class Gateway:
    """A running `dcctl web`, and requests to it as a page sends them."""

    def __init__(self, socket: Path, user: int = 0) -> None:
        command = [sys.executable, "-c", AS_USER, str(user), "--socket", str(socket), "web"]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, self.process.communicate()
        self.base, _, self.token = self.url.partition("#token=")
        self.port = int(self.base.rstrip("/").rpartition(":")[2])

    def stop(self) -> str:
        """SIGINT; returns what it has written to stderr."""
        self.process.send_signal(2)
        try:
            return self.process.communicate(timeout=60)[1]
        finally:
            self.process.kill()

    def __call__(
        self,
        path: str,
        method: str = "GET",
        token: str | None = "",
        body: Any = None,
        **headers: str,
    ) -> tuple[int, dict[str, str], bytes]:
        """The status, headers and body of a response. Underscores in names of headers are hyphens; the token
        None is left out, "" is the gateway's own."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            sent["Authorization"] = f"Bearer {token or self.token}"
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, sent)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, found, answer.read()
        finally:
            connection.close()

    def json(self, path: str, method: str = "GET", status: int = 200, **options: Any) -> Any:
        """The JSON of a response, which has this status."""
        got, _, text = self(path, method, **options)
        assert got == status, text
        return json.loads(text)


@pytest.fixture(scope="session")
def web_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon for all tests of the page, where another user than root may observe."""
    if os.geteuid() != 0:
        pytest.skip("this host: not root")
    daemon = Daemon(tmp_path_factory.mktemp("web"))
    daemon.settings |= {"socket_mode": "0666", "observe": ["nobody"], "host_code": ["root"]}
    daemon.start()
    try:
        yield daemon
        assert daemon.stop() == 0, daemon.log.read_text()[-3000:]
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.kill()


@pytest.fixture(scope="session")
def gateway(web_daemon: Daemon) -> Iterator[Gateway]:
    """A gateway of root."""
    running = Gateway(web_daemon.socket)
    yield running
    assert "Traceback" not in running.stop()


@pytest.fixture(scope="session")
def guest(web_daemon: Daemon) -> Iterator[Gateway]:
    """A gateway of a user who may only observe."""
    running = Gateway(web_daemon.socket, user=GUEST)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def completed(web_daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A completed build with an artifact and hostile output."""
    lines = "echo '<script>document.title=1</script>'; printf 'a\\033[31mred\\033[0m \\342\\200\\256rtl\\n'"
    deliver = '<arglist name="deliver"><argitem>{MEDIA_DIR}/image.bin</argitem></arglist>'
    build = submit(
        web_daemon,
        tmp_path_factory.mktemp("completed"),
        f"{lines}; head -c 300000 /dev/zero > $MEDIA_DIR/image.bin",
        arguments=deliver,
    )
    web_daemon.wait(build, "completed")
    return build


def writes(directory: Path) -> str:
    """The argument of a script that sees and writes a directory of the host."""
    return f'<arglist name="writes"><argitem>{directory}</argitem></arglist>'


def submit(
    daemon: Daemon, directory: Path, *lines: str, name: str = "small", arguments: str = ""
) -> str:
    """Submit a build whose checkpoints run these shell lines. Returns its id."""
    from xml.sax.saxutils import escape

    steps = "".join(
        f'<checkpoint name="step-{number}" mod_path="dcd/checkpoints/custom_script"'
        f' checkpoint_class="CustomScript"><args>{escape(line)}</args>'
        f"<kwargs>{arguments}</kwargs></checkpoint>"
        for number, line in enumerate(lines, 1)
    )
    text = f'<dc><distro name="{name}"><execution>{steps}</execution></distro></dc>'
    body = {"manifest": {"path": str(directory / "m.xml"), "text": text}}
    build: str = client.request(str(daemon.socket), "POST", "/v1/builds", body=body)["id"]
    return build
