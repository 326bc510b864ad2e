"""A machine that is switched on, spoken to over its serial line, and whose power fails.

It is QEMU's, and its disk has a volatile write cache. Every write and flush of the guest is recorded
(QEMU's blklogwrites). When the power fails, QEMU is killed, and the disk is what it was before, with all
writes until the guest's last flush, and a random half of those after it. DCD_SEED repeats a run.
"""

import os
import random
import re
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from dcd.platform.hypervisor import ConsoleText, wait_for

BOOT_SECONDS = 800.0
ANSWER_SECONDS = 300.0
MEMORY_MB = 512

_SECTOR_BYTES = 512
_FLUSH, _FUA, _DISCARD, _MARK = 1, 2, 4, 8


@pytest.fixture
def chance() -> random.Random:
    """Random numbers whose seed is shown when the test fails."""
    seed = int(os.environ.get("DCD_SEED", time.time_ns() % 1_000_000))
    print(f"DCD_SEED={seed}")
    return random.Random(seed)


@pytest.fixture(scope="session")
def soak() -> bool:
    """Whether to test at length."""
    return os.environ.get("DCD_SOAK") == "1"


@pytest.fixture
def plug_in(tmp_path: Path, chance: random.Random) -> Iterator[Callable[[Path], "Machine"]]:
    """Gives a disk a machine."""
    with ExitStack() as machines:

        def plug(disk: Path) -> Machine:
            machine = Machine(disk, tmp_path, chance)
            machines.callback(machine.unplug)
            return machine

        yield plug


