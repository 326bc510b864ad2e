"""Reading a guest's serial console.

`ConsoleText` turns the byte stream into the text that a person sees: without escape sequences and control
characters, even those split across chunks. `wait_for` follows a guest until it prints a marker, and reports
as soon as further waiting is useless: a panic, an emergency shell, the prompt of a boot loader, firmware that
found nothing to boot.
"""

import codecs
import io
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dcd.platform.hypervisor.interface import Guest
from statemachine.errors import CheckpointError

_ESCAPE = re.compile(
    rb"\x1b(?:\[[0-?]*[ -/]*[@-~]"  # CSI ... final byte (ECMA-48)
    rb"|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"  # OSC, DCS, ... up to BEL or ST
    rb"|[ -/]+[0-~]"  # nF, such as character set selection
    rb"|[0-OQ-WYZ\\`-~])"  # two bytes
)
_UNFINISHED = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)\Z")
_CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
_LONGEST_SEQUENCE_BYTES = 4096


KEPT_CHARACTERS = 2 * 1024 * 1024
"""Length of the beginning of a console that is kept, and the minimum length of its end."""


class ConsoleText:
    """The text of a console so far. Of a very long one, only the beginning and the end are kept; the console
    log has all of it."""

    def __init__(self) -> None:
        self._head = io.StringIO()
        self._older, self._newer = "", io.StringIO()
        self._length = 0
        self._pending = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def text(self) -> str:
        """The text, with a line in place of an omitted part."""
        head, end = self._head.getvalue(), self._older + self._newer.getvalue()
        left_out = self._length - len(head) - len(end)
        return f"{head}\n[{left_out} characters left out]\n{end}" if left_out else head + end

    def feed(self, chunk: bytes) -> str:
        """Add received bytes; returns the text that they add."""
        raw = self._pending + chunk
        self._pending = b""
        unfinished = _UNFINISHED.search(raw)
        if unfinished and len(unfinished.group()) < _LONGEST_SEQUENCE_BYTES:
            self._pending = unfinished.group()
            raw = raw[: unfinished.start()]
        new = self._decoder.decode(_CONTROL.sub(b"", _ESCAPE.sub(b"", raw)))
        room = max(0, KEPT_CHARACTERS - self._length)
        self._length += len(new)
        self._head.write(new[:room])
        self._newer.write(new[room:])
        if self._newer.tell() >= KEPT_CHARACTERS:
            self._older, self._newer = self._newer.getvalue(), io.StringIO()
        return new

    def tail(self, lines: int) -> str:
        """The last lines that are not blank."""
        printed = [line.rstrip() for line in self.text.splitlines() if line.strip()]
        return "\n".join(printed[-lines:])


@dataclass(frozen=True, slots=True)
class Trouble:
    """Signs on the console that the boot has failed, and the remedy."""

    signs: tuple[str, ...]
    brief: str
    resolution: str


TROUBLES = (
    Trouble(
        ("Kernel panic - not syncing",),
        "the guest's kernel panicked",
        "the console log has the reason just above the panic; if the memory is too small for the image,"
        " raise memory_mb",
    ),
    Trouble(
        ("Unable to find a medium containing a live file system",),
        "the guest did not find the medium from which it was booted",
        "the image's kernel or initramfs lacks a driver for the medium's controller, or /live of the"
        " medium lacks the compressed file system",
    ),
    Trouble(
        ("Unable to find a live file system on the network",),
        "the guest did not get its live file system through the network",
        "the compressed image must be where fetch= of the boot entry leads, the memory large enough for it,"
        " and the driver of the network card in the initramfs",
    ),
    Trouble(
        ("Dropping to a shell!",),
        "the guest's initramfs did not find its root file system",
        "check the root= argument in the boot menu and the drivers in the initramfs",
    ),
    Trouble(
        ("(initramfs)",),
        "the guest stopped in the initramfs's shell",
        "the console log shows what was missing; for a live image the initramfs needs live-boot",
    ),
    Trouble(
        ("You are in emergency mode", "Cannot open access to console, the root account is locked"),
        "the guest stopped in emergency mode",
        "a unit that the boot depends on failed, often a file system in /etc/fstab; the console log"
        " names it",
    ),
    Trouble(
        ("grub rescue>",),
        "GRUB did not find its files on the medium",
        "the boot loader's directory boot/grub is missing from the medium",
    ),
    Trouble(
        ("Verification failed: (0x1A)", "Security Violation"),
        "shim refused the next boot loader, which no key that it knows has signed, or which is revoked",
        "Secure Boot is on: `sbverify --list` shows the signers of EFI/BOOT/grubx64.efi of the EFI system"
        " partition; install shim and GRUB from the same release of the distribution",
    ),
    Trouble(
        ("bad shim signature", "shim_lock protocol not found", "prohibited by secure boot policy"),
        "GRUB refused the kernel, which no key that the firmware or shim knows has signed",
        "Secure Boot is on: install the distribution's signed kernel",
    ),
    Trouble(
        ("Press any key to continue...",),
        "GRUB could not load a file that the boot menu names",
        "check that the kernel and the initramfs are in the boot archive",
    ),
    Trouble(
        ("\ngrub>",),
        "GRUB showed its prompt instead of a menu",
        "boot/grub/grub.cfg is missing from the medium: run a boot menu checkpoint before",
    ),
    Trouble(
        (": Access Denied",),
        "the UEFI firmware refused the boot loader, which no key that it knows has signed",
        "Secure Boot is on: `sbverify --list` shows the signers of EFI/BOOT/BOOTX64.EFI of the EFI system"
        " partition; look for the checkpoint that has replaced it",
    ),
    Trouble(
        ("UEFI Interactive Shell", "BdsDxe: No bootable option or device was found"),
        "the UEFI firmware found nothing to boot",
        "the medium has no EFI system partition with EFI/BOOT/BOOTX64.EFI (for arm64: BOOTAA64.EFI)",
    ),
)
"""Checked in this order; the first one with a printed sign counts."""

