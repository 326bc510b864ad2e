"""QEMU as hypervisor.

There is one QEMU process per guest, in the caller's process group, killed when its context ends and, by the
kernel, when the thread that started it ends. Console and control are socket pairs of which QEMU inherits one
end, so there is no port, no path and nothing to clean up. QEMU reads no user configuration. A guest that
boots from a network has a card, on a network inside its QEMU (`restrict`); others have none. Tested with
QEMU 7.2; screenshots need 7.1.
Source: qemu-system-x86_64(1), qemu-system-aarch64(1); QEMU's docs/interop/firmware.json for finding UEFI
firmware.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

from dcd.platform.child import dies_with_caller, running
from dcd.platform.hypervisor.boards import BOARDS, Board
from dcd.platform.hypervisor.interface import (
    Attachment,
    Drive,
    Firmware,
    Guest,
    GuestSpec,
    NetworkBoot,
    NetworkDisk,
)
from dcd.platform.hypervisor.qmp import Qmp
from dcd.platform.hypervisor.serial import SerialGuest
from dcd.platform.hypervisor.uefi_keys import enrol
from dcd.platform.iscsi.interface import Export
from statemachine.errors import CheckpointError, Unprepared
from store.host import tools
from store.host.process import BASE_ENVIRONMENT

FIRMWARE_DIRECTORIES = (Path("/etc/qemu/firmware"), Path("/usr/share/qemu/firmware"))
"""Directories with the descriptions of firmware packages; earlier ones take precedence."""

_DEVICES: dict[Attachment, tuple[str, ...]] = {
    # Not q35's own AHCI port, for which cloud kernels have no driver.
    "cdrom": ("virtio-scsi-pci,id={bus}", "scsi-cd,bus={bus}.0"),
    "usb": ("qemu-xhci,id={bus}", "usb-storage,bus={bus}.0,removable=on"),
    "virtio": ("virtio-blk-pci",),
    "scsi": ("virtio-scsi-pci,id={bus}", "scsi-hd,bus={bus}.0"),
    "sata": ("ich9-ahci,id={bus}", "ide-hd,bus={bus}.0"),
    "nvme": ("nvme,serial={bus}",),
    "ide": ("ide-hd",),
}
"""The devices of each attachment; the last one takes the drive."""

Keys = Literal["none", "empty", "enrolled"]
"""The keys of firmware: it has no Secure Boot, none yet, or those of its package, Microsoft's."""

_FEATURES: dict[Keys, frozenset[str]] = {
    "none": frozenset(),
    "empty": frozenset({"secure-boot", "requires-smm"}),
    "enrolled": frozenset({"secure-boot", "requires-smm", "enrolled-keys"}),
}
"""Features of firmware, as its package describes them."""

_UNBOOTABLE = b"No bootable device"
_DEBUG_BYTES = 1024 * 1024

_STOPPED = frozenset({"internal-error", "io-error", "guest-panicked"})
"""States of a guest that does not continue by itself. Source: qapi/run-state.json."""


