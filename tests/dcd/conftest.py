"""Stand-ins for the big things of the world, small but real: a package mirror (a repository of tiny
packages, served on the loopback interface), a disk that boots (a program of one sector), and a module of
checkpoints that manifests may name (`sample_checkpoints`)."""

import base64
import ctypes
import hashlib
import importlib
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dcd.worker.attempt import _raise_loopback


@dataclass
class Mirror:
    """A mirror that serves `directory`. `refusals` maps a path to the statuses of the next answers
    (a status that stays is given as a negative number); `login` is what it demands ("user:password")."""

    directory: Path
    uri: str = ""
    refusals: dict[str, list[int]] = field(default_factory=dict)
    login: str = ""
    requests: Counter[str] = field(default_factory=Counter)

    def answer(self, path: str, authorization: str) -> tuple[int, bytes]:
        """Status and body of the answer to a request."""
        self.requests[path] += 1
        wanted = "Basic " + base64.b64encode(self.login.encode()).decode()
        if self.login and authorization != wanted:
            return 401, b""
        if pending := self.refusals.get(path):
            status = pending[0] if pending[0] < 0 else pending.pop(0)
            return abs(status), b""
        file = self.directory / path.lstrip("/")
        return (200, file.read_bytes()) if file.is_file() else (404, b"")

    def publish(self, suite: str, *packages: tuple[str, str]) -> None:
        """Make a suite of packages; each is a name and the fields that it has beside the usual ones, the
        first of which may be its version (1.0 without it)."""
        index = b""
        for name, fields in packages:
            index += self._package(name, fields)
        release = self.directory / f"dists/{suite}/Release"
        packages_file = release.parent / "main/binary-amd64/Packages"
        packages_file.parent.mkdir(parents=True, exist_ok=True)
        packages_file.write_bytes(index)
        digest = hashlib.sha256(index).hexdigest()
        release.write_text(
            f"Suite: {suite}\nCodename: {suite}\nArchitectures: amd64\nComponents: main\n"
            "Date: Thu, 01 Jan 2026 00:00:00 UTC\n"
            f"SHA256:\n {digest} {len(index)} main/binary-amd64/Packages\n"
        )

    def _package(self, name: str, fields: str) -> bytes:
        tree = self.directory / "build" / name
        (tree / "DEBIAN").mkdir(parents=True, exist_ok=True)
        if not fields.startswith("Version: "):
            fields = f"Version: 1.0\n{fields}"
        version = fields.split("\n")[0].removeprefix("Version: ")
        control = f"Package: {name}\nArchitecture: amd64\n"
        control += f"Maintainer: Nobody <nobody@example.org>\nDescription: {name}\n{fields}"
        (tree / "DEBIAN/control").write_text(control.rstrip("\n") + "\n")
        pool = self.directory / "pool"
        pool.mkdir(exist_ok=True)
        deb = pool / f"{name}_{version}_amd64.deb"
        subprocess.run(["dpkg-deb", "--build", tree, deb], check=True, capture_output=True)
        content = deb.read_bytes()
        return (
            control.rstrip("\n") + f"\nFilename: pool/{deb.name}\nSize: {len(content)}\n"
            f"SHA256: {hashlib.sha256(content).hexdigest()}\n\n"
        ).encode()


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    """An empty mirror that answers until the test ends."""
    served = Mirror(tmp_path / "mirror")
    served.directory.mkdir()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = served.answer(self.path, self.headers.get("Authorization", ""))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served.uri = f"http://127.0.0.1:{server.server_port}/"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A new directory that everybody on this host may enter, as pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="dcd-public-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture
def apt_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An apt configuration that is this test's own: returns its /etc/apt, with no sources in it."""
    etc = tmp_path / "etc-apt"
    for name in ("sources.list.d", "auth.conf.d", "apt.conf.d", "preferences.d", "trusted.gpg.d"):
        (etc / name).mkdir(parents=True)
    settings = tmp_path / "host-apt.conf"
    settings.write_text(
        f'Dir::Etc "{etc}";\nDir::Etc::sourcelist "{etc}/sources.list";\n'
        f'Dir::Etc::sourceparts "{etc}/sources.list.d";\nDir::Etc::parts "{etc}/apt.conf.d";\n'
        f'Dir::Etc::netrc "{etc}/auth.conf";\nDir::Etc::netrcparts "{etc}/auth.conf.d";\n'
    )
    monkeypatch.setattr(
        "store.host.process.BASE_ENVIRONMENT",
        {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "APT_CONFIG": str(settings)},
    )
    monkeypatch.setattr("dcd.platform.apt_release.BACK_OFF_SECONDS", (0.01, 0.02, 0.03))
    monkeypatch.setattr("dcd.platform.apt_root.BACK_OFF_SECONDS", (0.01, 0.02, 0.03))
    return etc


