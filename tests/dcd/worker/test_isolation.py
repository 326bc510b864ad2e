"""Scripts that try what they may not: on the host, and inside an image. Where that says something, the same
is tried with the right declared, which then works."""

import os
import re
import shutil
import socket
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from dcd.worker.messages import Completed, Failed
from dcd.worker.request import SCRATCH, Grants
from store.host.capabilities import CHROOT, FILES, MOUNTS, NUMBERS
from tests.dcd.worker.conftest import MOUNTING, Bench, said

pytestmark = [pytest.mark.root, pytest.mark.slow]

WITHOUT_MOUNTING = Grants(capabilities=CHROOT)


def inside(bench: Bench, command: str) -> str:
    """The same for a command inside an image, whose checkpoint may mount."""
    return said(bench, command, probe="Enters", grants=MOUNTING)


def block_device() -> os.stat_result:
    """A disk, or what passes for one, that root can read here."""
    for path in sorted(Path("/dev").iterdir()):
        status = path.stat()
        if stat.S_ISBLK(status.st_mode):
            try:
                path.open("rb").close()
            except OSError:
                continue
            return status
    pytest.skip("this host has no block device that could be opened")


def mknod_and_read(directory: str) -> str:
    device = block_device().st_rdev
    node = f"{directory}/disk"
    return (
        f"mknod {node} b {os.major(device)} {os.minor(device)} && echo made;"
        f" head -c 512 {node} | wc -c; rm {node}"
    )


EDITABLE = """
import importlib.util, sys

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "dcd_test_editable":
            return importlib.util.spec_from_file_location(
                name, {away!r} + "/__init__.py", submodule_search_locations=[{away!r}]
            )

sys.meta_path.append(Finder)
"""


def test_a_package_that_is_installed_editable_is_seen(
    bench: Bench, tmp_path_factory: pytest.TempPathFactory
) -> None:
    away = tmp_path_factory.mktemp("away")
    package = away / "dcd_test_editable"
    package.mkdir()
    (away / "other").touch()
    (package / "__init__.py").touch()
    shutil.copy(bench.directory / "dcd_test_probes.py", package / "probes.py")
    (bench.directory / "sitecustomize.py").write_text(EDITABLE.format(away=str(package)))
    request = replace(
        bench.request("Runs", f"ls {away}"),
        mod_path="dcd_test_editable/probes",
        allowed=("dcd_test_editable.*",),
    )

    outcome = bench.run(request)

    assert isinstance(outcome, Completed), (outcome, bench.log(request).read_text())
    assert bench.output(request).splitlines()[-1] == "dcd_test_editable"