class Qemu:
    """The hypervisor on Linux hosts. `environment` is added to that of its processes."""

    name = "qemu"
    formats = frozenset({"raw", "qcow2", "vmdk", "vdi", "vpc", "vhdx"})
    attachments: frozenset[Attachment] = frozenset(get_args(Attachment))

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = {**BASE_ENVIRONMENT, **(environment or {})}

    @contextlib.contextmanager
    def guest(self, spec: GuestSpec, directory: Path) -> Iterator[Guest]:
        """Run a guest; see `Hypervisor.guest`."""
        directory.mkdir(parents=True, exist_ok=True)
        argv = _machine_arguments(spec) + _firmware_arguments(spec, directory)
        if spec.network is not None:
            argv += _network_arguments(spec.network, spec.firmware)
        for number, drive in enumerate(spec.drives):
            argv += _drive_arguments(drive, number)
        with contextlib.ExitStack() as stack:
            secrets: list[BinaryIO] = []
            for number, disk in enumerate(spec.network_disks, len(spec.drives)):
                secrets.append(stack.enter_context(_secret(disk.export)))
                argv += _network_disk_arguments(disk, number, secrets[-1])
            console, console_peer = (stack.enter_context(end) for end in socket.socketpair())
            control, control_peer = (stack.enter_context(end) for end in socket.socketpair())
            # QEMU's own log would lack the output just before the guest is killed.
            log = stack.enter_context(spec.console_log.open("wb", buffering=0))
            debug = directory / "firmware.log"
            argv += [
                *("-chardev", f"socket,id=console,fd={console_peer.fileno()}"),
                *("-serial", "chardev:console"),
                *("-chardev", f"socket,id=control,fd={control_peer.fileno()}"),
                *("-mon", "chardev=control,mode=control"),
                *("-chardev", f"file,id=debug,path={_escaped(debug.absolute())}"),
            ]
            if BOARDS[spec.architecture].is_pc:
                # SeaBIOS prints its verdict on the screen and on this port only.
                argv += ["-device", "isa-debugcon,iobase=0x402,chardev=debug"]
            errors = directory / "qemu.log"
            process = stack.enter_context(
                running(
                    (*dies_with_caller(), BOARDS[spec.architecture].program, *argv),
                    # `snapshot=on` keeps the guest's writes in TMPDIR.
                    env={**self._environment, "TMPDIR": os.fspath(directory.absolute())},
                    stdin=subprocess.DEVNULL,
                    stdout=stack.enter_context(errors.open("wb")),
                    stderr=subprocess.STDOUT,
                    pass_fds=[
                        console_peer.fileno(),
                        control_peer.fileno(),
                        *(one.fileno() for one in secrets),
                    ],
                )
            )
            console_peer.close()
            control_peer.close()
            monitor = stack.enter_context(contextlib.closing(Qmp(control)))
            try:
                monitor.command("query-status")
            except CheckpointError as error:
                process.kill()
                process.wait()
                output = errors.read_text("utf-8", "replace").strip() or str(error)
                raise CheckpointError("QEMU did not start the guest", output) from error
            yield _QemuGuest(console, log, monitor, debug)


class _QemuGuest(SerialGuest):
    def __init__(self, console: socket.socket, log: FileIO, monitor: Qmp, debug: Path) -> None:
        super().__init__(console, log)
        self._monitor = monitor
        self._debug = debug
        self._debug_read_bytes = 0

    def firmware_says_unbootable(self) -> bool:
        # Programs of the guest can write to this port too, without end.
        with self._debug.open("rb") as file:
            file.seek(max(0, self._debug_read_bytes - len(_UNBOOTABLE)))
            new = file.read(_DEBUG_BYTES)
            self._debug_read_bytes = file.tell()
        return _UNBOOTABLE in new

    def stopped_reason(self) -> str:
        try:
            status = self._monitor.command("query-status")["status"]
        except CheckpointError:  # It has ended, which the console shows.
            return ""
        return str(status) if status in _STOPPED else ""

    def screenshot(self, png: Path) -> None:
        self._monitor.command("screendump", filename=os.fspath(png.absolute()), format="png")


def _machine_arguments(spec: GuestSpec) -> list[str]:
    # Only the old chipset has IDE ports.
    disks: tuple[Drive | NetworkDisk, ...] = (*spec.drives, *spec.network_disks)
    board = BOARDS[spec.architecture]
    chipset = "pc" if any(disk.attachment == "ide" for disk in disks) else "q35"
    machine = chipset if board.is_pc else "virt"
    if spec.secure_boot:
        # Only in its own mode of the processor may the firmware write its variables.
        machine = "q35,smm=on"
    processor = board.processor if spec.accelerator == "tcg" else "host"
    return [
        *("-name", f"{_escaped(spec.name)},debug-threads=on"),
        *("-no-user-config", "-nodefaults", "-no-reboot", "-display", "none", *board.screen),
        *("-machine", machine, "-accel", spec.accelerator, "-cpu", processor),
        *("-m", str(spec.memory_mb), "-smp", str(spec.cpus)),
        # Otherwise an emulated guest waits for its interrupts to provide randomness.
        *("-device", "virtio-rng-pci"),
    ]


def _firmware_arguments(spec: GuestSpec, directory: Path) -> list[str]:
    if spec.firmware == "bios":
        return []
    keys: Keys = "none"
    if spec.secure_boot:
        keys = "enrolled" if spec.certificate is None else "empty"
    code, template = find_uefi(BOARDS[spec.architecture], keys=keys)
    variables = directory / "uefi-variables.fd"
    shutil.copyfile(template, variables)
    if spec.secure_boot and spec.certificate is not None:
        enrol(variables, spec.certificate.read_text("utf-8", "replace"))
    protected = [
        *("-global", "driver=cfi.pflash01,property=secure,value=on"),
        *("-global", "ICH9-LPC.disable_s3=1"),
    ]
    return [
        *(protected if spec.secure_boot else ()),
        *("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={_escaped(code)}"),
        *("-drive", f"if=pflash,unit=1,format=raw,file={_escaped(variables)}"),
    ]