class Machine:
    """A machine that starts from a raw disk, whose system lets root in on the serial line.

    `lost_writes` counts what power cuts took. Nothing of it runs after `unplug`.
    """

    def __init__(self, disk: Path, directory: Path, chance: random.Random) -> None:
        self.disk = disk
        self.lost_writes = 0
        self._cache = directory / "cache.qcow2"
        self._record = directory / "record.img"
        self._log = directory / "console.log"
        self._chance = chance
        self._qemu: subprocess.Popen[bytes] | None = None
        self._line = socket.socket()
        self._console = ConsoleText()

    def unplug(self) -> None:
        """End it if it runs; the disk is of no use any more then."""
        if self._qemu is not None:
            self._end()

    def switch_on(self) -> None:
        """Start it, and wait until root can type."""
        self.start()
        wait_for(self, "build-server:~#", BOOT_SECONDS, self._console)
        # A shell that does not edit lines, and adds nothing to what commands print.
        self.write_console(b"stty -echo; PS1= exec sh\n")
        self.run("true")

    def start(self) -> None:
        """Start it."""
        create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", self.disk]
        subprocess.run([*create, self._cache], check=True)
        self._record.write_bytes(b"")
        self._line, peer = socket.socketpair()
        command = ["qemu-system-x86_64", "-no-user-config", "-nodefaults", "-no-reboot"]
        command += ["-display", "none", "-machine", "q35", "-accel", "tcg", "-cpu", "qemu64"]
        command += ["-m", str(MEMORY_MB), "-smp", "2", "-device", "virtio-rng-pci"]
        command += ["-chardev", f"socket,id=line,fd={peer.fileno()}", "-serial", "chardev:line"]
        # It is the guest's power that fails, not the host's: what is recorded need not be synced.
        for node, driver, file in (
            ("cache", "qcow2,file.driver=file,file.filename", self._cache),
            ("record", "file,filename", self._record),
        ):
            command += ["-blockdev", f"{driver}={file},node-name={node},cache.no-flush=on"]
        command += ["-blockdev", "blklogwrites,node-name=disk,file=cache,log=record"]
        command += ["-device", "virtio-blk-pci,drive=disk,bootindex=0"]
        self._qemu = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command], pass_fds=[peer.fileno()]
        )
        peer.close()
        self._console = ConsoleText()

    def listen(self, seconds: float) -> None:
        """Take in what it prints, for so long."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._hear(left)

    def fail_power(self) -> None:
        """Kill it, at once. What was not flushed is half lost."""
        self._end()
        self._settle()

    def switch_off(self) -> None:
        """Have it shut down, and wait until it has."""
        self.write_console(b"systemctl poweroff\n")
        deadline = time.monotonic() + BOOT_SECONDS
        while self.read_console(1.0) is not None:
            if time.monotonic() > deadline:
                pytest.fail(f"it does not switch itself off:\n{self._console.tail(20)}")
        self._end()
        self._settle()

    def run(self, command: str, seconds: float = ANSWER_SECONDS) -> str:
        """Run a command of the guest's shell, which has to succeed. Returns what it printed."""
        start = len(self._console.text)
        self.write_console(f'{command}; echo "[$?]"\n'.encode())
        deadline = time.monotonic() + seconds
        while not (ended := re.search(r"\[(\d+)\]\n", self._console.text[start:])):
            self._hear()
            if time.monotonic() > deadline:
                pytest.fail(f"{command}: no end in {seconds:g} s:\n{self._console.tail(20)}")
        printed = self._console.text[start : start + ended.start()]
        if ended[1] != "0":
            pytest.fail(f"{command}: exit status {ended[1]}\n{printed}")
        return printed

    def lines(self, command: str, silence_seconds: float) -> Iterator[str]:
        """What a command prints, line by line, as long as anybody listens. After a silence the line
        is empty."""
        at = len(self._console.text)
        self.write_console(f"{command}\n".encode())
        while True:
            until = time.monotonic() + silence_seconds
            while "\n" not in self._console.text[at:] and time.monotonic() < until:
                self._hear(max(0.0, until - time.monotonic()))
            line, end, _ = self._console.text[at:].partition("\n")
            at += len(line + end) if end else 0
            yield line if end else ""

    def read_console(self, wait_seconds: float) -> bytes | None:
        """See `dcd.platform.hypervisor.Guest`."""
        self._line.settimeout(wait_seconds)
        with suppress(TimeoutError):
            chunk = self._line.recv(65536)
            with self._log.open("ab") as log:
                log.write(chunk)
            return chunk or None
        return b""

    def write_console(self, text: bytes) -> None:
        """See `dcd.platform.hypervisor.Guest`."""
        self._line.settimeout(None)
        self._line.sendall(text)

    def firmware_says_unbootable(self) -> bool:
        """See `dcd.platform.hypervisor.Guest`."""
        return False

    def stopped_reason(self) -> str:
        """See `dcd.platform.hypervisor.Guest`."""
        return ""

    def _hear(self, seconds: float = 0.5) -> None:
        chunk = self.read_console(max(0.01, seconds))
        if chunk is None:
            pytest.fail(f"the machine has ended:\n{self._console.tail(20)}")
        self._console.feed(chunk)

    def _end(self) -> None:
        assert self._qemu is not None
        self._qemu.kill()
        self._qemu.wait()
        self._qemu = None
        self._line.close()

    def _settle(self) -> None:
        """Bring the disk to what the power's failure left on it."""
        writes = list(recorded(self._record))
        flushed = max((at for at, (_, _, flags) in enumerate(writes) if flags & _FLUSH), default=-1)
        with self.disk.open("r+b") as disk, self._record.open("rb") as record:
            for number, (sector, span, flags) in enumerate(writes):
                if number <= flushed or flags & _FUA or self._chance.random() < 0.5:
                    record.seek(span.start)
                    disk.seek(sector * _SECTOR_BYTES)
                    disk.write(record.read(len(span)))
                else:
                    self.lost_writes += 1
        self._cache.unlink()


def recorded(record: Path) -> Iterator[tuple[int, range, int]]:
    """The entries of a record: the sector of the disk, where in the record its data is, and flags. What
    QEMU was writing when it was killed ends it. Source: the kernel's device-mapper/log-writes."""
    end = record.stat().st_size
    at = _SECTOR_BYTES
    with record.open("rb") as file:
        while at + _SECTOR_BYTES <= end:
            file.seek(at)
            sector, sectors, flags, _ = struct.unpack("<QQQQ", file.read(32))
            at += _SECTOR_BYTES
            if not sectors and not flags:
                break
            assert not flags & (_DISCARD | _MARK), "nobody asked for these"
            yield sector, range(at, at + sectors * _SECTOR_BYTES), flags
            at += sectors * _SECTOR_BYTES
