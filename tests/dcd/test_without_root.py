"""A private daemon of a user who is not root: it reads, plans and builds what needs no rights of root, and
names the service for the rest.

Directories that only root enters, on the way to the interpreter and the code, are opened for the test by an
overlay in a mount namespace of its own.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.conftest import Daemon
from tests.user_namespaces import AS_NOBODY, NOBODY, need_user_namespaces

pytestmark = [pytest.mark.root, pytest.mark.daemon]

SCRIPT = """<dc><distro name="note"><execution>
<checkpoint name="write" mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript">
<args>{command}</args></checkpoint></execution></distro></dc>"""


def closed_directories() -> list[Path]:
    """The outermost directories that others may not enter, on the way to what the daemon imports."""
    closed = []
    for path in {
        Path(sys.executable).resolve(),
        Path(sys.prefix),
        Path(__file__),
        Path(sys.base_prefix),
    }:
        above = [parent for parent in reversed(path.parents) if not parent.stat().st_mode & 0o001]
        closed += above[:1]
    return list(dict.fromkeys(closed))


def as_nobody(scratch: Path, *, chroot: bool = False) -> tuple[str, ...]:
    """The beginning of a command that is run as nobody, or as nobody in a chroot with the same files."""
    lines = [f"mount -t tmpfs none {shlex.quote(str(scratch))}"]
    for number, directory in enumerate(closed_directories()):
        upper, work = scratch / f"upper{number}", scratch / f"work{number}"
        options = f"lowerdir={directory},upperdir={upper},workdir={work}"
        lines += [
            f"mkdir {upper} {work}",
            f"mount -t overlay none -o {shlex.quote(options)} {directory}",
            f"chmod 755 {directory}",
        ]
    beginning = AS_NOBODY
    if chroot:
        root = scratch / "root"
        lines += [f"mkdir {root}", f"mount --rbind / {root}"]
        beginning = ("chroot", str(root), *AS_NOBODY)
    script = "; ".join(["set -e", *lines, f'exec {shlex.join(beginning)} "$@"'])
    return ("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh")


@contextmanager
def daemon_of_nobody(*, chroot: bool = False) -> Iterator[Daemon]:
    """A daemon that runs as nobody, in a directory that nobody owns, on a host that uses a loop device."""
    directory = Path(tempfile.mkdtemp(prefix="dcd-nobody-", dir="/tmp"))
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, directory)
        directory.chmod(0o755)
        for name in ("own", "scratch"):
            (directory / name).mkdir()
        os.chown(directory / "own", NOBODY, NOBODY)
        image = directory / "image"
        with image.open("wb") as file:
            file.truncate(1 << 20)
        attach = ["losetup", "--find", "--show", image]
        loop = subprocess.run(attach, capture_output=True, text=True, check=True).stdout.strip()
        undo.callback(subprocess.run, ["losetup", "--detach", loop], check=True)
        daemon = Daemon(directory / "own")
        undo.callback(lambda: daemon.process and daemon.process.kill())
        daemon.start(as_nobody(directory / "scratch", chroot=chroot))
        yield daemon
        assert daemon.stop() == 0, daemon.log.read_text()[-3000:]
        assert daemon.leaks() == []


@pytest.fixture
def private() -> Iterator[Daemon]:
    """See `daemon_of_nobody`."""
    with daemon_of_nobody() as daemon:
        yield daemon


@pytest.fixture
def building() -> Iterator[Daemon]:
    """The same on a host where it can build."""
    need_user_namespaces(*AS_NOBODY)
    with daemon_of_nobody() as daemon:
        yield daemon


def manifest(directory: Path, command: str) -> Path:
    path = directory / "manifest.xml"
    path.write_text(SCRIPT.format(command=command))
    return path


def test_it_builds_what_needs_no_rights_of_root(building: Daemon, tmp_path: Path) -> None:
    build = building.submit(manifest(tmp_path, "id -u &gt; {MEDIA_DIR}/user"))
    status = building.wait(build)
    assert status["state"] == "completed", status
    artifacts = building.state_dir / "artifacts" / build
    assert {path.stat().st_uid for path in artifacts.iterdir()} == {NOBODY}


def test_a_build_is_repeated_in_surroundings_that_are_varied_as_far_as_possible(
    building: Daemon, tmp_path: Path
) -> None:
    building.ctl("reproduce", manifest(tmp_path, "echo same &gt; {PKG_IMAGE_PATH}/file"))
    text = manifest(tmp_path, "uname -n &gt; {PKG_IMAGE_PATH}/file")
    found = building.json("reproduce", text, status=12)
    assert [file["path"] for file in found["files"]] == ["pkg_image/file"]


def test_it_refuses_what_needs_root_before_anything_runs(private: Daemon) -> None:
    example = Path(__file__).parents[2] / "examples/debian-live.xml"
    private.ctl("validate", example)
    actions = {
        each["name"]: each["action"] for each in private.json("plan", example)["checkpoints"]
    }
    assert actions["transfer-deb"] == "unavailable"
    assert actions["create-iso"] == "run"
    refused = private.run("submit", example)
    assert refused.returncode == 11
    assert "it needs the capability SYS_ADMIN, and this daemon is not root" in refused.stderr
    assert "submit it to the service" in refused.stderr


def test_a_file_of_another_user_cannot_be_made_and_the_error_says_who_could(
    building: Daemon, tmp_path: Path
) -> None:
    build = building.submit(manifest(tmp_path, "chown 1000 {PKG_IMAGE_PATH}"))
    error = building.wait(build)["error"]
    assert "the daemon is not root" in error["resolution"]


def test_the_doctor_says_what_it_lacks(building: Daemon) -> None:
    checks = {check["name"]: check for check in building.json("doctor", status=None)["checks"]}
    assert checks["namespaces"]["status"] == "warning"
    assert "only in a user namespace" in checks["namespaces"]["value"]