class TestTheHost:
    @pytest.mark.parametrize("place", ["/etc", "/usr/local/bin", "/var/lib", "/sys/kernel"])
    def test_is_read_only(self, bench: Bench, place: str) -> None:
        output = said(bench, f"touch {place}/dcd-was-here")
        assert "Read-only file system" in output or "Permission denied" in output
        assert not Path(place, "dcd-was-here").exists()

    def test_can_be_written_where_the_checkpoint_says_so(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        (tmp_path / "export").mkdir()
        command = f"touch {tmp_path}/export/new {tmp_path}/other"
        grants = Grants(writes=(tmp_path / "export",))
        assert "cannot touch" in said(bench, command)
        said(bench, command, grants=grants)
        assert (tmp_path / "export/new").exists()
        assert not (tmp_path / "other").exists()

    def test_a_place_to_write_to_that_somebody_replaced_by_a_link_is_not_shown(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        (tmp_path / "theirs").mkdir()
        (tmp_path / "above").symlink_to(tmp_path)
        (tmp_path / "export").symlink_to(tmp_path / "theirs")
        for path in (tmp_path / "export", tmp_path / "above/theirs"):
            grants = Grants(writes=(path,))
            outcome = bench.run(bench.request("Runs", f"touch {path}/new", grants=grants))
            assert not isinstance(outcome, Completed)
        assert not (tmp_path / "theirs/new").exists()

    def test_a_place_to_write_to_that_is_not_there_is_told(self, bench: Bench) -> None:
        outcome = bench.run(bench.request("Runs", "true", grants=Grants(writes=(Path("/none"),))))
        assert isinstance(outcome, Failed)
        assert outcome.error.brief == "/none does not exist"

    @pytest.mark.parametrize("place", ["/tmp", "/var/tmp", "/run", "/dev/shm", "/root"])
    def test_shares_no_scratch_space_with_a_worker(self, bench: Bench, place: str) -> None:
        name = f"dcd-test-{os.getpid()}"
        theirs = Path(place, f"{name}-host")
        theirs.touch()
        try:
            output = said(bench, f"ls {place}; touch {place}/{name}-worker && echo touched")
        finally:
            theirs.unlink()
        assert theirs.name not in output
        assert output.endswith("touched\n")
        assert not Path(place, f"{name}-worker").exists()

    @pytest.mark.parametrize("place", ["/tmp", "/mnt", "/home", "/run"])
    def test_a_disk_that_it_does_not_see_is_not_kept_busy_by_it(
        self, bench: Bench, place: str
    ) -> None:
        mounted = Path(place, f"dcd-test-{os.getpid()}")
        mounted.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "dcd-test", mounted], check=True)
        try:
            seen = said(bench, f"cat /proc/self/mountinfo; ls {mounted}")
        finally:
            subprocess.run(["umount", mounted], check=True)
            mounted.rmdir()
        assert re.search(r"^(\S+ ){4}/ ", seen, re.MULTILINE), "its root is mounted"
        assert f" {mounted} " not in seen

    def test_scratch_space_goes_with_the_attempt(self, bench: Bench) -> None:
        request = bench.request("Runs", "echo x > /tmp/file")
        assert isinstance(bench.run(request), Completed)
        assert not (request.workspace.directory / SCRATCH).exists()

    def test_the_way_to_what_it_sees_takes_no_directories_of_the_disk(self, bench: Bench) -> None:
        # The workspace is several directories below /tmp.
        request = bench.request("Runs", "true")
        scratch = request.workspace.directory / SCRATCH
        command = f"ls -d {request.workspace.directory}; find {scratch}/tmp; touch {scratch}/new"
        request = replace(request, args=(f"({command}) 2>&1 || true",))
        assert isinstance(bench.run(request), Completed)
        shown, *on_disk, refused = bench.output(request).splitlines()
        assert shown == str(request.workspace.directory)
        assert len(on_disk) <= 2, on_disk
        assert "Read-only file system" in refused

    @pytest.mark.parametrize("file", ["core_pattern", "panic", "hostname"])
    def test_kernel_settings_cannot_be_changed(self, bench: Bench, file: str) -> None:
        before = Path("/proc/sys/kernel", file).read_text()
        assert "Read-only" in said(bench, f"echo /bad > /proc/sys/kernel/{file}")
        assert Path("/proc/sys/kernel", file).read_text() == before

    def test_cannot_be_made_to_crash(self, bench: Bench) -> None:
        if not Path("/proc/sysrq-trigger").exists():
            pytest.skip("this host's kernel has no magic SysRq")
        # "h" only prints help, should it get through.
        assert "Read-only" in said(bench, "echo h > /proc/sysrq-trigger")

    def test_secrets_of_the_host_cannot_be_read(self, bench: Bench) -> None:
        output = said(bench, "cat /etc/shadow")
        assert output == "cat: /etc/shadow: Permission denied\n"

    def test_what_is_hidden_is_not_there_but_for_what_was_declared(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        kept = tmp_path / "secrets"
        kept.mkdir()
        (kept / "mine").write_text("told")
        (kept / "other").write_text("untold")
        command = f"cat {kept}/*; touch {kept}/new"
        writes = (tmp_path,)
        assert "untold" in said(bench, command, grants=Grants(writes=writes))
        (kept / "new").unlink()
        grants = Grants(writes=writes, hidden=(kept,), secrets=(kept / "mine",))
        output = said(bench, command, grants=grants)
        assert "untold" not in output
        assert output.startswith("told")
        assert "Read-only" in output
        assert not (kept / "new").exists()

    def test_other_builds_and_the_event_log_are_out_of_reach(
        self, bench: Bench, tmp_path: Path
    ) -> None:
        (bench.directory / "events.db").write_text("all events")
        other = bench.request("Runs", "true")
        (other.workspace.directory / "layer/tree/file").write_text("another build's")
        command = f"cat {bench.directory}/events.db {other.workspace.directory}/layer/tree/file"
        shown = Grants(writes=(tmp_path,))
        assert said(bench, command, grants=shown) == "all eventsanother build's"
        hidden = (bench.directory / "events.db", bench.directory / "layers")
        output = said(bench, command, grants=Grants(writes=(tmp_path,), hidden=hidden))
        assert "another" not in output.replace(str(bench.directory), "")
        assert "all events" not in output

    def test_its_own_workspace_and_inputs_are_there_all_the_same(self, bench: Bench) -> None:
        blob = bench.directory / "blob"
        blob.write_text("captured")
        request = bench.request(
            "Runs",
            f"cat {blob}; echo made > ROOT/media/file; touch {blob}",
            inputs={"/captured": blob},
            grants=Grants(hidden=(bench.directory / "layers",)),
        )
        assert isinstance(bench.run(request), Failed)  # a captured file is read-only
        assert bench.output(request).startswith("captured")
        made = request.workspace.directory / "layer/tree/media/file"
        assert made.read_text() == "made\n"

    def test_the_daemon_cannot_be_spoken_to(self, bench: Bench, tmp_path: Path) -> None:
        address = tmp_path / "s"
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(address))
            listening.listen()
            command = (
                "python3 -c 'import socket, sys;"
                f' socket.socket(socket.AF_UNIX).connect("{address}"); print("connected")\''
            )
            shown = Grants(writes=(tmp_path,))
            assert said(bench, command, grants=shown) == "connected\n"
            hidden = Grants(writes=(tmp_path,), hidden=(address,))
            assert "connected" not in said(bench, command, grants=hidden)

    def test_its_processes_cannot_be_ended(self, bench: Bench) -> None:
        output = said(bench, f"kill -9 {os.getpid()}")
        assert "o such process" in output

    def test_its_disks_cannot_be_read(self, bench: Bench) -> None:
        assert said(bench, mknod_and_read("ROOT/pkg_image")).splitlines()[0] == "made"
        for directory in ("ROOT/pkg_image", "/tmp", "/run", "/dev/shm"):
            assert "\n0\n" in said(bench, mknod_and_read(directory)), directory
        assert "Read-only" in said(bench, mknod_and_read("/dev"), grants=MOUNTING)

    def test_only_declared_devices_are_there(self, bench: Bench) -> None:
        standard = set(said(bench, "ls /dev").split())
        assert standard == {
            *("null", "zero", "full", "random", "urandom", "tty"),
            *("fd", "stdin", "stdout", "stderr", "ptmx", "pts", "shm"),
        }
        more = set(said(bench, "ls /dev", grants=Grants(devices=("loop-control", "none"))).split())
        assert more - standard == {"loop-control"} & {p.name for p in Path("/dev").iterdir()}
        assert said(bench, "echo x > /dev/null; head -c3 /dev/zero | wc -c") == "3\n"


