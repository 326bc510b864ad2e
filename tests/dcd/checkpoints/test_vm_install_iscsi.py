"""InstallISCSI: what a guest does with its disk is believed only when the disk says so too.

Guests are real and emulated, of one boot sector that prints what an installer would; the target is a real
tgtd. A whole installation is in the tests of the system.
"""

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.image.installer import DebianInstaller
from dcd.checkpoints.image.installer_script import RULE_PATH, SCRIPT, SCRIPT_PATH, UNIT_PATH
from dcd.checkpoints.interface import Context
from dcd.checkpoints.recorded import record_medium
from dcd.checkpoints.vm import gpt
from dcd.checkpoints.vm.answers import make_answers, sfdisk_script, volumes_table
from dcd.checkpoints.vm.create_disk import CreateDisk
from dcd.checkpoints.vm.disk import (
    DiskLayout,
    DiskPartition,
    Volume,
    VolumePartition,
    recorded_disk,
)
from dcd.checkpoints.vm.install_iscsi import InstallISCSI
from dcd.checkpoints.vm.installed_disk import check_disk
from dcd.construction.arguments import BadArguments, match_arguments
from dcd.manifest.diagnostics import refuse
from dcd.platform.hypervisor import Drive, Guest, GuestSpec, KvmVerdict, Qemu
from dcd.platform.iscsi import target_name
from statemachine.errors import CheckpointError, InvalidManifest, Unprepared
from store.host.sparse import data_ranges
from store.host.tools import missing

BootDisk = Callable[[bytes, str], Path]
MakeMedium = Callable[[str, str], Path]

TARGET = """
<target><disk>
<disk_image name="small.raw" size="48mb"/>
<gpt_partition name="1" part_type="bios_boot"><size val="1mb"/></gpt_partition>
<gpt_partition name="2" part_type="linux" label="the &quot;root&quot;">
<format type="ext4" label="root" mountpoint="/"/></gpt_partition>
</disk></target>
"""
VM = '<distro_spec><img_params><vm_im firmware="bios"/></img_params></distro_spec>'

needs_tools = pytest.mark.skipif(
    bool(missing(("qemu-system-x86_64", "tgtd", "qemu-block-extra", "xorriso"))), reason="no tools"
)


def install(**arguments: Any) -> InstallISCSI:
    given = {"memory_mb": 64, "accelerator": "tcg", "timeout_seconds": 60.0}
    return InstallISCSI("install", **{**given, **arguments})


@pytest.fixture
def medium(tmp_path: Path, boot_disk: BootDisk) -> MakeMedium:
    """Makes media that a BIOS boots from CD: `medium(text, afterwards)` as `boot_disk`."""

    def make(text: str, afterwards: str) -> Path:
        disk = boot_disk(text.replace("\n", "\r\n").encode(), afterwards)
        tree = tmp_path / f"medium-{disk.stem}"
        tree.mkdir()
        with disk.open("rb") as sectors:
            (tree / "boot.bin").write_bytes(sectors.read(2048))
        iso = tmp_path / f"{tree.name}.iso"
        command = ["xorriso", "-as", "mkisofs", "-quiet", "-b", "boot.bin", "-no-emul-boot"]
        command += ["-boot-load-size", "4", "-o", str(iso), str(tree)]
        subprocess.run(command, check=True, capture_output=True)
        return iso

    return make


@pytest.fixture
def context(bench: Any, own_network: None, monkeypatch: pytest.MonkeyPatch) -> Context:
    """A workspace with a disk; the word that only an installer knows is `token`."""
    monkeypatch.setattr("dcd.checkpoints.vm.install_iscsi.secrets.token_hex", lambda size: "token")
    made: Context = bench.context(bench.doc(VM, TARGET))
    CreateDisk("disk").execute(made)
    return made


def with_medium(context: Context, medium: Path) -> Context:
    record_medium(context, "iso", Path(shutil.copy(medium, context.media / "test.iso")))
    return context


def nothing_listens() -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", 3260)) != 0


def children() -> list[str]:
    """The names of the processes that this thread has started and that still run."""
    pids = Path("/proc/thread-self/children").read_text().split()
    return [Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids]


@pytest.fixture
def leaves_no_process() -> Iterator[None]:
    before = children()
    yield
    assert children() == before