UNBOOTABLE = Trouble(
    (),
    "the firmware found nothing to boot",
    "the medium has no boot record for this firmware",
)
"""The firmware's own verdict, which is not on the console."""

TAIL_LINES = 25

LAST_WORDS_SECONDS = 3.0
"""Time limit for reading on after a sign of trouble: the reason often follows the sign."""

_POLL_SECONDS = _SILENCE_SECONDS = 0.5


class GuestTrouble(CheckpointError):
    """A guest that cannot reach its marker. `details` end with the last lines of the console."""


class GuestStuck(GuestTrouble):
    """A guest that its accelerator no longer runs: it is silent for too long, or the hypervisor reports
    it."""


def _trouble(
    brief: str, console: ConsoleText, resolution: str, kind: type[GuestTrouble] = GuestTrouble
) -> GuestTrouble:
    tail = console.tail(TAIL_LINES)
    details = f"the console's last lines:\n{tail}" if tail else "the serial console is empty"
    return kind(brief, details, resolution)


def wait_for(
    guest: Guest,
    marker: str,
    timeout_seconds: float,
    console: ConsoleText,
    stopped: Callable[[], bool] = lambda: False,
    troubles: Sequence[Trouble] = TROUBLES,
    unbootable: Trouble = UNBOOTABLE,
    on_text: Callable[[str], None] = lambda text: None,
    silence_seconds: Callable[[], float] = lambda: math.inf,
) -> float:
    """Follow the guest until `marker` is printed; returns the seconds it took.

    Only new output counts; it is added to `console`. `on_text` is called with each piece of it;
    `silence_seconds` returns how long the guest may be silent at present.

    Raises `GuestTrouble` when the guest ends, shows a sign of one of the `troubles`, or has not printed the
    marker in time, `GuestStuck` when it has been silent for `silence_seconds` or the hypervisor cannot run
    an instruction, and `CheckpointError` when `stopped` returns True.
    """
    begun = heard = time.monotonic()
    recent = ""
    # A sign that begins in one chunk may end in the next.
    signs = [sign for trouble in troubles for sign in trouble.signs]
    overlap = max(map(len, (marker, *signs)))
    while True:
        chunk = guest.read_console(_POLL_SECONDS)
        elapsed = time.monotonic() - begun
        if chunk:
            heard = time.monotonic()
            new = console.feed(chunk)
            on_text(new)
            printed = recent + new
            recent = printed[-overlap:]
            if marker in printed:
                return elapsed
            for trouble in troubles:
                if any(sign in printed for sign in trouble.signs):
                    _read_on(guest, console)
                    raise _trouble(trouble.brief, console, trouble.resolution)
        if stopped():
            raise CheckpointError("stopped while a guest was running")
        if chunk is None:
            raise _trouble(
                "the guest switched itself off or reset before it printed the marker",
                console,
                f"the console log shows how far it got; the marker is {marker!r}",
            )
        if not chunk and guest.firmware_says_unbootable():
            raise _trouble(unbootable.brief, console, unbootable.resolution)
        if not chunk and (reason := guest.stopped_reason()):
            raise _stopped(reason, console)
        if time.monotonic() - heard > (limit := silence_seconds()):
            raise GuestStuck(f"the guest has printed nothing for {limit:g} seconds")
        if elapsed > timeout_seconds:
            raise _trouble(
                f"the guest did not print {marker!r} within {timeout_seconds:g} seconds",
                console,
                "if it was still busy, raise timeout_seconds; if the console log is empty, the boot"
                " entry lacks the argument console=ttyS0,115200 (for arm64: ttyAMA0) or the image a serial"
                " console",
            )


def listen(guest: Guest, console: ConsoleText, seconds: float, stopped: Callable[[], bool]) -> None:
    """Add further output for so long, until the guest ends or `stopped` returns True."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not stopped():
        chunk = guest.read_console(min(left, _POLL_SECONDS))
        if chunk is None:
            return
        console.feed(chunk)


def _stopped(reason: str, console: ConsoleText) -> GuestTrouble:
    """The error for a guest that its hypervisor stopped."""
    return _trouble(
        f"the hypervisor stopped the guest: {reason}",
        console,
        "the host's accelerator or storage is at fault: check whether the state directory's file system"
        ' is full, and try accelerator "tcg"',
        GuestStuck if reason == "internal-error" else GuestTrouble,
    )


def _read_on(guest: Guest, console: ConsoleText) -> None:
    """Add further output until the guest is silent."""
    until = time.monotonic() + LAST_WORDS_SECONDS
    while time.monotonic() < until and (chunk := guest.read_console(_SILENCE_SECONDS)):
        console.feed(chunk)
