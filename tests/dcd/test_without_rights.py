"""An attacker who runs code in the daemon's main process: what it has, and what it does not reach."""

import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import WriteManifest

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.usefixtures("really_started")]


def status_of(pid: int) -> dict[str, str]:
    """The fields of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def as_the_main_process(daemon: Any, program: str) -> str:
    """What a program prints that runs with the user, groups and rights of the daemon's main process."""
    status = status_of(daemon.process.pid)
    uid, gid = status["Uid"].split()[0], status["Gid"].split()[0]
    command = [
        "setpriv",
        "--reuid",
        uid,
        "--regid",
        gid,
        "--groups",
        ",".join(status["Groups"].split()),
    ]
    command += ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
    command += ["/usr/bin/python3", "-c", textwrap.dedent(program)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}, cwd="/", check=False
    )
    return done.stdout + done.stderr


def test_the_main_process_has_no_rights_and_none_to_gain(daemon: Any) -> None:
    status = status_of(daemon.process.pid)
    numbers = {int(number) for number in (status["Uid"] + " " + status["Gid"]).split()}
    assert len(numbers) == 1
    assert 0x7000_0000 <= min(numbers) <= 0x7FFF_FFFF
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert status["NoNewPrivs"] == "1"
    assert 0 not in map(int, status["Groups"].split())
    threads = Path(f"/proc/{daemon.process.pid}/task").iterdir()
    assert {status_of(int(thread.name))["CapEff"] for thread in threads} == {"0" * 16}
    assert status_of(daemon.launcher())["Uid"].split() == ["0"] * 4


PROBE = """
    import ctypes, os, signal
    from pathlib import Path
    state, launcher, layer = Path({state!r}), {launcher}, Path({layer!r})
    libc = ctypes.CDLL(None, use_errno=True)

    def tries(what, attempt):
        try:
            result = attempt()
            print(what, "WORKS" if result in (None, 0) or result else "refused")
        except OSError as error:
            print(what, "refused")

    def call(number):
        if number != 0:
            raise OSError(ctypes.get_errno(), "")
        return 0

    tries("control: reads the event log", (state / "events/events.db").read_bytes)
    tries("control: writes beside it", (state / "events/probe").touch)
    tries("reads the mark", (state / "id").read_bytes)
    tries("reads the key", (state / "secret-digests.key").read_bytes)
    tries("writes the lock", lambda: (state / "launcher.lock").write_text("x"))
    tries("lists layers", lambda: list((state / "layers").iterdir()))
    tries("reads a layer", lambda: (layer / "layer.json").read_bytes())
    tries("creates in the state directory", (state / "probe").touch)
    tries("moves layers", lambda: (state / "layers").rename(state / "events/layers"))
    tries("moves blobs", lambda: (state / "blobs").rename(state / "events/blobs"))
    tries("writes an artifact", lambda: next((state / "artifacts").glob("*/*")).write_text("x"))
    tries("removes an artifact", lambda: next((state / "artifacts").glob("*/*")).unlink())
    tries("writes a log", lambda: next((state / "logs").glob("*/*.log")).write_text("x"))
    tries("puts a link for logs", lambda: (state / "logs/x").symlink_to("/etc"))
    tries("reads shadow", Path("/etc/shadow").read_bytes)
    tries("becomes root", lambda: os.setuid(0))
    tries("signals the launcher", lambda: os.kill(launcher, signal.SIGTERM))
    tries("traces the launcher", lambda: call(libc.ptrace(16, launcher, 0, 0)))
    tries("reads the launcher's memory", lambda: open(f"/proc/{{launcher}}/mem", "rb"))
    tries("reads the launcher's environment", Path(f"/proc/{{launcher}}/environ").read_bytes)
    tries("mounts", lambda: call(libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, None)))
    tries("changes the root", lambda: os.chroot("/tmp"))
    tries("makes a device", lambda: os.mknod("/tmp/dcd-probe", 0o20600, os.makedev(1, 3)))
    tries("opens a disk", lambda: open("/dev/vda", "rb"))
"""