@needs_tools
@pytest.mark.root
@pytest.mark.slow
@pytest.mark.usefixtures("leaves_no_process")
class TestInstallation:
    def test_that_says_it_succeeded_and_did_nothing_is_not_believed(
        self, bench: Any, context: Context, medium: MakeMedium
    ) -> None:
        said = "dcd-install: 4% dividing /dev/vda\ndcd-install: installed token\n"
        disk, _ = recorded_disk(context)
        with pytest.raises(CheckpointError, match="the disk does not hold") as caught:
            install().execute(with_medium(context, medium(said, "reset")))
        assert caught.value.details == "its partitions are not those of its layout"
        assert "dividing /dev/vda" in bench.messages()
        assert bench.claims == [("iscsi-tgt", target_name(context.attempt))]
        # What CreateDisk had put there cannot be taken for the installer's work.
        assert disk.stat().st_blocks == 0

    def test_that_failed_is_told_with_its_own_words(
        self, bench: Any, context: Context, medium: MakeMedium
    ) -> None:
        said = "cp: No space left on device\ndcd-install: failed while copying the system\n"
        with pytest.raises(CheckpointError, match="installation in the guest failed") as caught:
            install().execute(with_medium(context, medium(said, "halt")))
        assert "failed while copying the system" in caught.value.details
        # It is not this host that lacks space.
        assert "No space left on device" not in caught.value.details
        assert "the guest's disk is full" in caught.value.details
        assert b"copying the system" in (bench.evidence / "install.log").read_bytes()
        assert (bench.evidence / "install.png").read_bytes().startswith(b"\x89PNG")
        assert nothing_listens()

    def test_that_panics_ends_at_once(self, context: Context, medium: MakeMedium) -> None:
        said = "dcd-install: 15% copying\nKernel panic - not syncing: out of memory\n"
        with pytest.raises(CheckpointError, match="kernel panicked") as caught:
            install(timeout_seconds=600.0).execute(with_medium(context, medium(said, "halt")))
        assert "out of memory" in caught.value.details
        assert nothing_listens()

    def test_that_hangs_ends_at_the_time_limit(self, context: Context, medium: MakeMedium) -> None:
        with pytest.raises(CheckpointError, match=r"within 2 seconds") as caught:
            install(timeout_seconds=2.0).execute(
                with_medium(context, medium("dcd-install: 15% copying\n", "halt"))
            )
        assert "timeout_seconds" in caught.value.resolution
        assert nothing_listens()

    @pytest.mark.parametrize("accelerator", ["auto", "kvm"])
    def test_that_kvm_does_not_carry_on_is_done_under_emulation_unless_kvm_was_asked_for(
        self,
        bench: Any,
        context: Context,
        medium: MakeMedium,
        monkeypatch: pytest.MonkeyPatch,
        accelerator: str,
    ) -> None:
        silent = medium("", "halt")
        said = medium("dcd-install: 15% copying\ndcd-install: failed while copying\n", "halt")

        class HalfThere(Qemu):
            """A QEMU whose KVM runs a tiny guest, and stops in every other."""

            @contextmanager
            def guest(self, spec: GuestSpec, directory: Path) -> Iterator[Guest]:
                if spec.accelerator == "kvm":
                    drives = (Drive(silent, "cdrom"), *spec.drives[1:])
                    spec = replace(spec, accelerator="tcg", drives=drives)
                with super().guest(spec, directory) as guest:
                    yield guest

        monkeypatch.setattr("dcd.checkpoints.vm.install_iscsi.Qemu", HalfThere)
        monkeypatch.setattr("dcd.checkpoints.boots.probe_kvm", lambda: KvmVerdict(True, "it runs"))
        monkeypatch.setattr("dcd.checkpoints.vm.installation.SILENCE_SECONDS", 1.0)
        limit, expected = (60.0, "failed") if accelerator == "auto" else (2.0, "within 2 seconds")
        with pytest.raises(CheckpointError, match=expected):
            install(accelerator=accelerator, timeout_seconds=limit).execute(
                with_medium(context, said)
            )
        under_emulation = "printed nothing for 1 seconds under KVM" in bench.messages()
        assert under_emulation == (accelerator == "auto")
        # One target, however many guests.
        assert bench.claims == [("iscsi-tgt", target_name(context.attempt))]
        assert nothing_listens()

    def test_of_an_earlier_attempt_is_not_taken_for_this_one(
        self, context: Context, medium: MakeMedium
    ) -> None:
        with pytest.raises(CheckpointError, match="switched itself off or reset"):
            install().execute(
                with_medium(context, medium("dcd-install: installed another\n", "reset"))
            )

    def test_whose_guest_stays_on_is_told(
        self, bench: Any, context: Context, medium: MakeMedium, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dcd.checkpoints.vm.installation._SWITCHES_OFF_SECONDS", 0.5)
        with pytest.raises(CheckpointError, match="did not switch itself off"):
            install().execute(
                with_medium(context, medium("dcd-install: installed token\n", "halt"))
            )
        assert (bench.evidence / "install.png").read_bytes().startswith(b"\x89PNG")

    def test_from_a_medium_without_an_installer_is_told(
        self, context: Context, medium: MakeMedium, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dcd.checkpoints.vm.installation._STARTS_LATE_SECONDS", 0.5)
        with pytest.raises(CheckpointError, match="installs nothing") as caught:
            install().execute(with_medium(context, medium("debian login: ", "halt")))
        assert "DebianInstaller" in caught.value.resolution

    def test_from_a_medium_that_does_not_boot_is_told(
        self, context: Context, tmp_path: Path
    ) -> None:
        (tmp_path / "zeros.iso").write_bytes(bytes(1 << 20))
        with pytest.raises(CheckpointError, match="firmware found nothing to boot"):
            install().execute(with_medium(context, tmp_path / "zeros.iso"))

    def test_from_a_medium_that_the_manifest_names(
        self, bench: Any, context: Context, medium: MakeMedium
    ) -> None:
        captured = medium("Kernel panic - not syncing: it was this one\n", "halt")
        named = bench.context(context.doc, inputs={"installer.iso": captured})
        with pytest.raises(CheckpointError) as caught:
            install(medium="installer.iso").execute(named)
        assert "it was this one" in caught.value.details

    def test_without_a_medium_says_what_makes_one(self, context: Context) -> None:
        with pytest.raises(CheckpointError, match="an ISO is missing") as caught:
            install().execute(context)
        assert "CreateISO" in caught.value.resolution

    def test_on_a_port_in_use_is_told(self, context: Context, medium: MakeMedium) -> None:
        with_medium(context, medium("", "halt"))
        with (
            socket.create_server(("127.0.0.1", 3260)),
            pytest.raises(Unprepared, match="port 3260"),
        ):
            install().execute(context)

    def test_can_be_cancelled(self, bench: Any, context: Context, medium: MakeMedium) -> None:
        checkpoint = install(timeout_seconds=600.0)
        with pytest.raises(CheckpointError, match="stopped"):
            bench.execute_and_cancel(
                checkpoint, with_medium(context, medium("", "halt")), "install.log"
            )
        assert nothing_listens()

    def test_begins_with_the_claim(self, bench: Any, context: Context, medium: MakeMedium) -> None:
        with_medium(context, medium("", "halt"))

        def refuse(kind: str, name: str) -> None:
            assert nothing_listens()
            raise Unprepared("the log takes no events")

        refusing = bench.context(context.doc)
        object.__setattr__(refusing, "claim", refuse)
        with pytest.raises(Unprepared, match="takes no events"):
            install().execute(refusing)
        assert not (bench.evidence / "install.log").exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"memory_mb": 1}, "memory_mb"),
        ({"cpus": 0}, "cpus"),
        ({"timeout_seconds": 0.0}, "timeout_seconds"),
    ],
)
def test_impossible_arguments_are_refused_when_the_manifest_is_checked(
    bench: Any, arguments: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidManifest, match=problem) as caught:
        refuse(install(**arguments).check(bench.doc(VM, TARGET)))
    assert caught.value.resolution


