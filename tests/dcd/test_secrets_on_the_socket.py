"""Secrets of the server are used by those whose they are, over the socket of a real daemon.

The daemon is private and runs as root; each request comes from a process that has become another user.
"""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.root, pytest.mark.daemon]

ROOT = Path(__file__).parents[2]
USERS = {"submitter": 70012, "operator": 70013, "administrator": 70014, "scripter": 70015}

REQUEST = """
import http.client, json, os, socket, sys
path, uid, method, target, body = sys.argv[1:]
os.setgroups([])
os.setgid(int(uid))
os.setuid(int(uid))
connection = http.client.HTTPConnection("dcd", timeout=60)
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect(path)
connection.request(method, target, body or None, {"Content-Type": "application/json"})
answer = connection.getresponse()
print(json.dumps([answer.status, json.loads(answer.read() or b"null")]))
"""

COPY = (
    '<software name="copy" type="CPIO"><destination><dir path="{PKG_IMAGE_PATH}"/></destination>'
    '<source><dir path="{BOOT_ARCHIVE}"/></source><software_data><name>etc</name></software_data></software>'
)
CHECKPOINTS = {
    "copy": '<checkpoint name="copy" mod_path="dcd/checkpoints/transfer/cpio" '
    'checkpoint_class="TransferCPIO"/>',
    "conf": '<checkpoint name="conf" mod_path="dcd/checkpoints/image/configure" '
    'checkpoint_class="DebianPrePkgImgMod"/>',
}


def manifest(secret: Path, *names: str) -> dict[str, Any]:
    """A request with a manifest of these checkpoints, `conf` setting a password by reference."""
    checkpoints = "".join(CHECKPOINTS[name] for name in names)
    text = (
        f'<dc><distro name="small">{COPY if "copy" in names else ""}<execution>{checkpoints}</execution>'
        f'<configuration name="conf"><user name="u"><password file="{secret}"/></user></configuration>'
        "</distro></dc>"
    )
    return {"manifest": {"path": "/m.xml", "text": text}}


class Daemon:
    """A daemon whose socket everybody can reach; `ask` asks as one of USERS, or as root."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "dcd.sock"
        settings = directory / "dcd.toml"
        settings.write_text(
            'socket_mode = "0666"\ngroup = ""\nsubmit = ["70012"]\noperate = ["70013"]\n'
            'administer = ["70014"]\nhost_code = ["70015"]\nsecret_users = ["DCD_SECRET_LENT=70012"]\n'
            'observe = ["70015"]\n'.replace('submit = ["70012"]', 'submit = ["70012", "70015"]')
        )
        state = ["--state-dir", str(directory / "state"), "--socket", str(self.socket)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dcd.main", "serve", *state, "--config", str(settings)],
            cwd=ROOT,
            stderr=(directory / "log").open("w"),
        )
        deadline = time.monotonic() + 60
        while not (self.socket.exists() and self.ask(0, "GET", "/v1/health")[0] == 200):
            assert self.process.poll() is None, (directory / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def ask(
        self, who: str | int, method: str, target: str, body: dict[str, Any] | None = None
    ) -> tuple[int, Any]:
        uid = USERS[who] if isinstance(who, str) else who
        text = json.dumps(body) if body is not None else ""
        command = [sys.executable, "-I", "-S", "-c", REQUEST]
        result = subprocess.run(
            [*command, str(self.socket), str(uid), method, target, text],
            capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        status, answer = json.loads(result.stdout)
        return status, answer


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    # Not tmp_path: only root may pass through that.
    directory = Path(tempfile.mkdtemp(prefix="dcd-secrets-"))
    directory.chmod(0o711)
    started = None
    try:
        started = Daemon(directory)
        yield started
    finally:
        if started is not None:
            started.process.send_signal(signal.SIGTERM)
            started.process.wait(60)
        shutil.rmtree(directory)


SECRETS = Path("/etc/dcd/secrets")


@pytest.fixture
def secret_of_the_submitter() -> Iterator[Path]:
    made = [place for place in (SECRETS.parent, SECRETS) if not place.exists()]
    SECRETS.mkdir(mode=0o711, parents=True, exist_ok=True)
    mode = stat.S_IMODE(SECRETS.stat().st_mode)
    SECRETS.chmod(mode | 0o011)
    path = SECRETS / f"dcd-test-{os.getpid()}"
    path.write_text("lent")
    path.chmod(0o600)
    os.chown(path, USERS["submitter"], 0)
    yield path
    path.unlink()
    SECRETS.chmod(mode)
    for place in reversed(made):
        with suppress(OSError):  # in use by another test
            place.rmdir()


def test_a_secret_of_the_server_is_used_by_its_owner_and_by_those_it_is_lent_to(
    daemon: Daemon, secret_of_the_submitter: Path
) -> None:
    path = secret_of_the_submitter
    body = manifest(path, "copy", "conf")

    def outcomes() -> dict[str | int, tuple[int, int]]:
        return {
            user: (
                daemon.ask(user, "POST", "/v1/plan", body)[0],
                daemon.ask(user, "POST", "/v1/builds", {**body, "pause_before": "copy"})[0],
            )
            for user in (*USERS, 0)
        }

    refused, done = (403, 403), (200, 201)
    others = dict.fromkeys(USERS, refused) | {0: done}
    assert outcomes() == others | {"submitter": done}
    os.chown(path, 0, USERS["operator"])
    assert outcomes() == others  # The group may not read it.
    path.chmod(0o640)
    assert outcomes() == others | {"operator": done}
    status, problem = daemon.ask("submitter", "POST", "/v1/plan", body)
    assert (status, problem["type"]) == (403, "urn:dcd:problem:permission"), problem
    assert "secret_users" in json.dumps(problem)


def test_a_variable_of_the_daemon_is_for_root_and_those_it_is_lent_to(daemon: Daemon) -> None:
    for variable, may in (("DCD_SECRET_LENT", {"submitter"}), ("DCD_SECRET_OTHER", set[str]())):
        body = manifest(Path("/x"), "copy", "conf")
        text = body["manifest"]["text"].replace('file="/x"', f'env="{variable}"')
        body["manifest"]["text"] = text
        asked = {user: daemon.ask(user, "POST", "/v1/plan", body)[0] for user in (*USERS, 0)}
        assert {user for user, status in asked.items() if status == 200} == {0, *may}


def test_a_secret_that_was_taken_away_fails_the_build_that_would_use_it(
    daemon: Daemon, secret_of_the_submitter: Path
) -> None:
    body = {**manifest(secret_of_the_submitter, "conf"), "pause_before": "conf"}
    status, build = daemon.ask("submitter", "POST", "/v1/builds", body)
    assert status == 201, build
    os.chown(secret_of_the_submitter, 0, 0)
    at = f"/v1/builds/{build['id']}"
    deadline = time.monotonic() + 60
    while daemon.ask(0, "GET", at)[1]["state"] != "paused":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    # Root resumes it; the build is the submitter's all the same.
    status, resumed = daemon.ask(0, "POST", f"{at}/resume", {})
    assert status == 200, resumed
    while (state := daemon.ask(0, "GET", at)[1])["state"] not in ("failed", "completed"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert state["state"] == "failed"
    assert "may not use the secret" in state["error"]["brief"]
    status, problem = daemon.ask(
        0, "POST", f"{at}/resume", manifest(secret_of_the_submitter, "copy", "conf")
    )
    assert (status, problem["type"]) == (403, "urn:dcd:problem:permission"), problem
