"""iSCSI targets: a file is served to whoever knows the secret, and to nobody afterwards.

tgtd is real, in a network namespace of its own. The kernel's target and COMSTAR cannot run here: stand-ins
take their place at the boundary, configfs's directories and the two programs of illumos.
"""

import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcd.platform.hypervisor import (
    Attachment,
    ConsoleText,
    GuestSpec,
    NetworkDisk,
    Qemu,
    wait_for,
)
from dcd.platform.iscsi import TARGETS, Comstar, Export, Lio, Tgt, target_name
from dcd.platform.resources import RELEASE, release
from statemachine.errors import CheckpointError, DcdError, Unprepared
from store.host.tools import missing

pytestmark = pytest.mark.slow

BootDisk = Callable[[bytes, str], Path]

NAME = target_name("0123456789abcdef:aaaaaaaaaa:install:1")
PATTERN = b"written through iSCSI".ljust(512, b".")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A sparse file of 8 MiB, whose name would confuse a parser of options."""
    file = tmp_path / "a disk, and more.img"
    with file.open("wb") as made:
        made.truncate(8 << 20)
    return file


def qemu_io(export: Export, command: str, secret: str | None = None) -> str:
    """What QEMU's initiator says to a command on the exported disk."""
    options = (
        f"driver=iscsi,transport=tcp,portal={export.address}:{export.port},lun={export.lun},"
        f"target={export.target},initiator-name={export.initiator},"
        f"user={export.chap.user},password-secret=chap"
    )
    data = export.chap.secret if secret is None else secret
    argv = ["qemu-io", "--object", f"secret,id=chap,data={data}", "--image-opts", options]
    done = subprocess.run([*argv, "-c", command], capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def command_lines() -> str:
    """Those of all processes of the host."""
    lines = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(process.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
        except OSError:
            continue
    return "\n".join(lines)


def environments() -> str:
    """Those of all processes of the host."""
    found = []
    for process in Path("/proc").glob("[0-9]*/environ"):
        try:
            found.append(process.read_bytes().decode("utf-8", "replace"))
        except OSError:
            continue
    return "\n".join(found)


class TestNames:
    @given(attempt=st.text(min_size=1, max_size=300))
    def test_are_valid_and_the_same_each_time(self, attempt: str) -> None:
        name = target_name(attempt)
        assert name == target_name(attempt)
        assert len(name) <= 223
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789.:-")
        assert name.startswith("iqn.2026-11.invalid.dcd:")

    @given(one=st.text(min_size=1), other=st.text(min_size=1))
    def test_of_two_attempts_differ(self, one: str, other: str) -> None:
        assert (target_name(one) == target_name(other)) == (one == other)

    def test_every_kind_can_be_released_and_no_other(self) -> None:
        assert set(RELEASE) == {"iscsi-tgt", "iscsi-lio", "iscsi-comstar"}
        assert {target.kind for target in TARGETS} == set(RELEASE)
        with pytest.raises(DcdError, match="does not know that kind"):
            release("perpetual motion", "one")


needs_tgt = pytest.mark.skipif(
    bool(missing(("tgtd", "qemu-block-extra", "qemu-system-x86_64"))),
    reason="tgt or qemu-block-extra is not installed",
)


@needs_tgt
@pytest.mark.root
@pytest.mark.usefixtures("own_network")
class TestTgt:
    def test_what_is_written_through_it_is_in_the_file_which_stays_sparse(
        self, tmp_path: Path, disk: Path
    ) -> None:
        with Tgt(tmp_path / "tgt").export(disk, NAME) as export:
            said = qemu_io(export, f"write -P {PATTERN[0]} 1M 4k")
            assert "wrote 4096/4096 bytes at offset 1048576" in said
        assert disk.read_bytes()[1 << 20 : (1 << 20) + 4096] == PATTERN[:1] * 4096
        assert disk.stat().st_size == 8 << 20
        assert disk.stat().st_blocks * 512 < 1 << 20

    def test_a_guest_boots_from_it_and_the_secret_is_nowhere_to_be_seen(
        self, tmp_path: Path, boot_disk: BootDisk
    ) -> None:
        boot = boot_disk(b"started over the network", "halt")
        with Tgt(tmp_path / "tgt").export(boot, NAME) as export:
            disk = NetworkDisk(export, "virtio", "dcd-disk")
            log = tmp_path / "console.log"
            spec = GuestSpec("test", "bios", "tcg", 64, 1, (), log, (disk,))
            with Qemu().guest(spec, tmp_path / "guest") as guest:
                wait_for(guest, "over the network", 60, ConsoleText())
                assert export.target in command_lines()
                assert export.chap.secret not in command_lines()
                assert export.chap.secret not in environments()
        written = [file for file in tmp_path.rglob("*") if file.is_file()]
        assert all(export.chap.secret.encode() not in file.read_bytes() for file in written)
        assert export.chap.secret not in repr(export)

    @pytest.mark.parametrize("attachment", ["scsi", "sata", "nvme", "ide"])
    def test_the_guest_sees_it_on_any_controller(
        self, tmp_path: Path, boot_disk: BootDisk, attachment: Attachment
    ) -> None:
        boot = boot_disk(b"started over the network", "halt")
        with Tgt(tmp_path / "tgt").export(boot, NAME) as export:
            disk = NetworkDisk(export, attachment, "dcd-disk")
            log = tmp_path / "console.log"
            spec = GuestSpec("test", "bios", "tcg", 64, 1, (), log, (disk,))
            with Qemu().guest(spec, tmp_path / "guest") as guest:
                wait_for(guest, "over the network", 60, ConsoleText())

    @pytest.mark.parametrize("wrong", ["not the secret", ""])
    def test_whoever_does_not_know_the_secret_is_refused(
        self, tmp_path: Path, disk: Path, wrong: str
    ) -> None:
        with Tgt(tmp_path / "tgt").export(disk, NAME) as export:
            said = qemu_io(export, "read 0 512", wrong)
        assert "read 512/512" not in said
        assert "Authentication" in said or "authentication" in said or "secret" in said

    def test_each_export_has_a_secret_of_its_own(self, tmp_path: Path, disk: Path) -> None:
        secrets = set()
        for n in range(3):
            with Tgt(tmp_path / f"tgt{n}").export(disk, NAME) as export:
                assert export.target == NAME
                secrets.add(export.chap.secret)
        assert len(secrets) == 3

    def test_it_is_withdrawn_also_when_its_user_fails(self, tmp_path: Path, disk: Path) -> None:
        with pytest.raises(ZeroDivisionError), Tgt(tmp_path / "tgt").export(disk, NAME) as export:
            place = (export.address, export.port)
            with socket.create_connection(place):
                raise ZeroDivisionError
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(place)
        children = Path("/proc/thread-self/children").read_text().split()
        names = [Path(f"/proc/{child}/comm").read_text().strip() for child in children]
        assert "tgtd" not in names

    def test_a_port_in_use_is_said_to_be(self, tmp_path: Path, disk: Path) -> None:
        with (
            socket.create_server(("127.0.0.1", 3260)),
            pytest.raises(Unprepared, match=r"port 3260 of 127\.0\.0\.1 is in use") as caught,
            Tgt(tmp_path / "tgt").export(disk, NAME),
        ):
            pass
        assert "sport = :3260" in caught.value.resolution

    def test_a_file_that_is_not_there_cannot_be_served(self, tmp_path: Path) -> None:
        with (
            pytest.raises(CheckpointError, match="tgtd refused to make a unit"),
            Tgt(tmp_path / "tgt").export(tmp_path / "none", NAME),
        ):
            pass

    def test_a_host_without_tgtd_is_told_what_installs_it(
        self, tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "bin").mkdir()
        setpriv = shutil.which("setpriv")
        assert setpriv is not None
        (tmp_path / "bin/setpriv").symlink_to(setpriv)
        monkeypatch.setattr(
            "dcd.platform.iscsi.tgt.BASE_ENVIRONMENT", {"PATH": str(tmp_path / "bin")}
        )
        with pytest.raises(CheckpointError) as caught, Tgt(tmp_path / "tgt").export(disk, NAME):
            pass
        assert caught.value.resolution == "install it: apt-get install tgt"

    def test_in_a_deep_directory_it_is_reached_all_the_same(
        self, tmp_path: Path, disk: Path
    ) -> None:
        deep = tmp_path.joinpath(*["a-rather-long-name-of-a-directory"] * 5)
        with Tgt(deep / "tgt").export(disk, NAME) as export:
            assert "read 512/512" in qemu_io(export, "read 0 512")


class Configfs:
    """Plain directories that behave as the kernel's below /sys/kernel/config/target: one that is made has
    its groups in it, and one that is removed takes its attributes with it, but not other objects."""

    GROUPS = {"tpgt_1": ("lun", "np", "acls", "attrib", "auth")}

    def __init__(self, root: Path) -> None:
        self.root = root
        for directory in ("core", "iscsi"):
            (root / directory).mkdir(parents=True)
        self.made: list[str] = []
        self.busy = ""
        self._mkdir, self._rmdir = Path.mkdir, Path.rmdir

    def mkdir(self, path: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False):
        assert not parents
        if path.name == self.busy:
            raise OSError(98, "Address already in use")
        self._mkdir(path, exist_ok=exist_ok)
        for group in self.GROUPS.get(path.name, ()):
            self._mkdir(path / group)
        self.made.append(str(path.relative_to(self.root)))

    def rmdir(self, path: Path) -> None:
        if path.name == self.busy:
            raise OSError(16, "Device or resource busy")
        for entry in path.iterdir():
            if entry.is_symlink():
                raise OSError(39, "Directory not empty")
            if entry.is_file():
                entry.unlink()
            else:
                for attribute in entry.iterdir():
                    if not attribute.is_file():
                        raise OSError(39, "Directory not empty")
                    attribute.unlink()
                self._rmdir(entry)
        self._rmdir(path)

    def objects(self) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*"))


@pytest.fixture
def configfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configfs:
    stand_in = Configfs(tmp_path / "config/target")
    monkeypatch.setattr("dcd.platform.iscsi.lio.CONFIGFS", stand_in.root)
    monkeypatch.setattr(Path, "mkdir", lambda path, *a, **k: stand_in.mkdir(path, *a, **k))
    monkeypatch.setattr(Path, "rmdir", lambda path: stand_in.rmdir(path))
    return stand_in


class TestLio:
    def test_serves_behind_chap_and_leaves_nothing(self, configfs: Configfs, disk: Path) -> None:
        with Lio(disk.parent).export(disk, NAME) as export:
            group = configfs.root / "iscsi" / NAME / "tpgt_1"
            (store,) = (configfs.root / "core/fileio_0").iterdir()
            assert (store / "control").read_text() == f"fd_dev_name={disk},fd_dev_size={8 << 20}"
            assert (group / f"lun/lun_1/{store.name}").resolve() == store
            assert (group / "np/127.0.0.1:3260").is_dir()
            assert (group / "attrib/authentication").read_text() == "1"
            assert (group / "auth/password").read_text() == export.chap.secret
            assert (group / "enable").read_text() == "1"
        assert configfs.objects() == ["core", "core/fileio_0", "iscsi"]

    @pytest.mark.parametrize("died_after", range(1, 7))
    def test_what_a_dead_worker_made_is_released_by_name(
        self, configfs: Configfs, disk: Path, died_after: int
    ) -> None:
        whole = Lio(disk.parent).export(disk, NAME)
        whole.__enter__()
        # The order of making is the order in which a worker can die.
        for made in reversed(configfs.made[died_after:]):
            for link in (configfs.root / made).glob("*"):
                if link.is_symlink():
                    link.unlink()
            (configfs.root / made).rmdir()
        release("iscsi-lio", NAME)
        release("iscsi-lio", NAME)
        assert configfs.objects() in (["core", "core/fileio_0", "iscsi"], ["core", "iscsi"])
        whole.__exit__(None, None, None)

    def test_a_port_in_use_is_said_to_be_and_nothing_stays(
        self, configfs: Configfs, disk: Path
    ) -> None:
        configfs.busy = "127.0.0.1:3260"
        with pytest.raises(Unprepared, match="is in use"), Lio(disk.parent).export(disk, NAME):
            pass
        assert configfs.objects() == ["core", "core/fileio_0", "iscsi"]

    def test_one_that_cannot_be_withdrawn_is_named_with_the_remedy(
        self, configfs: Configfs, disk: Path
    ) -> None:
        withdrawn = pytest.raises(DcdError, match=f"{NAME} cannot be withdrawn")
        with withdrawn as caught, Lio(disk.parent).export(disk, NAME):
            configfs.busy = "lun_1"
        assert f"targetcli /iscsi delete {NAME}" in caught.value.resolution

    def test_a_kernel_without_it_is_said_to_lack_it(
        self, tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dcd.platform.iscsi.lio.CONFIGFS", tmp_path / "none")
        with pytest.raises(Unprepared, match="not available"), Lio(tmp_path).export(disk, NAME):
            pass


ADMINISTRATION = """\
#!/bin/sh
# What itadm and stmfadm know is in files: KIND/NAME. Every command line is written down.
state=STATE
tool=$(basename "$0")
echo "$tool $*" >> "$state/log"
command=$1; shift
for last; do :; done
kind=${command#*-}
case $command in
    list-*) ls "$state/$kind" 2>/dev/null; exit 0 ;;
    create-lu) name=${2#guid=} ;;
    create-tpg) name=$1; if [ -e "$state/taken" ]; then echo "$2: address in use" >&2; exit 1; fi ;;
    create-*) name=$last ;;
    delete-*)
        if [ ! -e "$state/$kind/$last" ]; then echo "$last: not found" >&2; exit 1; fi
        if [ -e "$state/stuck" ]; then echo "$last: busy" >&2; exit 1; fi
        rm "$state/$kind/$last"; exit 0 ;;
    *) exit 0 ;;
esac
if [ "$kind" = initiator ]; then cp "$4" "$state/secret"; fi
mkdir -p "$state/$kind"; touch "$state/$kind/$name"
"""


@pytest.fixture
def illumos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for COMSTAR's two programs; returns the directory with what they know."""
    state, programs = tmp_path / "comstar", tmp_path / "bin"
    state.mkdir()
    programs.mkdir()
    for name in ("itadm", "stmfadm"):
        (programs / name).write_text(ADMINISTRATION.replace("STATE", str(state)))
        (programs / name).chmod(0o755)
    monkeypatch.setattr(
        "store.host.process.BASE_ENVIRONMENT", {"PATH": f"{programs}:/usr/bin:/bin"}
    )
    return state


def known(illumos: Path) -> list[str]:
    """The objects that COMSTAR has."""
    return sorted(
        f"{file.parent.name} {file.name}" for file in illumos.glob("*/*") if file.is_file()
    )


class TestComstar:
    def test_serves_behind_chap_and_leaves_nothing(self, illumos: Path, disk: Path) -> None:
        with Comstar(disk.parent / "own").export(disk, NAME) as export:
            assert [line.split()[0] for line in known(illumos)] == [
                *("initiator", "lu", "target", "tg", "tpg")
            ]
            assert (illumos / "secret").read_text() == export.chap.secret
        assert known(illumos) == []
        log = (illumos / "log").read_text()
        assert export.chap.secret not in log
        assert "stmfadm create-lu -p guid=600144F0" in log
        assert f"-n {NAME}\n" in log
        assert list((disk.parent / "own").iterdir()) == []

    def test_what_a_dead_worker_made_is_released_by_name(self, illumos: Path, disk: Path) -> None:
        whole = Comstar(disk.parent / "own").export(disk, NAME)
        whole.__enter__()
        release("iscsi-comstar", NAME)
        assert known(illumos) == []
        release("iscsi-comstar", NAME)
        whole.__exit__(None, None, None)

    def test_a_portal_that_cannot_be_had_is_said_and_nothing_stays(
        self, illumos: Path, disk: Path
    ) -> None:
        (illumos / "taken").touch()
        with (
            pytest.raises(Unprepared, match="port 3260") as caught,
            Comstar(disk.parent / "own").export(disk, NAME),
        ):
            pass
        assert "address in use" in caught.value.details
        assert known(illumos) == []

    def test_one_that_cannot_be_withdrawn_is_told_with_the_remedy(
        self, illumos: Path, disk: Path
    ) -> None:
        withdrawn = pytest.raises(DcdError, match="cannot be withdrawn")
        with withdrawn as caught, Comstar(disk.parent / "own").export(disk, NAME):
            (illumos / "stuck").touch()
        assert f"itadm delete-target -f {NAME}" in caught.value.resolution
