"""What becomes of a build when its package mirror has troubles: the host's own mirror, behind a server that
stumbles as mirrors do."""

import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dcd.platform.apt import Source, host_codename, host_sources, sources_for
from statemachine.errors import Unprepared

pytestmark = [pytest.mark.system, pytest.mark.root, pytest.mark.timeout(600)]

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

EVERYTHING = 1 << 30


class Stumbling:
    """A server in front of a mirror. While `refuse[part]` is positive, a request whose path contains
    `part` is answered with 503, and one is taken off."""

    def __init__(self) -> None:
        self.uri = ""
        self.refuse: Counter[str] = Counter()
        self.refused: list[str] = []
        self._lock = threading.Lock()

    def refuses(self, path: str) -> bool:
        """Whether this request is refused."""
        with self._lock:
            for part, left in self.refuse.items():
                if left > 0 and part in path:
                    self.refuse[part] -= 1
                    self.refused.append(path)
                    return True
        return False


@pytest.fixture(scope="module")
def source() -> Source:
    """The main source of the host's own release."""
    try:
        found = sources_for(host_sources(), host_codename(), ["main"])
    except Unprepared as error:
        pytest.skip(f"this host has no apt sources: {error.brief}")
    return next(each for each in found if each.suite == host_codename())


@pytest.fixture
def mirror(source: Source) -> Iterator[Stumbling]:
    """The host's mirror behind a server that stumbles when told to."""
    stumbling = Stumbling()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if stumbling.refuses(self.path):
                self.send_error(503)
                return
            try:
                answer = urllib.request.urlopen(source.uri.rstrip("/") + self.path, timeout=60)
            except urllib.error.HTTPError as error:
                self.send_error(error.code)
                return
            with answer:
                self.send_response(200)
                self.send_header("Content-Length", answer.headers["Content-Length"])
                self.end_headers()
                shutil.copyfileobj(answer, self.wfile)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        stumbling.uri = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield stumbling
        finally:
            server.shutdown()
            thread.join()


def write_manifest(path: Path, uri: str, suite: str, *packages: str) -> Path:
    """A small system, after a checkpoint that only waits for nothing."""
    names = "".join(f"<name>{name}</name>" for name in packages)
    data = f'<software_data action="install">{names}</software_data>' if names else ""
    path.write_text(
        f"""<dc><distro name="small" sbom="none">
        <software name="transfer" type="DEB">
          <destination><image img_root="{{PKG_IMAGE_PATH}}" variant="essential"/></destination>
          <source><repository suite="{suite}" components="main" uri="{uri}" signed_by="{KEYRING}"/></source>
          {data}
        </software>
        <execution>
          <checkpoint name="first" mod_path="dcd/checkpoints/custom_script"
            checkpoint_class="CustomScript"><args>true</args></checkpoint>
          <checkpoint name="transfer" mod_path="dcd/checkpoints/transfer/deb"
            checkpoint_class="TransferDEB"/>
        </execution></distro></dc>
        """
    )
    return path


def states(status: Any) -> list[str]:
    return [checkpoint["state"] for checkpoint in status["checkpoints"]]


def test_an_unknown_package_fails_the_transfer_and_keeps_what_was_before(
    daemon: Any, mirror: Stumbling, source: Source, tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path / "small.xml", mirror.uri, source.suite, "busybux")

    build = daemon.submit(manifest)
    status = daemon.wait(build, "failed")

    assert states(status) == ["completed", "failed"]
    error = status["checkpoints"][1]["error"]
    assert error["brief"] == "there is no package busybux"
    assert f"looked for in {mirror.uri} {source.suite} main" in error["details"]
    assert "did you mean <name>busybox" in error["resolution"]
    assert "busybux" in daemon.ctl("logs", build, "transfer")
    daemon.ctl("follow", build, status=3)


def test_a_mirror_that_is_down_fails_the_transfer_and_one_that_stumbles_does_not(
    daemon: Any, mirror: Stumbling, source: Source, tmp_path: Path
) -> None:
    manifest = write_manifest(tmp_path / "small.xml", mirror.uri, source.suite)
    mirror.refuse["/InRelease"] = 2
    build = daemon.submit(manifest, "--pause-before", "transfer")
    assert [path.rpartition("/")[2] for path in mirror.refused] == ["InRelease"] * 2
    daemon.wait(build, "paused")

    mirror.refuse["/"] = EVERYTHING
    daemon.ctl("resume", build)
    status = daemon.wait(build, "failed")
    assert states(status) == ["completed", "failed"]
    error = status["checkpoints"][1]["error"]
    assert "503" in error["brief"]
    assert "tried 4 times" in error["details"]
    assert "try again" in error["resolution"]

    mirror.refuse.clear()
    mirror.refused.clear()
    mirror.refuse.update({"/by-hash/": 1, "/pool/": 2})
    daemon.ctl("resume", build)
    status = daemon.wait(build, "completed", seconds=300)
    assert states(status) == ["completed", "completed"]
    assert len(mirror.refused) == 3
    kinds = [event["type"] for event in daemon.events(build)]
    # The mirror is asked for its state before an attempt begins, so none was spent on a dead one.
    assert kinds.count("CheckpointStarted") == 2
    artifacts = {artifact["name"]: artifact for artifact in status["artifacts"]}
    listed = Path(artifacts["packages.tsv"]["path"]).read_text()
    assert "dpkg\t" in listed
    subprocess.run(
        ["sha256sum", "--check", "--quiet", artifacts["SHA256SUMS"]["path"]],
        cwd=Path(artifacts["SHA256SUMS"]["path"]).parent,
        check=True,
    )