AFTERWARDS = {
    "halt": bytes.fromhex("f4ebfd"),
    # Port 0xcf9 resets the machine.
    "reset": bytes.fromhex("baf90cb006ee"),
    # Wait for a byte on the serial port, send it back, for ever.
    "echo": bytes.fromhex("bafd03eca80174f8baf803eceeebf1"),
    # Wait for a line on the serial port, print the next text (each ends with a zero byte), and so on.
    "converse": bytes.fromhex("803c007412bafd03eca80174f8baf803ec3c0a75f0ebe1f4ebfd"),
}


@pytest.fixture
def boot_disk(tmp_path: Path) -> Callable[[bytes, str], Path]:
    """Makes disk images that a BIOS boots: `boot_disk(text, afterwards)` prints the text on the first
    serial port and then halts, resets, echoes or converses. The text has to fit into a sector."""

    def make(text: bytes, afterwards: str) -> Path:
        # xor ax,ax; mov ds,ax; mov si,TEXT; mov dx,3f8; next: lodsb; test al,al; jz end; out dx,al; jmp next
        head = bytes.fromhex("31c08ed8be0000baf803ac84c07403eeebf8")
        code = head + AFTERWARDS[afterwards]
        code = code.replace(b"\xbe\0\0", b"\xbe" + (0x7C00 + len(code)).to_bytes(2, "little"), 1)
        sector = (code + text + b"\0").ljust(510, b"\0")
        assert len(sector) == 510
        disk = tmp_path / f"boot-{hashlib.sha256(code + text).hexdigest()[:8]}.img"
        disk.write_bytes((sector + b"\x55\xaa").ljust(1 << 20, b"\0"))
        return disk

    return make


@pytest.fixture
def own_network() -> Iterator[None]:
    """A network namespace of this thread's own, with a loopback interface, as a worker has one."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_network = 0x40000000
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    if libc.unshare(new_network) != 0:
        os.close(before)
        pytest.skip("this host gives no right to make a network namespace")
    try:
        _raise_loopback()
        yield
    finally:
        assert libc.setns(before, new_network) == 0
        os.close(before)


CHECKPOINTS = '''
import enum
import os
from os import system
from pathlib import Path
from typing import Literal

from dcd.checkpoints.interface import Checkpoint
from dcd.manifest.values import InputPath


class Kind(enum.Enum):
    FAST = "fast"
    SMALL = "small"


class Transfer(Checkpoint):
    """Does nothing."""

    READS = ("//boot_mods",)

    def execute(self, context):
        pass


class Options(Transfer):
    def __init__(
        self,
        name: str,
        command: str,
        *,
        verbose: bool = False,
        level: int = 1,
        ratio: float = 1.0,
        method: Literal["gzip", "lzma"] = "gzip",
        kind: Kind = Kind.FAST,
        places: list[Path] | None = None,
        sizes: tuple[int, ...] = (),
        memory_mb: int | None = None,
        script: InputPath | None = None,
    ) -> None:
        super().__init__(name)
        self.values = dict(
            command=command, verbose=verbose, level=level, ratio=ratio, method=method, kind=kind,
            places=places, sizes=sizes, memory_mb=memory_mb, script=script,
        )


class Anything(Transfer):
    def __init__(self, name: str, **values: str) -> None:
        super().__init__(name)
        self.values = values


class Unfinished(Checkpoint):
    pass


class _Hidden(Transfer):
    pass


def made(name: str, level: int = 1) -> Transfer:
    return Options(name, "made", level=level)


def broken(name: str) -> Checkpoint:
    return None


def run(name: str) -> str:
    return os.system(name)
'''


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The module's name; it is importable during the test."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/sample_checkpoints.py").write_text(CHECKPOINTS)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    importlib.invalidate_caches()
    yield "sample_checkpoints"
    sys.modules.pop("sample_checkpoints", None)
