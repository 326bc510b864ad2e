"""bhyve as hypervisor, on illumos.

**Never run on an illumos machine**: written from the manual pages, tested with substitutes for the programs.

There is one bhyve process per guest, with the console on its standard streams. bhyve reads only raw images
and cannot discard writes, so a guest boots from a copy. There are no screenshots. The kernel's virtual
machine outlives the process, so it is destroyed before and after.
Source: bhyve(8), bhyvectl(8) of illumos; the firmware that OmniOS and SmartOS install.
"""

import contextlib
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from dcd.platform.child import running
from dcd.platform.hypervisor.interface import Attachment, Drive, Firmware, Guest, GuestSpec
from dcd.platform.hypervisor.serial import SerialGuest
from statemachine.errors import Unprepared
from store.host.process import BASE_ENVIRONMENT, run

PROGRAM, CONTROL = "bhyve", "bhyvectl"
TOOLS = (PROGRAM, CONTROL)

FIRMWARE_DIRECTORY = Path("/usr/share/bhyve/firmware")

_FIRMWARE: dict[Firmware, tuple[str, ...]] = {
    "bios": ("BHYVE_RELEASE_CSM.fd", "BHYVE_CSM.fd"),
    "uefi": ("BHYVE_RELEASE.fd", "BHYVE.fd"),
}
"""File names; the first existing one is used. BIOS is a compatibility module of the UEFI firmware."""

_DEVICES: dict[Attachment, str] = {
    "virtio": "virtio-blk",
    "sata": "ahci-hd",
    "nvme": "nvme",
    "cdrom": "ahci-cd",
}
_SEARCH_PATH = f"{BASE_ENVIRONMENT['PATH']}:/usr/lib"


class Bhyve:
    """The hypervisor on illumos hosts. `environment` is added to that of its processes."""

    name = "bhyve"
    formats = frozenset({"raw"})
    attachments: frozenset[Attachment] = frozenset(_DEVICES)

    def __init__(
        self, environment: Mapping[str, str] | None = None, firmware: Path = FIRMWARE_DIRECTORY
    ) -> None:
        self._environment = {**BASE_ENVIRONMENT, "PATH": _SEARCH_PATH, **(environment or {})}
        self._firmware = firmware

    @contextlib.contextmanager
    def guest(self, spec: GuestSpec, directory: Path) -> Iterator[Guest]:
        """Run a guest; see `Hypervisor.guest`."""
        if shutil.which(PROGRAM, path=self._environment["PATH"]) is None:
            raise Unprepared(
                "bhyve is not installed",
                f"{PROGRAM} was looked for in {self._environment['PATH']}",
                'bhyve belongs to illumos; leave the argument hypervisor at "qemu" elsewhere',
            )
        directory.mkdir(parents=True, exist_ok=True)
        argv = self._command(spec, directory)
        errors = directory / "bhyve.log"
        with contextlib.ExitStack() as stack:
            console, peer = map(stack.enter_context, socket.socketpair())
            log = stack.enter_context(spec.console_log.open("wb", buffering=0))
            stderr = stack.enter_context(errors.open("wb"))
            self._destroy(spec)
            stack.callback(self._destroy, spec)
            stack.enter_context(
                running(argv, env=self._environment, stdin=peer, stdout=peer, stderr=stderr)
            )
            peer.close()
            yield SerialGuest(console, log)

    def _command(self, spec: GuestSpec, directory: Path) -> list[str]:
        argv = [PROGRAM, "-H", "-c", str(spec.cpus), "-m", f"{spec.memory_mb}M"]
        argv += ["-s", "0,hostbridge", "-s", "31,lpc", "-l", "com1,stdio"]
        argv += ["-l", f"bootrom,{self._find_firmware(spec.firmware)}"]
        for number, drive in enumerate(spec.drives):
            argv += ["-s", f"{number + 3},{_DEVICES[drive.attachment]},{_own(drive, directory)}"]
        return [*argv, spec.name]

    def _find_firmware(self, firmware: Firmware) -> Path:
        for name in _FIRMWARE[firmware]:
            if (self._firmware / name).exists():
                return self._firmware / name
        raise Unprepared(
            f"there is no {firmware.upper()} firmware for bhyve on this host",
            f"looked for {', '.join(_FIRMWARE[firmware])} in {self._firmware}",
            "install it: pkg install bhyve/firmware",
        )

    def _destroy(self, spec: GuestSpec) -> None:
        # It fails when there is none.
        run([CONTROL, "--destroy", f"--vm={spec.name}"], env=self._environment, ok=range(256))


def _own(drive: Drive, directory: Path) -> Path:
    """The image that the guest may write to."""
    if drive.writable or drive.attachment == "cdrom":
        return drive.image.absolute()
    return drive.copy_to(directory.absolute() / f"{drive.image.name}.copy")
