"""A host that lets users make no user namespaces: the daemon of an ordinary user says so at its start, in the
error of a build, and to the doctor, with what to change. So does that of root where root makes none either.

The kernel makes no user namespace for a process in a chroot.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcd.worker.permission import refusing_settings
from tests.conftest import Daemon
from tests.dcd.test_without_root import daemon_of_nobody, manifest

pytestmark = pytest.mark.root

REFUSED = "this host lets ordinary users make no user namespaces"
REMEDY = "run the daemon as root"

WITHOUT_CAPABILITY = ("setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin")
"""The beginning of a command of root in a container."""


@pytest.fixture(scope="module")
def hardened() -> Iterator[Daemon]:
    """A daemon of nobody on such a host."""
    with daemon_of_nobody(chroot=True) as daemon:
        yield daemon


@pytest.mark.daemon
def test_the_daemon_says_so_when_it_starts(hardened: Daemon) -> None:
    (warning,) = (
        line for line in hardened.log.read_text().splitlines() if "no checkpoint can run" in line
    )
    assert REFUSED in warning
    assert REMEDY in warning


@pytest.mark.daemon
def test_a_build_fails_with_that_reason_and_the_remedy(hardened: Daemon, tmp_path: Path) -> None:
    build = hardened.submit(manifest(tmp_path, "true"))
    status = hardened.wait(build)
    assert status["state"] == "failed"
    assert status["error"]["brief"] == REFUSED
    assert REMEDY in status["error"]["resolution"]


@pytest.mark.daemon
def test_the_doctor_says_so(hardened: Daemon) -> None:
    checks = {check["name"]: check for check in hardened.json("doctor", status=11)["checks"]}
    assert checks["namespaces"]["status"] == "missing"
    assert checks["namespaces"]["value"].startswith(f"{REFUSED}: ")
    assert REMEDY in checks["namespaces"]["remedy"]


def test_root_without_the_capability_hears_of_it() -> None:
    asked = "from dcd.worker.permission import require_namespaces; require_namespaces()"
    command = [*WITHOUT_CAPABILITY, sys.executable, "-c", asked]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert "this host lets root make no namespaces" in refused.stderr
    assert "--privileged" in refused.stderr


@pytest.mark.daemon
def test_a_daemon_of_such_a_root_does_not_start_and_says_why(tmp_path: Path) -> None:
    command = [*WITHOUT_CAPABILITY, sys.executable, "-m", "dcd.main", "serve"]
    command += ["--state-dir", str(tmp_path / "state"), "--socket", str(tmp_path / "s")]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 11
    assert "this host lets root make no mount namespaces" in refused.stderr
    assert "--privileged" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("name", "refusing", "allowing"),
    [
        ("user.max_user_namespaces", "0", "15000"),
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ],
)
def test_a_setting_of_the_kernel_that_refuses_is_found(
    tmp_path: Path, name: str, refusing: str, allowing: str
) -> None:
    file = tmp_path / name.replace(".", "/")
    file.parent.mkdir()
    for value, found in ((refusing, [name]), (allowing, [])):
        file.write_text(f"{value}\n")
        assert refusing_settings(tmp_path) == found