@pytest.mark.parametrize(
    ("argument", "text"),
    [("hostname", "no spaces"), ("serial_console", "COM1"), ("kernel_args", "a='b")],
)
def test_arguments_without_their_form_are_refused(argument: str, text: str) -> None:
    with pytest.raises(BadArguments) as caught:
        match_arguments(InstallISCSI, [], {argument: text})
    assert argument in {problem.argument for problem in caught.value.problems}


def test_a_root_that_cannot_grow_is_refused_when_the_manifest_is_checked(bench: Any) -> None:
    last = '<gpt_partition name="3" part_type="swap"><size val="4mb"/></gpt_partition></disk>'
    grown = TARGET.replace("<format", '<size val="20mb"/><format').replace("</disk>", last)
    with pytest.raises(InvalidManifest, match="root cannot grow"):
        refuse(install().check(bench.doc(VM, grown)))
    refuse(install(grow_root=False).check(bench.doc(VM, grown)))


def test_what_is_missing_is_known_before_the_build(bench: Any) -> None:
    needed = install().needs(bench.doc(VM, TARGET)).tools
    assert {"tgtd", "qemu-block-extra", "qemu-system-x86_64", "xorriso"} <= set(needed)
    assert "itadm" in install(target="comstar").needs(bench.doc(VM, TARGET)).tools
    assert "tgtd" not in install(target="lio").needs(bench.doc(VM, TARGET)).tools