def test_the_main_process_does_not_reach(daemon: Any, write_manifest: WriteManifest) -> None:
    build = daemon.submit(write_manifest(("one", "echo x")))
    daemon.wait(build, "completed")
    (layer,) = (path for path in daemon.state_dir.glob("layers/*/*") if len(path.name) == 64)
    program = PROBE.format(
        state=str(daemon.state_dir), launcher=daemon.launcher(), layer=str(layer)
    )
    lines = as_the_main_process(daemon, program).splitlines()
    worked = [line for line in lines if not line.endswith(" refused")]
    assert worked == [
        "control: reads the event log WORKS",
        "control: writes beside it WORKS",
    ]
    assert len(lines) == 24
    assert daemon.ctl("artifacts", build, "--verify")


def test_a_node_that_a_worker_leaves_opens_no_device(daemon: Any) -> None:
    """Evidence is written by workers, which are root, and read by the main process."""
    mounts = Path(f"/proc/{daemon.process.pid}/mountinfo").read_text().splitlines()
    (state,) = (line for line in mounts if line.split()[4] == str(daemon.state_dir.resolve()))
    assert {"nosuid", "nodev"} <= set(state.split()[5].split(","))
    host = Path("/proc/self/mountinfo").read_text()
    assert f" {daemon.state_dir.resolve()} " not in host


def planners_of(daemon: Any) -> list[int]:
    """The pids of the processes that fork planners: what unshare(1) has started for the launcher."""
    tasks = Path(f"/proc/{daemon.launcher()}/task")
    starters = [pid for task in tasks.iterdir() for pid in (task / "children").read_text().split()]
    starters = [pid for pid in starters if Path(f"/proc/{pid}/comm").read_text() == "unshare\n"]
    return [int(Path(f"/proc/{pid}/task/{pid}/children").read_text()) for pid in starters]


def test_the_planners_process_has_no_rights_either(
    daemon: Any, write_manifest: WriteManifest
) -> None:
    manifest = write_manifest(("one", "true"))
    daemon.ctl("validate", manifest)  # it gives up root before it answers
    (planner,) = planners_of(daemon)
    status = status_of(planner)
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["Uid"] == status_of(daemon.process.pid)["Uid"]


def test_the_planners_process_is_started_again_when_it_has_died(
    daemon: Any, write_manifest: WriteManifest
) -> None:
    manifest = write_manifest(("one", "true"))
    daemon.ctl("validate", manifest)
    for _ in range(2):
        (planner,) = planners_of(daemon)
        os.kill(planner, signal.SIGKILL)
        daemon.ctl("validate", manifest)


def test_the_process_of_the_daemon_finds_a_group_of_its_clients_in_its_user(tmp_path: Path) -> None:
    """A user `dcd` whose primary group is that of the clients would let them write its files."""
    program = """
        import os, pwd, grp
        from pathlib import Path
        from dcd import serve
        from dcd.configuration import Configuration
        from statemachine.errors import Unavailable
        user = pwd.struct_passwd(("dcd", "x", 4711, os.getgid(), "", "/", "/bin/false"))
        pwd.getpwnam = lambda name: user
        group = grp.getgrgid(os.getgid()).gr_name
        try:
            serve._setup(Configuration(state_dir=Path(STATE), group=group), ())
        except Unavailable as error:
            print(error.brief)
    """
    program = textwrap.dedent(program).replace("STATE", repr(str(tmp_path)))
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    assert re.search("the daemon's user has the group of its clients", done.stdout)


def test_a_state_directory_of_version_0_1_moves_its_log_and_changes_its_owners(
    daemon: Any, write_manifest: WriteManifest
) -> None:
    build = daemon.submit(write_manifest(("one", "echo x")))
    daemon.wait(build, "completed")
    assert daemon.stop() == 0
    state = daemon.state_dir
    for path in (state / "events").glob("events.db*"):
        path.rename(state / path.name)
    (state / "events").rmdir()
    for path in (state, *state.rglob("*")):
        if not path.is_relative_to(state / "layers"):
            os.chown(path, 0, 0, follow_symlinks=False)
    daemon.start()
    assert daemon.status(build)["state"] == "completed"
    assert not (state / "events.db").exists()
    assert (state / "events/events.db").stat().st_uid != 0
