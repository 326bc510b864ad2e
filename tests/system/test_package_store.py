"""Two images on one daemon, from a mirror that counts: what the first has downloaded, the second does not.

The mirror passes requests on to the one that this host's apt uses, so packages and signatures are real."""

import json
import re
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from cli import client
from cli.importing import import_export
from cli.locks import read_lock
from dcd.platform.apt import Source, host_codename, host_sources
from statemachine.errors import Unprepared
from tests.conftest import Daemon

pytestmark = [pytest.mark.system, pytest.mark.root, pytest.mark.timeout(900)]

MANIFEST = """<dc><distro name="{name}">
  <software name="packages" type="DEB">
    <destination><image variant="essential"/></destination>
    <source><repository suite="{suite}" uri="{uri}" signed_by="{keys}"/></source>
    <software_data>{packages}</software_data>
  </software>
  <execution>
    <checkpoint name="packages" mod_path="dcd/checkpoints/transfer/deb" checkpoint_class="TransferDEB"/>
  </execution>
</distro></dc>
"""


@dataclass
class Counting:
    """A mirror that passes on what it is asked for. `packages` counts the requests for each package;
    `gone`: it answers nothing any more."""

    behind: Source
    uri: str = ""
    packages: Counter[str] = field(default_factory=Counter)
    gone: bool = False


@pytest.fixture
def counting() -> Iterator[Counting]:
    suite = host_codename()
    try:
        behind = next(source for source in host_sources() if source.suite == suite)
    except (Unprepared, StopIteration):
        pytest.skip("this host has no apt sources")
    mirror = Counting(behind)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if mirror.gone:
                self.send_error(503)
                return
            if self.path.endswith(".deb"):
                mirror.packages[unquote(Path(self.path).name)] += 1
            try:
                with urllib.request.urlopen(behind.uri.rstrip("/") + self.path) as answer:
                    status, body = 200, answer.read()
            except urllib.error.HTTPError as error:
                status, body = error.code, b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        mirror.uri = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield mirror
        server.shutdown()
        thread.join()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Daemon]:
    """Another server, without any network."""
    (tmp_path / "elsewhere").mkdir()
    daemon = Daemon(tmp_path / "elsewhere")
    try:
        yield daemon.start(("unshare", "--net"))
        assert daemon.stop() == 0
        assert daemon.leaks() == []
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.kill()


def manifest(directory: Path, mirror: Counting, name: str, *packages: str) -> Path:
    keys = mirror.behind.signed_by
    names = "".join(f"<name>{package}</name>" for package in packages)
    file = directory / f"{name}.xml"
    file.write_text(
        MANIFEST.format(
            name=name, suite=mirror.behind.suite, uri=mirror.uri, keys=keys, packages=names
        )
    )
    return file


def assert_good(daemon: Any, build: str) -> None:
    """Its rebuild has the bytes of the first build."""
    daemon.wait(build, "completed", seconds=600)
    found = client.request(str(daemon.socket), "GET", client.build_path(build, "verdict"))
    assert (found["good"], found["checkpoint"], found["changed"]) == (True, "", [])


def results(daemon: Any, build: str, part: str = "key") -> list[str]:
    """A part of the checkpoints' results, from the events."""
    kinds = ("CheckpointCompleted", "CheckpointReused")
    return [each["data"][part] for each in daemon.events(build) if each["type"] in kinds]


def test_a_second_image_downloads_nothing_that_the_first_one_had(
    daemon: Any, counting: Counting, elsewhere: Daemon, tmp_path: Path
) -> None:
    first = daemon.submit(manifest(tmp_path, counting, "first", "less"))
    daemon.wait(first, "completed", seconds=600)
    before = counting.packages.copy()
    assert len(before) > 20
    assert set(before.values()) == {1}
    log = daemon.ctl("logs", first, "packages")
    assert re.search(r"from the package store: (\d+) of \1 packages", log), "the rest is there"

    second = daemon.submit(manifest(tmp_path, counting, "second", "less", "ed"))
    daemon.wait(second, "completed", seconds=600)
    new = counting.packages - before
    assert list(new.values()) == [1]
    assert [name.split("_")[0] for name in new] == ["ed"]
    assert "from the package store" in daemon.ctl("logs", second, "packages")

    lock = tmp_path / "first.lock"
    daemon.ctl("lock", tmp_path / "first.xml", "-o", lock)
    known = {each["name"] for each in read_lock(lock)["transfers"][0]["packages"]}
    assert known == {name.split("_")[0] for name in before}
    same = daemon.submit(tmp_path / "first.xml", "--locked", str(lock))
    daemon.wait(same, "completed")
    assert results(daemon, same) == results(daemon, first), "its keys are those of the first"
    with_less = lock.read_text()
    lock.write_text(re.sub(r'("name": "less", "version": ")[^"]*', r"\g<1>1", with_less))
    altered = daemon.submit(tmp_path / "first.xml", "--locked", str(lock), "--fresh")
    failed = daemon.wait(altered, "failed", seconds=300)
    assert "not those of the lock" in failed["error"]["brief"]
    lock.write_text(with_less)

    counting.gone = True
    assert "503" in daemon.run("submit", tmp_path / "first.xml").stderr
    reused = daemon.submit(tmp_path / "first.xml", "--packages-of", first)
    daemon.wait(reused, "completed")
    assert results(daemon, reused) == results(daemon, first), "the keys are those of the first"
    compared = json.loads(daemon.ctl("reproduce", first, "--json").splitlines()[-1])
    assert compared["identical"]

    export = tmp_path / "first.dcd"
    daemon.ctl("export", first, "-o", export)
    offline = ("--locked", str(lock), "--offline")
    refused = elsewhere.run("submit", tmp_path / "first.xml", *offline)
    assert (refused.returncode, "missing: adduser " in refused.stderr) == (11, True)
    assert_good(elsewhere, import_export(str(elsewhere.socket), export, None)["id"])
    built = elsewhere.submit(tmp_path / "first.xml", *offline)
    elsewhere.wait(built, "completed", seconds=300)
    assert results(elsewhere, built) == results(daemon, first), "built without any network"

    usage = daemon.json("df")
    assert usage["package_bytes"] > 10 << 20
    assert usage["captured_bytes"] == usage["package_bytes"]
    assert "packages_max_bytes" in daemon.ctl("df")
    for build in (first, second, reused, same, altered):
        daemon.ctl("rm", build)
    daemon.ctl("gc", "--max-bytes", "0")
    assert daemon.json("df")["package_bytes"] == 0