class TestRights:
    def test_are_those_declared_and_no_others(self, bench: Bench) -> None:
        output = said(bench, "grep -E 'Cap(Prm|Eff|Bnd)|NoNewPrivs' /proc/self/status")
        fields = dict(line.split(":\t") for line in output.splitlines())
        assert fields.pop("NoNewPrivs") == "1"
        allowed = sum(1 << NUMBERS[name] for name in (*FILES, "SETPCAP"))
        assert {int(value, 16) for value in fields.values()} == {allowed}

    def test_no_set_undoes_the_isolation(self) -> None:
        for name in ("DAC_READ_SEARCH", "SYS_PTRACE", "SYS_MODULE", "SYS_RAWIO", "SETPCAP"):
            assert name not in MOUNTS

    def test_a_script_cannot_mount_or_remount(self, bench: Bench) -> None:
        mount, remount = (
            "mount -t tmpfs none ROOT/media && echo done",
            "mount -o remount,rw / && echo done",
        )
        assert "done" not in said(bench, f"{mount}; {remount}", grants=WITHOUT_MOUNTING)
        assert "done" in said(bench, mount, grants=MOUNTING)

    def test_the_process_above_it_cannot_be_looked_into_or_entered(self, bench: Bench) -> None:
        output = said(
            bench,
            "cat /proc/1/environ; ls /proc/1/root/ /proc/1/fd/;"
            " nsenter --target 1 --mount true && echo entered",
        )
        assert output.count("Permission denied") >= 3
        assert "entered" not in output
        assert f"{bench.state_id}" not in output

    def test_the_nodes_of_devices_cannot_be_changed(self, bench: Bench) -> None:
        """They are the host's. A program's standard input is one of them."""
        changes = "chmod 666 /dev/null; chown 0:0 /dev/zero; touch -m /dev/full"
        program = "import os; os.fchmod(0, 0o666)"
        output = said(bench, f"{changes}; python3 -c '{program}'")
        assert output.count("Read-only file system") == 4
        assert said(bench, "echo text >/dev/null && head -c 1 /dev/zero | wc -c") == "1\n"

    def test_dumps_no_core_and_opens_so_many_files(self, bench: Bench) -> None:
        assert said(bench, "ulimit -c; ulimit -n", grants=Grants(open_files=100)) == "0\n100\n"

    def test_has_no_more_processes_than_it_may(self, bench: Bench) -> None:
        if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 14):
            pytest.skip("this host's kernel has one limit for all")
        ours = Path("/proc/sys/kernel/pid_max").read_text()
        command = "for n in $(seq 600); do sleep 5 & done"
        assert "fork" in said(bench, command, grants=Grants(processes=512))
        assert said(bench, command) == ""
        assert Path("/proc/sys/kernel/pid_max").read_text() == ours

    def test_takes_no_more_memory_than_it_may(self, bench: Bench) -> None:
        take = "python3 -c 'print(len(bytearray(300 << 20)))'"
        assert said(bench, take) == f"{300 << 20}\n"
        assert "MemoryError" in said(bench, take, grants=Grants(memory_bytes=200 << 20))


