"""A host without tools: the daemon starts and does what it can, the doctor answers, and both say what to
install.

The tools are hidden by whiteouts in overlays over the host's program directories, in a mount namespace of
the test's own, as on a host that has never had them. Where util-linux is missing, so it is on illumos.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from dcd.doctor import IMAGE_TOOLS
from store.host.tools import TOOLS

pytestmark = [pytest.mark.slow, pytest.mark.root]

UTIL_LINUX = ("setpriv", "unshare", "findmnt", "losetup", "prlimit")
ALL = tuple({tool.executable for tool in TOOLS.values() if "/" not in tool.executable})
PROGRAM_DIRECTORIES = ("/usr/bin", "/usr/sbin")

NO_LINUX = Path(__file__).parents[1] / "no_linux"

Hide = Callable[[Iterable[str]], tuple[str, ...]]


@pytest.fixture
def hide(tmp_path: Path) -> Hide:
    """Makes the beginning of a command that runs the rest of it without these programs."""

    def begin(programs: Iterable[str]) -> tuple[str, ...]:
        lines = []
        for number, directory in enumerate(PROGRAM_DIRECTORIES):
            upper, work = tmp_path / f"upper{number}", tmp_path / f"work{number}"
            upper.mkdir()
            work.mkdir()
            for program in programs:
                os.mknod(upper / program, 0o020000, 0)  # a whiteout, as overlayfs has them
            options = shlex.quote(f"lowerdir={directory},upperdir={upper},workdir={work}")
            lines.append(f"mount -t overlay none -o {options} {directory}")
        # Both mounts are made by a shell that has found mount(8) before it is hidden.
        script = "; ".join(["hash mount", *reversed(lines), 'exec "$@"'])
        return "unshare", "--mount", "--propagation", "slave", "bash", "-ec", script, "bash"

    return begin


@pytest.mark.parametrize("programs", [UTIL_LINUX, ALL], ids=["util-linux", "all"])
def test_the_doctor_names_what_is_missing_and_the_remedy(hide: Hide, tmp_path: Path, programs):
    command = [*hide(programs), sys.executable, "-m", "dcd.main", "doctor"]
    done = subprocess.run(
        [*command, "--state-dir", str(tmp_path / "state"), "--json"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == (11 if programs is ALL else 0), done.stderr
    assert "Traceback" not in done.stderr
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    hidden = {name for name in IMAGE_TOOLS if TOOLS[name].executable in programs}
    assert bool(hidden) == (programs is ALL)
    for name in hidden:
        assert checks[name]["status"] == "missing"
        assert TOOLS[name].package in checks[name]["remedy"]
    assert checks["worker"]["status"] == "warning"
    assert checks["worker"]["value"].startswith("portable: setpriv and unshare of util-linux")
    assert "util-linux" in checks["worker"]["remedy"]
    assert not {"namespaces", "isolation", "setpriv", "unshare", "mount"}.intersection(checks)
    assert checks["layers"]["value"].startswith("copy: ")


def test_workers_in_namespaces_are_examined_on_request(hide: Hide, tmp_path: Path):
    command = [*hide(UTIL_LINUX), sys.executable, "-m", "dcd.main", "doctor", "--worker"]
    done = subprocess.run(
        [*command, "namespaces", "--state-dir", str(tmp_path / "state"), "--json"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    for name in ("setpriv", "unshare", "namespaces"):
        assert checks[name]["status"] == "missing"
        assert "util-linux" in checks[name]["remedy"]


def test_the_daemon_runs_what_needs_no_namespace(
    cold_daemon, hide: Hide, write_manifest, monkeypatch: pytest.MonkeyPatch
):
    """With util-linux hidden, and with a Python that lacks what it lacks on illumos."""
    monkeypatch.setenv("PYTHONPATH", str(NO_LINUX))
    cold_daemon.start(hide(UTIL_LINUX))
    manifest = write_manifest(("one", "echo hello >ROOT"), ("two", "cat ROOT"))
    text = manifest.read_text().replace("ROOT", "$PKG_IMAGE_PATH/hello")
    manifest.write_text(text)
    build = cold_daemon.submit(manifest)
    assert cold_daemon.wait(build)["state"] == "completed"
    doctor = cold_daemon.run("doctor")
    assert "portable: setpriv and unshare of util-linux are not installed" in doctor.stdout
    assert "defect" not in doctor.stderr
    assert "Traceback" not in cold_daemon.log.read_text()
    inside = write_manifest(("three", "true"), name="inside", mounts=True)
    refused = cold_daemon.run("submit", inside)
    assert refused.returncode == 11
    assert "needs a mount namespace" in refused.stderr
    assert "worker = namespaces" in refused.stderr
    assert cold_daemon.leaks() == []


def test_with_workers_in_namespaces_it_refuses_everything(cold_daemon, hide: Hide, write_manifest):
    cold_daemon.settings |= {"layer_backend": "copy", "worker": "namespaces"}
    cold_daemon.start()
    build = cold_daemon.submit(write_manifest(("one", "echo hello")), "--pause-before", "one")
    cold_daemon.wait(build, "paused")
    cold_daemon.stop()
    cold_daemon.start(hide(UTIL_LINUX))
    refused = cold_daemon.run("submit", write_manifest(("one", "echo hello")))
    assert refused.returncode == 11
    assert "no checkpoint can run on this host" in refused.stderr
    assert "apt-get install util-linux" in refused.stderr
    cold_daemon.run("resume", build)
    error = cold_daemon.wait(build, "failed")["error"]
    assert error["brief"] == "setpriv cannot be started"
    assert error["resolution"] == "apt-get install util-linux"


def test_processes_are_ended_only_by_the_first_of_a_namespace():
    """A defect in the start of workers must not end all processes of the host."""
    program = """
import subprocess, time
from dcd.worker.attempt import _end_other_processes
other = subprocess.Popen(["sleep", "60"])
try:
    _end_other_processes()
except RuntimeError as error:
    print(error)
time.sleep(0.2)
print(other.poll())
other.kill()
"""
    # A shell as the first process; a defect here kills this namespace and not the host.
    inside = f"{shlex.quote(sys.executable)} -c {shlex.quote(program)}; exit $?"
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", inside],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["all processes of the host would be killed", "None"]