LAYOUT = DiskLayout(
    "disk.raw",
    64 << 20,
    512,
    "0f5c0f38-95ac-4a9c-8a2f-0123456789ab",
    (
        DiskPartition(
            1,
            "21686148-6449-6e6f-744e-656564454649",
            "11111111-95ac-4a9c-8a2f-0123456789ab",
            *(1 << 20, 1 << 20),
        ),
        VolumePartition(
            3,
            "0fc63daf-8483-4772-8e79-3d69d8477de4",
            "33333333-95ac-4a9c-8a2f-0123456789ab",
            2 << 20,
            8 << 20,
            'häme, "quoted" \\ name',
            volume=Volume("ext4", "aaaaaaaa-95ac-4a9c-8a2f-0123456789ab", "srv", "/srv/data"),
        ),
        VolumePartition(
            2,
            "0fc63daf-8483-4772-8e79-3d69d8477de4",
            "22222222-95ac-4a9c-8a2f-0123456789ab",
            10 << 20,
            50 << 20,
            "root",
            volume=Volume("ext4", "bbbbbbbb-95ac-4a9c-8a2f-0123456789ab", "", "/"),
        ),
        VolumePartition(
            7,
            "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f",
            "77777777-95ac-4a9c-8a2f-0123456789ab",
            60 << 20,
            2 << 20,
            "",
            volume=Volume("swap", "cccccccc-95ac-4a9c-8a2f-0123456789ab"),
        ),
    ),
)


class TestAnswers:
    @pytest.mark.skipif(shutil.which("sfdisk") is None, reason="fdisk is not installed")
    def test_make_sfdisk_divide_a_disk_as_its_layout_says(self, tmp_path: Path) -> None:
        disk = tmp_path / "disk.raw"
        with disk.open("wb") as file:
            file.truncate(LAYOUT.size)
        script = sfdisk_script(LAYOUT).encode()
        subprocess.run(["sfdisk", "--quiet", disk], input=script, check=True)
        at, entries = gpt.table(LAYOUT)[2]
        assert disk.read_bytes()[at : at + len(entries)] == entries

    def test_list_outer_mount_points_before_those_in_them(self) -> None:
        assert volumes_table(LAYOUT).splitlines() == [
            "2\text4\tbbbbbbbb-95ac-4a9c-8a2f-0123456789ab\t-\t/",
            "3\text4\taaaaaaaa-95ac-4a9c-8a2f-0123456789ab\tsrv\t/srv/data",
            "7\tswap\tcccccccc-95ac-4a9c-8a2f-0123456789ab\t-\t-",
        ]

    @pytest.mark.skipif(shutil.which("xorriso") is None, reason="xorriso is not installed")
    def test_are_what_the_shell_reads_whatever_they_contain(
        self, bench: Any, tmp_path: Path
    ) -> None:
        files = tmp_path / "files"
        (files / "etc").mkdir(parents=True)
        (files / "etc/fstab").write_text("# fstab\n")
        (files / "etc/fstab").chmod(0o640)
        value = 'it\'s $(got) "everything" `in` it\nand a line'
        drive = tmp_path / "answers.iso"
        variables = {"token": "abc", "disk": value}
        make_answers(bench.context(bench.empty_doc()), LAYOUT, variables, files, drive)
        out = tmp_path / "out"
        command = ["xorriso", "-osirrox", "on", "-indev", drive, "-extract", "/", out]
        extracted = subprocess.run(command, check=True, capture_output=True, text=True)
        assert "DCD-ANSWERS" in extracted.stderr
        shell = f'. {out}/answers; printf "%s" "$disk"'
        read = subprocess.run(["sh", "-eu", "-c", shell], capture_output=True, check=True)
        assert read.stdout.decode() == value
        listed = subprocess.run(
            ["tar", "-tvf", out / "files.tar"], capture_output=True, check=True, text=True
        )
        assert "-rw-r-----" in listed.stdout
        assert "etc/fstab" in listed.stdout