def _drive_arguments(drive: Drive, number: int) -> list[str]:
    access = "snapshot=off" if drive.writable else "snapshot=on"
    if drive.attachment == "cdrom":
        access = "readonly=on"
    file = _escaped(drive.image.absolute())
    if drive.length is None:
        place = f"file={file}"
    else:
        place = f"file.driver=raw,file.offset={drive.offset},file.size={drive.length}"
        place += f",file.file.driver=file,file.file.filename={file}"
    backend = f"if=none,id=drive{number},format={drive.format},{access},{place}"
    return ["-drive", backend, *_device_arguments(drive, number)]


def _network_arguments(network: NetworkBoot, firmware: Firmware) -> list[str]:
    """A network card from which the guest boots first. BIOS boots from it by iPXE in its ROM; UEFI has a
    driver of its own.
    Source: qemu-system-x86_64(1), -netdev user."""
    served = f"tftp={_escaped(network.directory.absolute())},bootfile={_escaped(network.file)}"
    own_driver = ",romfile=" if firmware == "uefi" else ""
    return [
        *("-netdev", f"user,id=network,restrict=on,{served}"),
        *("-device", f"virtio-net-pci,netdev=network,bootindex=0{own_driver}"),
    ]


def _network_disk_arguments(disk: NetworkDisk, number: int, secret: BinaryIO) -> list[str]:
    export = disk.export
    backend = (
        f"if=none,id=drive{number},format=raw,snapshot=off,discard=unmap,"
        f"file.driver=iscsi,file.transport=tcp,file.portal={export.address}:{export.port},"
        f"file.target={export.target},file.lun={export.lun},"
        f"file.initiator-name={export.initiator},file.user={export.chap.user},"
        f"file.password-secret=chap{number}"
    )
    return [
        *("-object", f"secret,id=chap{number},file=/dev/fd/{secret.fileno()}"),
        *("-drive", backend, *_device_arguments(disk, number, f",serial={_escaped(disk.serial)}")),
    ]


def _device_arguments(drive: Drive | NetworkDisk, number: int, more: str = "") -> list[str]:
    """The options that attach the back end of that number."""
    *buses, device = (part.format(bus=f"bus{number}") for part in _DEVICES[drive.attachment])
    device += f",drive=drive{number},bootindex={number}{more}"
    if drive.sector_size != 512:
        size = drive.sector_size
        device += f",logical_block_size={size},physical_block_size={size}"
    return [*(part for bus in buses for part in ("-device", bus)), "-device", device]


def _secret(export: Export) -> BinaryIO:
    """The secret of an export for QEMU to inherit: under no name and on no command line; in memory, where
    the system has such files."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("chap")
    else:
        descriptor, name = tempfile.mkstemp()
        Path(name).unlink()
    file = os.fdopen(descriptor, "wb", buffering=0)
    file.write(export.chap.secret.encode())
    return file


def find_uefi(
    board: Board, directories: tuple[Path, ...] = FIRMWARE_DIRECTORIES, *, keys: Keys = "none"
) -> tuple[Path, Path]:
    """UEFI firmware for a board: its code, and the template of its variables, without Secure Boot or with
    these `keys` for it.

    Raises `Unprepared` when no firmware package describes any.
    """
    wanted = _FEATURES[keys]
    descriptions: dict[str, Path] = {}
    for directory in reversed(directories):
        descriptions |= {path.name: path for path in directory.glob("*.json")}
    for _, path in sorted(descriptions.items()):
        description: dict[str, Any] = json.loads(path.read_text("utf-8"))
        mapping = description["mapping"]
        if (
            "uefi" in description["interface-types"]
            and any(target["architecture"] == board.target for target in description["targets"])
            and _FEATURES["enrolled"] & set(description["features"]) == wanted
            and mapping["device"] == "flash"
            and mapping.get("mode", "split") == "split"
        ):
            code = Path(mapping["executable"]["filename"])
            template = Path(mapping["nvram-template"]["filename"])
            if code.exists() and template.exists():
                return code, template
    raise Unprepared(
        f"there is no UEFI firmware {'with Secure Boot ' if wanted else ''}for guests on this host",
        f"no description of one in {', '.join(map(str, directories))}",
        f"install it: {tools.install_command([board.firmware])}",
    )


def _escaped(value: object) -> str:
    """A value for QEMU's comma-separated options."""
    return str(value).replace(",", ",,")
