"""What the workers of a real daemon may: what their checkpoints declare, and the settings allow."""

from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from tests.conftest import Daemon

pytestmark = pytest.mark.root

CHECKPOINT = '''
"""Declares secrets, and says what it sees of them."""

import os
from pathlib import Path

from dcd.checkpoints.interface import Checkpoint, Context, Needs


class Looks(Checkpoint):
    def needs(self, doc) -> Needs:
        return Needs(secrets=("DCD_SECRET_MINE", "PATH_OF_DAEMON", "/etc/shadow"))

    def execute(self, context: Context) -> None:
        for name in ("DCD_SECRET_MINE", "DCD_SECRET_OTHER", "PATH_OF_DAEMON"):
            print(name, "is", os.environ.get(name), flush=True)
        context.run(["sh", "-c", "echo a tool is told ${DCD_SECRET_MINE-nothing}"])
        try:
            Path("/etc/shadow").read_bytes()
        except PermissionError:
            print("no shadow", flush=True)
'''


@pytest.fixture
def daemon(
    cold_daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Daemon]:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "dcd_test_looks.py").write_text(CHECKPOINT)
    monkeypatch.setenv("PYTHONPATH", f"{modules}:{Path(__file__).parents[3]}")
    for name in ("DCD_SECRET_MINE", "DCD_SECRET_OTHER", "PATH_OF_DAEMON"):
        monkeypatch.setenv(name, f"value of {name}")
    cold_daemon.settings |= {"checkpoint_modules": ["dcd_test_looks"], "worker_open_files": 100}
    yield cold_daemon.start()
    assert cold_daemon.stop() == 0
    assert cold_daemon.leaks() == []


def manifest(tmp_path: Path, checkpoint: str) -> Path:
    path = tmp_path / "rights.xml"
    path.write_text(f'<dc><distro name="rights"><execution>{checkpoint}</execution></distro></dc>')
    return path


def script(line: str, rights: str = "") -> str:
    return (
        '<checkpoint name="one" mod_path="dcd/checkpoints/custom_script"'
        f' checkpoint_class="CustomScript"><args>{escape(line)}</args>'
        f"<kwargs>{rights}</kwargs></checkpoint>"
    )


def test_a_script_sees_nothing_of_the_daemon_but_its_own_workspace(
    daemon: Daemon, tmp_path: Path
) -> None:
    line = f"find {daemon.state_dir} {daemon.socket.parent} -type f -o -type s; ulimit -n"
    build = daemon.submit(manifest(tmp_path, script(line)))
    daemon.wait(build, "completed")
    *seen, limit = daemon.ctl("logs", build).splitlines()
    assert limit == "100"
    workspace, evidence = f"/.work/{build}", f"/logs/{build}/one.1/"
    modules = str(tmp_path / "modules")
    assert [
        line
        for line in seen
        if workspace not in line and evidence not in line and not line.startswith(modules)
    ] == []


def test_a_script_that_does_what_it_has_not_declared_fails_and_is_told(
    daemon: Daemon, tmp_path: Path
) -> None:
    (tmp_path / "export").mkdir()
    line = f"touch {tmp_path}/export/made /etc/dcd-was-here"
    build = daemon.submit(manifest(tmp_path, script(line)))
    error = daemon.wait(build, "failed")["checkpoints"][0]["error"]
    assert "Read-only file system" in error["details"]
    assert "`writes`" in error["resolution"]
    assert list((tmp_path / "export").iterdir()) == []


def test_a_script_may_do_what_it_declares(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    line = f"mount -t tmpfs none {{TMP_DIR}} && touch {tmp_path}/export/made"
    rights = '<arglist name="capabilities"><argitem>SYS_ADMIN</argitem></arglist>'
    rights += f'<arglist name="writes"><argitem>{tmp_path}/export</argitem></arglist>'
    build = daemon.submit(manifest(tmp_path, script(line, rights)))
    daemon.wait(build, "completed")
    assert (tmp_path / "export/made").exists()


def test_secrets_reach_who_declares_them_and_only_those_that_are_secrets(
    daemon: Daemon, tmp_path: Path
) -> None:
    looks = '<checkpoint name="one" mod_path="dcd_test_looks" checkpoint_class="Looks"/>'
    build = daemon.submit(manifest(tmp_path, looks))
    daemon.wait(build, "completed")
    assert daemon.ctl("logs", build).splitlines() == [
        "DCD_SECRET_MINE is value of DCD_SECRET_MINE",
        "DCD_SECRET_OTHER is None",
        "PATH_OF_DAEMON is None",
        "a tool is told nothing",
        "no shadow",
    ]


PROXIES = {
    "http_proxy": "http://svc:PASS-1@proxy.example:3128/",
    "HTTPS_PROXY": "svc:P@SS-2://x@proxy.example:3128",
    "ftp_proxy": "http://svc%40corp@proxy.example:3128",
    "no_proxy": "localhost",
}


@pytest.mark.parametrize("network", [False, True])
def test_a_script_gets_proxies_only_with_the_network_and_never_their_logins(
    cold_daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: bool
) -> None:
    for name, value in PROXIES.items():
        monkeypatch.setenv(name, value)
    cold_daemon.start()
    line = "env; cat /proc/1/environ /proc/self/environ | tr '\\0' '\\n'"
    rights = '<arg name="network">true</arg>' if network else ""
    build = cold_daemon.submit(manifest(tmp_path, script(line, rights)))
    cold_daemon.wait(build, "completed")
    log = cold_daemon.ctl("logs", build)
    assert not any(secret in log for secret in ("PASS-1", "SS-2", "svc"))
    given = {line for line in log.splitlines() if "proxy" in line.lower().partition("=")[0]}
    assert given == (
        {
            "http_proxy=http://proxy.example:3128/",
            "HTTPS_PROXY=proxy.example:3128",
            "ftp_proxy=http://proxy.example:3128",
            "no_proxy=localhost",
        }
        if network
        else set()
    )