@pytest.mark.root
@pytest.mark.usefixtures("own_mounts")
class TestTheDisk:
    def test_with_the_right_file_systems_and_no_system_is_not_accepted(self, bench: Any) -> None:
        context = bench.context(bench.doc(VM, TARGET))
        CreateDisk("disk").execute(context)
        disk, layout = recorded_disk(context)
        with pytest.raises(CheckpointError) as caught:
            check_disk(context, disk, layout)
        assert caught.value.details == "there is no /etc/fstab on it"

    def test_with_another_file_system_is_not_accepted(self, bench: Any) -> None:
        context = bench.context(bench.doc(VM, TARGET))
        CreateDisk("disk").execute(context)
        disk, layout = recorded_disk(context)
        root = layout.mounted_at("/")
        assert root is not None
        with disk.open("r+b") as file:
            file.seek(root.start + 1024 + 0x68)
            file.write(bytes(range(16)))
        with pytest.raises(CheckpointError) as caught:
            check_disk(context, disk, layout)
        assert (
            f"was to hold ext4 {root.volume.uuid} and holds ext4 00010203" in caught.value.details
        )

    @pytest.mark.skipif(shutil.which("e2fsck") is None, reason="e2fsprogs is not installed")
    @pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
    def test_with_a_file_system_of_the_guests_making_is_not_mounted(
        self, bench: Any, kind: str
    ) -> None:
        if not all(map(shutil.which, {"xfs": ["xfs_repair"], "btrfs": ["btrfs"]}.get(kind, []))):
            pytest.skip(f"the tools for {kind} are not installed")
        target = TARGET.replace('type="ext4"', f'type="{kind}"').replace('"48mb"', '"512mb"')
        context = bench.context(bench.doc(VM, target))
        CreateDisk("disk").execute(context)
        disk, layout = recorded_disk(context)
        with pytest.raises(CheckpointError) as caught:
            check_disk(context, disk, layout)
        assert caught.value.details == "there is no /etc/fstab on it", "an honest one is mounted"
        root = layout.mounted_at("/")
        assert root is not None
        with disk.open("r+b") as file:
            # What follows the superblock, which still says what it is.
            after = root.start + (0x11000 if kind == "btrfs" else 4096)
            for begin, end in list(data_ranges(file.fileno(), root.start + root.size, after)):
                file.seek(begin)
                content = file.read(min(end - begin, 65536))
                file.seek(begin)
                file.write(bytes(byte ^ 0x5A for byte in content))
        with pytest.raises(CheckpointError) as caught:
            check_disk(context, disk, layout)
        assert f"partition 2 holds no sound {kind}" in caught.value.details

    @pytest.mark.skipif(shutil.which("debugfs") is None, reason="e2fsprogs is not installed")
    def test_with_a_file_system_that_was_not_unmounted_is_not_accepted(self, bench: Any) -> None:
        context = bench.context(bench.doc(VM, TARGET))
        CreateDisk("disk").execute(context)
        disk, layout = recorded_disk(context)
        root = layout.mounted_at("/")
        assert root is not None
        place = f"{disk}?offset={root.start}"
        change = ["debugfs", "-w", "-R", "feature needs_recovery", place]
        subprocess.run(change, check=True, capture_output=True)
        with pytest.raises(CheckpointError) as caught:
            check_disk(context, disk, layout)
        assert "its file systems cannot be read" in caught.value.details


class TestInstaller:
    def image(self, bench: Any, *without: str) -> None:
        for program in ("sfdisk", "mke2fs", "lsblk", "udevadm", "grub-install", "update-grub"):
            if program not in without:
                file = bench.image / "usr/sbin" / program
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text("")

    def test_is_in_the_image_and_starts_by_a_drive_alone(self, bench: Any) -> None:
        self.image(bench)
        bench.execute(DebianInstaller("installer"))
        script = bench.image / SCRIPT_PATH
        assert script.stat().st_mode & 0o777 == 0o755
        assert 'ID_FS_LABEL}=="DCD-ANSWERS"' in (bench.image / RULE_PATH).read_text()
        unit = (bench.image / UNIT_PATH).read_text()
        assert "ConditionKernelCommandLine=boot=live" in unit
        assert "[Install]" not in unit

    def test_names_the_packages_that_the_image_lacks(self, bench: Any) -> None:
        self.image(bench, "sfdisk", "update-grub")
        with pytest.raises(CheckpointError, match="lacks programs to install") as caught:
            bench.execute(DebianInstaller("installer"))
        assert "<name>fdisk</name> and <name>grub2-common</name>" in caught.value.resolution

    def test_is_a_script_that_shells_understand(self, tmp_path: Path) -> None:
        subprocess.run(["sh", "-n"], input=SCRIPT.encode(), check=True)
        assert SCRIPT.startswith("#!/bin/sh\n")
