"""VirtualBox as hypervisor, through VBoxManage and VBoxHeadless. The only module that calls them.

**Never run against a real VirtualBox**: written from its manual, tested with substitutes for the programs.

Each guest has its own VirtualBox home and service below its directory, so nothing is registered with the
user's VirtualBox and nothing remains. A guest boots from a copy that VirtualBox itself converts from the
image, which verifies the format. The firmware reports a missing boot record only on the screen, so the time
limit detects it. VirtualBox has its own acceleration.
Source: VirtualBox 7 manual, chapter 8, "VBoxManage".
"""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path

from dcd.platform.child import dies_with_caller, running
from dcd.platform.hypervisor.interface import Attachment, Drive, Guest, GuestSpec
from dcd.platform.hypervisor.serial import SerialGuest
from statemachine.errors import CheckpointError, Unprepared
from store.host.process import BASE_ENVIRONMENT, ToolFailed, run

MANAGE, HEADLESS = "VBoxManage", "VBoxHeadless"
TOOLS = (MANAGE, HEADLESS)

COMMAND_SECONDS = 600.0
START_SECONDS = 60.0

_CONTROLLERS: dict[Attachment, tuple[str, str]] = {
    "virtio": ("virtio", "VirtIO"),
    "scsi": ("scsi", "LsiLogic"),
    "sata": ("sata", "IntelAhci"),
    "nvme": ("pcie", "NVMe"),
    "ide": ("ide", "PIIX4"),
    "usb": ("usb", "USB"),
    "cdrom": ("sata", "IntelAhci"),
}
"""A bus for `--add` and a chip for `--controller`. VirtualBox's virtio is virtio-scsi."""


class VirtualBox:
    """VirtualBox. `environment` is added to that of its processes."""

    name = "virtualbox"
    formats = frozenset({"raw", "vdi", "vmdk", "vpc", "vhdx"})
    attachments: frozenset[Attachment] = frozenset(_CONTROLLERS)

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = {**BASE_ENVIRONMENT, **(environment or {})}

    @contextlib.contextmanager
    def guest(self, spec: GuestSpec, directory: Path) -> Iterator[Guest]:
        """Run a guest; see `Hypervisor.guest`."""
        if shutil.which(HEADLESS, path=self._environment["PATH"]) is None:
            raise Unprepared(
                "VirtualBox is not installed",
                f"{HEADLESS} was looked for in {self._environment['PATH']}",
                'install it, or leave the argument hypervisor at "qemu"',
            )
        directory.mkdir(parents=True, exist_ok=True)
        machine = _Machine(spec, directory, self._environment)
        with contextlib.ExitStack() as stack:
            # The path of a socket must be short.
            meeting = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dcd-")))
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(os.fspath(meeting / "console"))
            listener.listen(1)
            listener.settimeout(START_SECONDS)
            machine.define(meeting / "console")
            stack.callback(machine.forget)
            log = stack.enter_context(spec.console_log.open("wb", buffering=0))
            stack.enter_context(machine.switched_on())
            try:
                console, _ = listener.accept()
            except TimeoutError as error:
                output = machine.log.read_text("utf-8", "replace").strip()
                raise CheckpointError("VirtualBox did not start the guest", output) from error
            stack.enter_context(console)
            yield _VirtualBoxGuest(console, log, machine)


class _VirtualBoxGuest(SerialGuest):
    def __init__(self, console: socket.socket, log: FileIO, machine: "_Machine") -> None:
        super().__init__(console, log)
        self._machine = machine

    def screenshot(self, png: Path) -> None:
        self._machine.control("screenshotpng", png.absolute())


class _Machine:
    """One machine in VirtualBox's registry; `log` has the output of VBoxHeadless."""

    def __init__(self, spec: GuestSpec, directory: Path, environment: Mapping[str, str]) -> None:
        self._spec = spec
        self._directory = directory.absolute()
        self._environment = {
            **environment,
            "VBOX_USER_HOME": os.fspath(self._directory / "virtualbox"),
            "VBOX_IPC_SOCKETID": f"dcd-{os.getpid()}-{spec.name}",
        }
        self.log = self._directory / "virtualbox.log"

    def define(self, console: Path) -> None:
        """Create the machine and its disks. `console` is the socket that it connects to."""
        spec = self._spec
        boot = "dvd" if spec.drives[0].attachment == "cdrom" else "disk"
        self._manage("createvm", "--name", spec.name, "--basefolder", self._directory, "--register")
        self._manage(
            *("modifyvm", spec.name, "--memory", spec.memory_mb, "--cpus", spec.cpus),
            *("--firmware", "efi64" if spec.firmware == "uefi" else "bios"),
            *("--ioapic", "on", "--rtcuseutc", "on", "--nic1", "none", "--vram", 16),
            *("--graphicscontroller", "vmsvga", "--boot1", boot),
            *("--uart1", "0x3F8", 4, "--uartmode1", "client", console),
        )
        for number, drive in enumerate(spec.drives):
            self._attach(drive, number)

    def _attach(self, drive: Drive, number: int) -> None:
        bus, chip = _CONTROLLERS[drive.attachment]
        controller = f"controller{number}"
        self._manage(
            *("storagectl", self._spec.name, "--name", controller, "--add", bus),
            *("--controller", chip, "--bootable", "on"),
        )
        medium = drive.image.absolute()
        if drive.attachment != "cdrom" and not drive.writable:
            medium = self._copied(drive, number)
        self._manage(
            *("storageattach", self._spec.name, "--storagectl", controller),
            *("--port", 0, "--device", 0, "--medium", medium),
            *("--type", "dvddrive" if drive.attachment == "cdrom" else "hdd"),
        )

    def _copied(self, drive: Drive, number: int) -> Path:
        """A copy that the guest may write to, converted from the image by VirtualBox."""
        source, target = drive.image.absolute(), self._directory / f"disk{number}.vdi"
        if drive.length is not None:
            source = drive.copy_to(self._directory / f"part{number}.{drive.format}")
        if drive.format == "raw":
            self._manage("convertfromraw", source, target, "--format", "VDI")
        else:
            self._manage("clonemedium", "disk", source, target, "--format", "VDI")
        return target

    @contextlib.contextmanager
    def switched_on(self) -> Iterator[None]:
        """Run the machine for the duration of the context."""
        command = (HEADLESS, "--startvm", self._spec.name, "--vrde", "off")
        options = {"env": self._environment, "stdin": subprocess.DEVNULL}
        with (
            self.log.open("wb") as log,
            running((*dies_with_caller(), *command), stdout=log, stderr=log, **options) as process,
        ):
            try:
                yield
            finally:
                if process.poll() is None:
                    with contextlib.suppress(ToolFailed):
                        self.control("poweroff")

    def control(self, *arguments: str | Path) -> None:
        """Run a `controlvm` command. Raises `ToolFailed`."""
        self._manage("controlvm", self._spec.name, *arguments)

    def forget(self) -> None:
        """Remove the machine and its disks."""
        with contextlib.suppress(ToolFailed):
            self._manage("unregistervm", self._spec.name, "--delete")

    def _manage(self, *arguments: str | int | Path) -> None:
        run(
            [MANAGE, *map(str, arguments)],
            env=self._environment,
            timeout_seconds=COMMAND_SECONDS,
        )
