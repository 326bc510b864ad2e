"""Guests under QEMU: what a guest's owner can rely on. Real guests, of one boot sector, emulated."""

import itertools
import json
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcd.platform.hypervisor import (
    Attachment,
    ConsoleText,
    Drive,
    Firmware,
    Guest,
    GuestSpec,
    GuestStuck,
    GuestTrouble,
    Qemu,
    listen,
    serial,
    wait_for,
)
from dcd.platform.hypervisor.boards import BOARDS
from dcd.platform.hypervisor.probe import run_probe_guest
from dcd.platform.hypervisor.qemu import find_uefi
from statemachine.errors import CheckpointError, Unprepared

pytestmark = pytest.mark.slow

BootDisk = Callable[[bytes, str], Path]

needs_qemu = pytest.mark.skipif(
    shutil.which("qemu-system-x86_64") is None, reason="qemu-system-x86 is not installed"
)


@contextmanager
def running(
    directory: Path,
    disk: Path,
    attachment: Attachment = "virtio",
    firmware: Firmware = "bios",
    writable: bool = False,
) -> Iterator[Guest]:
    drive = Drive(disk, attachment, writable=writable)
    spec = GuestSpec("test", firmware, "tcg", 64, 1, (drive,), directory / "console.log")
    with Qemu().guest(spec, directory / "guest, one") as guest:
        yield guest