class TestInsideAnImage:
    def test_rights_are_those_over_files(self, bench: Bench) -> None:
        output = inside(bench, "grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status")
        values = {int(line.split(":\t")[1], 16) for line in output.splitlines()}
        assert values == {sum(1 << NUMBERS[name] for name in FILES)}

    def test_the_image_cannot_be_left(self, bench: Bench) -> None:
        assert "Operation not permitted" in inside(bench, "chroot /usr /bin/true")
        assert "Operation not permitted" not in said(
            bench, "chroot / /bin/true", grants=WITHOUT_MOUNTING
        )

    def test_the_workers_root_cannot_be_reached_through_proc(self, bench: Bench) -> None:
        output = inside(bench, "for pid in 1 2 3; do ls /proc/$pid/root/ /proc/$pid/cwd/; done")
        assert output.count("Permission denied") == 6

    def test_nothing_can_be_mounted(self, bench: Bench) -> None:
        output = inside(bench, "mount -t tmpfs none /tmp && echo done")
        assert "done" not in output

    def test_the_hosts_disks_cannot_be_read(self, bench: Bench) -> None:
        for directory in ("", "/tmp", "/run", "/dev"):
            output = inside(bench, mknod_and_read(directory))
            assert output.startswith("made\n"), directory
            assert "\n0\n" in output, directory

    def test_kernel_settings_cannot_be_changed(self, bench: Bench) -> None:
        assert "Read-only" in inside(bench, "echo /bad > /proc/sys/kernel/core_pattern")

    def test_devices_that_programs_expect_work(self, bench: Bench) -> None:
        assert inside(bench, "echo x > /dev/null; head -c3 /dev/zero | wc -c") == "3\n"


class TestRefusals:
    @pytest.mark.parametrize(
        ("command", "word"),
        [
            ("touch /etc/new", "`writes`"),
            ("mount -t tmpfs none /tmp", "`capabilities`"),
            ("head -c1 /etc/shadow", "`devices`"),
        ],
    )
    def test_say_what_to_declare(self, bench: Bench, command: str, word: str) -> None:
        outcome = bench.run(bench.request("Runs", command))
        assert isinstance(outcome, Failed)
        assert word in outcome.error.resolution

    def test_of_something_else_say_nothing_of_rights(self, bench: Bench) -> None:
        outcome = bench.run(bench.request("Runs", "echo broken; false"))
        assert isinstance(outcome, Failed)
        assert outcome.error.resolution == ""