def processes_with(text: str) -> list[str]:
    """Command lines of living processes that mention a text."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = process.read_bytes().replace(b"\0", b" ").decode()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if text in line:
            found.append(line)
    return found


@needs_qemu
@pytest.mark.parametrize("attachment", ["virtio", "scsi", "sata", "nvme", "ide", "usb"])
def test_a_guest_boots_from_its_drive_on_every_controller(
    tmp_path: Path, boot_disk: BootDisk, attachment: Attachment
) -> None:
    disk = boot_disk(b"\r\nhello from the sector\r\n", "halt")
    console = ConsoleText()
    with running(tmp_path, disk, attachment) as guest:
        wait_for(guest, "from the sector", 60, console)
    assert "hello from the sector" in console.text
    assert b"hello from the sector" in (tmp_path / "console.log").read_bytes()


@needs_qemu
def test_what_is_typed_on_the_console_reaches_the_guest(
    tmp_path: Path, boot_disk: BootDisk
) -> None:
    with running(tmp_path, boot_disk(b"ready", "echo")) as guest:
        console = ConsoleText()
        wait_for(guest, "ready", 60, console)
        guest.write_console(b"ping")
        wait_for(guest, "ping", 60, console)
    assert console.text.endswith("readyping")


@needs_qemu
def test_the_screen_is_pictured_as_png(tmp_path: Path, boot_disk: BootDisk) -> None:
    picture = tmp_path / "screen.png"
    with running(tmp_path, boot_disk(b"ready", "halt")) as guest:
        wait_for(guest, "ready", 60, ConsoleText())
        guest.screenshot(picture)
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@needs_qemu
def test_no_process_is_left_when_the_owner_fails(tmp_path: Path, boot_disk: BootDisk) -> None:
    disk = boot_disk(b"ready", "halt")
    with pytest.raises(ZeroDivisionError), running(tmp_path, disk):
        assert processes_with(str(disk))
        raise ZeroDivisionError
    assert not processes_with(str(disk))


@needs_qemu
def test_the_image_is_not_written_to_unless_it_is_writable(
    tmp_path: Path, boot_disk: BootDisk
) -> None:
    disk = boot_disk(b"ready", "halt")
    disk.chmod(0o400)
    before = disk.read_bytes()
    with running(tmp_path, disk, "usb") as guest:
        wait_for(guest, "ready", 60, ConsoleText())
    assert disk.read_bytes() == before


@needs_qemu
def test_a_guest_that_resets_has_ended(tmp_path: Path, boot_disk: BootDisk) -> None:
    with (
        running(tmp_path, boot_disk(b"going down", "reset")) as guest,
        pytest.raises(GuestTrouble, match="switched itself off or reset") as caught,
    ):
        wait_for(guest, "login:", 60, ConsoleText())
    assert "going down" in caught.value.details


@needs_qemu
def test_firmware_that_finds_nothing_to_boot_is_noticed_at_once(tmp_path: Path) -> None:
    disk = tmp_path / "empty.img"
    disk.write_bytes(bytes(1 << 20))
    with (
        running(tmp_path, disk) as guest,
        pytest.raises(GuestTrouble, match="found nothing to boot"),
    ):
        wait_for(guest, "login:", 60, ConsoleText())


@needs_qemu
def test_a_drive_that_is_not_there_is_an_error_with_qemus_own_words(tmp_path: Path) -> None:
    with (
        pytest.raises(CheckpointError, match="did not start the guest") as caught,
        running(tmp_path, tmp_path / "missing.img"),
    ):
        pass
    assert "missing.img" in caught.value.details


@needs_qemu
def test_waiting_ends_when_it_is_stopped_and_at_its_limit(
    tmp_path: Path, boot_disk: BootDisk
) -> None:
    with running(tmp_path, boot_disk(b"ready", "halt")) as guest:
        with pytest.raises(CheckpointError, match="stopped"):
            wait_for(guest, "login:", 60, ConsoleText(), stopped=lambda: True)
        with pytest.raises(GuestTrouble, match=r"did not print 'login:' within 0.01 seconds"):
            wait_for(guest, "login:", 0.01, ConsoleText())


@needs_qemu
def test_the_probe_believes_only_a_guest_that_answered() -> None:
    assert run_probe_guest("tcg", "qemu64", limit_seconds=60).usable
    refused = run_probe_guest("tcg", "no-such-cpu", limit_seconds=60)
    assert not refused.usable
    assert "no-such-cpu" in refused.reason


@needs_qemu
def test_the_probe_gives_up_a_guest_that_hangs() -> None:
    verdict = run_probe_guest("tcg", "qemu64", limit_seconds=0.001)
    assert not verdict.usable
    assert "did not answer" in verdict.reason


def describe_firmware(
    directory: Path, name: str, features: list[str], architecture: str = "x86_64"
) -> None:
    directory.mkdir(exist_ok=True)
    for part in ("code", "vars"):
        (directory / f"{name}.{part}").touch()
    (directory / f"{name}.json").write_text(
        json.dumps(
            {
                "interface-types": ["uefi"],
                "features": features,
                "targets": [{"architecture": architecture, "machines": ["*"]}],
                "mapping": {
                    "device": "flash",
                    "executable": {"filename": str(directory / f"{name}.code"), "format": "raw"},
                    "nvram-template": {
                        "filename": str(directory / f"{name}.vars"),
                        "format": "raw",
                    },
                },
            }
        )
    )


def test_uefi_firmware_is_found_by_its_description(tmp_path: Path) -> None:
    describe_firmware(tmp_path / "a", "40-secure", ["secure-boot", "requires-smm"])
    describe_firmware(tmp_path / "a", "60-plain", ["acpi-s3"])
    describe_firmware(tmp_path / "a", "50-arm", [], architecture="aarch64")
    for kind, name in (("amd64", "60-plain"), ("arm64", "50-arm")):
        assert find_uefi(BOARDS[kind], (tmp_path / "a",)) == (
            tmp_path / f"a/{name}.code",
            tmp_path / f"a/{name}.vars",
        )


def test_firmware_with_secure_boot_has_the_keys_of_its_package(tmp_path: Path) -> None:
    describe_firmware(tmp_path, "40-enrolled", ["secure-boot", "requires-smm", "enrolled-keys"])
    describe_firmware(tmp_path, "50-empty", ["secure-boot", "requires-smm"])
    describe_firmware(tmp_path, "60-plain", ["acpi-s3"])
    assert (
        find_uefi(BOARDS["amd64"], (tmp_path,), keys="enrolled")[0] == tmp_path / "40-enrolled.code"
    )
    assert find_uefi(BOARDS["amd64"], (tmp_path,), keys="empty")[0] == tmp_path / "50-empty.code"


@needs_qemu
@pytest.mark.parametrize(
    ("printed", "refused"),
    [
        (b'failed to load Boot0001 "DVD" from Pci(0x0): Access Denied', "UEFI firmware refused"),
        (b"Verification failed: (0x1A) Security Violation", "shim refused the next boot loader"),
        (b"error: bad shim signature.", "GRUB refused the kernel"),
    ],
)
def test_a_refusal_with_secure_boot_names_who_refused_what(
    tmp_path: Path, boot_disk: BootDisk, printed: bytes, refused: str
) -> None:
    with (
        running(tmp_path, boot_disk(printed, "halt")) as guest,
        pytest.raises(GuestTrouble, match=refused) as caught,
    ):
        wait_for(guest, "login:", 60, ConsoleText())
    assert "Secure Boot is on" in caught.value.resolution


def test_the_administrators_description_of_firmware_outranks_the_packages(tmp_path: Path) -> None:
    describe_firmware(tmp_path / "package", "60-plain", [])
    describe_firmware(tmp_path / "admin", "60-plain", [])
    code, _ = find_uefi(BOARDS["amd64"], (tmp_path / "admin", tmp_path / "package"))
    assert code == tmp_path / "admin/60-plain.code"


@pytest.mark.parametrize(
    ("architecture", "package"), [("amd64", "ovmf"), ("arm64", "qemu-efi-aarch64")]
)
def test_missing_uefi_firmware_is_an_error_that_says_what_to_install(
    tmp_path: Path, architecture: str, package: str
) -> None:
    with pytest.raises(Unprepared) as caught:
        find_uefi(BOARDS[architecture], (tmp_path / "none",))
    assert f"apt-get install {package}" in caught.value.resolution


SEQUENCES = (
    b"\x1b[0m",
    b"\x1b[1;31m",
    b"\x1b[2J",
    b"\x1b[?25l",
    b"\x1b]0;title\x07",
    b"\x1b]8;;http://x\x1b\\",
    b"\x1b(B",
    b"\x1bc",
    b"\x1b=",
    b"\r",
    b"\x08",
    b"\0",
)


@given(
    st.lists(st.tuples(st.text("logins: \nü%[(", max_size=6), st.sampled_from(SEQUENCES))),
    st.lists(st.integers(0, 200)),
)
def test_console_text_is_what_a_person_reads_however_it_is_cut(
    pieces: list[tuple[str, bytes]], cuts: list[int]
) -> None:
    raw = b"".join(text.encode() + sequence for text, sequence in pieces)
    console = ConsoleText()
    borders = [0, *sorted(cut for cut in cuts if cut < len(raw)), len(raw)]
    for begin, end in itertools.pairwise(borders):
        console.feed(raw[begin:end])
    assert console.text == "".join(text for text, _ in pieces)


def test_an_escape_sequence_that_never_ends_does_not_swallow_the_console() -> None:
    console = ConsoleText()
    console.feed(b"before\x1b]0;")
    for _ in range(100):
        console.feed(b"x" * 100)
    console.feed(b" after")
    assert console.text.startswith("before")
    assert console.text.endswith("after")


def test_of_a_console_without_end_the_beginning_and_the_end_are_kept() -> None:
    console = ConsoleText()
    console.feed(b"firmware\r\n")
    line = b"audit: backlog limit exceeded\r\n" * 1000
    for _ in range(300):
        console.feed(line)
    console.feed(b"Kernel panic\r\n")
    assert len(console.text) < 7 * 1024 * 1024
    assert console.text.startswith("firmware\naudit")
    assert console.text.endswith("exceeded\nKernel panic\n")
    assert "characters left out]\n" in console.text
    assert console.tail(1) == "Kernel panic"


def test_a_marker_is_found_in_a_console_without_end() -> None:
    flood = [b"x" * 65536] * 200
    console = ConsoleText()
    guest = PrintingGuest(*flood, b"log", b"in:")
    assert wait_for(guest, "login:", 600, console) >= 0
    assert console.text.endswith("xlogin:")
    assert len(console.text) < 7 * 1024 * 1024


def test_the_log_of_a_console_without_end_has_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serial, "LOG_BYTES", 100_000)
    guest, owner = socket.socketpair()
    with guest, owner, (tmp_path / "log").open("wb", buffering=0) as log:
        console = serial.SerialGuest(owner, log)
        for _ in range(50):
            guest.sendall(b"x" * 10_000)
            assert console.read_console(1.0)
    written = (tmp_path / "log").read_bytes()
    assert written[:100_000] == b"x" * 100_000
    assert written[100_000:] == b"\n[dcd: the rest is left out]\n"


class PrintingGuest:
    """A guest of which only the console is real."""

    def __init__(self, *chunks: bytes, stopped: str = "") -> None:
        self.chunks = list(chunks)
        self.stopped = stopped

    def read_console(self, wait_seconds: float) -> bytes | None:
        if self.chunks:
            return self.chunks.pop(0)
        return b"" if self.stopped else None

    def write_console(self, text: bytes) -> None: ...

    def firmware_says_unbootable(self) -> bool:
        return False

    def stopped_reason(self) -> str:
        return "" if self.chunks else self.stopped

    def screenshot(self, png: Path) -> None: ...


@pytest.mark.parametrize(
    ("printed", "brief"),
    [
        (b"[ 1.2] Kernel panic - not syncing: VFS: Unable to mount root fs", "kernel panicked"),
        (b"You are in emergency mode. After logging in, type", "emergency mode"),
        (b"Cannot open access to console, the root account is locked.", "emergency mode"),
        (b"error: no such partition.\r\ngrub rescue> ", "GRUB did not find its files"),
        (b"\x1b[2J GNU GRUB  version 2.06\r\n\x1b[0mgrub> ", "prompt instead of a menu"),
        (b"error: file `/live/vmlinuz' not found.\r\nPress any key to continue...", "not load"),
        (b"Unable to find a medium containing a live file system", "did not find the medium"),
        (
            b"Unable to find a live file system on the network",
            "did not get its live file system through the network",
        ),
        (b"ALERT!  /dev/sda1 does not exist.  Dropping to a shell!", "root file system"),
        (b"BusyBox v1.35.0\r\n(initramfs) ", "initramfs's shell"),
        (b"UEFI Interactive Shell v2.2", "UEFI firmware found nothing"),
    ],
)
def test_signs_of_a_failed_boot_end_the_wait(printed: bytes, brief: str) -> None:
    middle = len(printed) // 2
    guest = PrintingGuest(b"booting\r\n", printed[:middle], printed[middle:], b"", b"", b"login:")
    with pytest.raises(GuestTrouble, match=brief) as caught:
        wait_for(guest, "login:", 60, ConsoleText())
    assert "booting" in caught.value.details
    assert caught.value.resolution


@pytest.mark.parametrize(
    ("reason", "kind"),
    [("internal-error", GuestStuck), ("io-error", GuestTrouble), ("guest-panicked", GuestTrouble)],
)
def test_a_guest_that_its_hypervisor_stopped_ends_the_wait(
    reason: str, kind: type[GuestTrouble]
) -> None:
    with pytest.raises(GuestTrouble, match=reason) as caught:
        wait_for(PrintingGuest(b"booting", stopped=reason), "login:", 60, ConsoleText())
    assert type(caught.value) is kind
    assert "booting" in caught.value.details


@needs_qemu
def test_a_guest_that_runs_or_has_ended_was_not_stopped(
    tmp_path: Path, boot_disk: BootDisk
) -> None:
    with running(tmp_path, boot_disk(b"ready", "halt")) as guest:
        wait_for(guest, "ready", 60, ConsoleText())
        assert guest.stopped_reason() == ""
    assert guest.stopped_reason() == ""


def test_what_follows_a_sign_of_failure_is_in_the_error() -> None:
    guest = PrintingGuest(
        b"Kernel panic - not syncing", b": no init found", b"\r\nCPU: 0", b"", b"x"
    )
    with pytest.raises(GuestTrouble) as caught:
        wait_for(guest, "login:", 60, ConsoleText())
    assert caught.value.details.endswith("not syncing: no init found\nCPU: 0")


def test_a_marker_in_two_chunks_is_seen_but_not_one_from_before_the_wait() -> None:
    console = ConsoleText()
    console.feed(b"login: ")
    assert wait_for(PrintingGuest(b"x log", b"\x1b[0min:"), "login:", 60, console) >= 0
    with pytest.raises(GuestTrouble):
        wait_for(PrintingGuest(b"nothing"), "login:", 60, console)


def test_what_a_guest_prints_after_its_marker_is_heard_for_a_while() -> None:
    console = ConsoleText()
    guest = PrintingGuest(b"host login:", b" on tty1\r\n", b"", b"last\r\n")
    wait_for(guest, "login:", 60, console)
    listen(guest, console, 60.0, lambda: False)
    assert console.text == "host login: on tty1\nlast\n"
    listen(PrintingGuest(b"never read"), console, 60.0, lambda: True)
    listen(PrintingGuest(b"never read"), console, 0.0, lambda: False)
    assert console.text.endswith("last\n")
