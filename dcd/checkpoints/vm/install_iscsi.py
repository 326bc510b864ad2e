"""`InstallISCSI`: a guest installs the system onto the disk, which it sees through an iSCSI target.

The disk is made blank and served to one guest. The guest boots an installer medium, which finds answers for
the disk's layout on a drive of its own, installs without questions, and switches itself off. The serial
console shows the progress; at the end it has a token that only an installer with the answers knows. Then the
content of the disk is checked.

Target and guest never outlive the attempt: the target is in the event log before it exists, and after any
interruption the next attempt begins with a blank disk on the previous layer.
"""

import secrets
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from dcd.checkpoints import boots, products
from dcd.checkpoints.architecture import AUTO, check_hardware, serial_line
from dcd.checkpoints.areas import captured_file
from dcd.checkpoints.boot.menu import menu_of
from dcd.checkpoints.image.identity import make_host_keys
from dcd.checkpoints.interface import (
    ALL_DEVICES,
    MOUNTS,
    Checkpoint,
    Context,
    Needs,
    Report,
    Variance,
)
from dcd.checkpoints.recorded import required_medium
from dcd.checkpoints.secure_boot import way_of
from dcd.checkpoints.vm import answers, installed, installed_disk
from dcd.checkpoints.vm.create_disk import LAYOUT_READS
from dcd.checkpoints.vm.disk import DiskLayout, recorded_disk
from dcd.checkpoints.vm.installation import SUCCESS, wait_for_success, wait_until_off
from dcd.checkpoints.vm.layout import examine_layout, firmware
from dcd.checkpoints.vm.menu_settings import write_menu_settings
from dcd.manifest.diagnostics import Diagnostic, refuse, warning
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.forms import CLIENT_PATH, KERNEL_ARGUMENTS, SERIAL_CONSOLE, SHORT_HOST_NAME
from dcd.manifest.objects.distro import VmController
from dcd.manifest.values import InputPath
from dcd.platform.foreign import X86
from dcd.platform.hypervisor import (
    Accelerator,
    Attachment,
    Drive,
    Firmware,
    GuestSpec,
    GuestTrouble,
    NetworkDisk,
    Qemu,
    tools_of,
)
from dcd.platform.iscsi import Comstar, Lio, Target, Tgt, target_name
from dcd.platform.iscsi.lio import CONFIGFS

TargetName = Literal["auto", "tgt", "lio", "comstar"]

_TARGETS: dict[str, type[Target]] = {"tgt": Tgt, "lio": Lio, "comstar": Comstar}
_DISK_SERIAL = "dcd-disk"


@dataclass(frozen=True)
class InstallISCSI(Checkpoint):
    """Install onto the disk of `CreateDisk` from an installer medium, in a guest."""

    DESCRIPTION = "Install onto the disk through iSCSI, in a guest"
    EXPECTED_SECONDS = 240.0
    PROVIDES = ()
    READS = (*LAYOUT_READS, "//vm_im", "//boot_mods")
    TOOLS = (
        *(*tools_of("qemu", uefi=True), "qemu-block-extra"),
        *dict.fromkeys(tool for target in _TARGETS.values() for tool in target.tools),
        *(*answers.TOOLS, *installed_disk.TOOLS),
    )

    medium: Annotated[InputPath, CLIENT_PATH] | None = None
    """An ISO with an unattended installer (see `DebianInstaller`). Default: that of an earlier
    checkpoint."""

    target: TargetName = "auto"
    """The iSCSI target. `auto` is tgt on Linux and comstar on illumos; lio and comstar have been tested with
    stand-ins only."""

    firmware: Firmware = "bios"
    """The firmware with which the guest boots the medium."""

    memory_mb: int = 1024
    """The memory of the guest, in MiB."""

    cpus: int = 1
    """The number of processors of the guest."""

    timeout_seconds: float = 1800.0
    """The time limit of the whole installation, in seconds."""

    accelerator: boots.AcceleratorName = "auto"
    """The accelerator of the guest. `auto` is KVM if a tiny guest proves that it works here, else
    emulation (`tcg`)."""

    kernel_args: Annotated[str, KERNEL_ARGUMENTS] = "quiet"
    """The kernel arguments of the installed system."""

    serial_console: Annotated[str, SERIAL_CONSOLE] = AUTO
    """The serial console of the installed system, with its speed. Empty: none. `auto`: the first serial line
    at 115200 bits a second."""

    hostname: Annotated[str, SHORT_HOST_NAME] | None = None
    """The name of the installed system. Default: that of the live system."""

    grow_root: bool = True
    """Let the root partition, which must be the last on the disk, grow to the rest of a larger disk at each
    start of the system."""

    def needs(self, doc: DataObjectCache) -> Needs:
        tools = (
            *tools_of("qemu", uefi=self.firmware == "uefi"),
            *("qemu-block-extra", *self._target().tools),
            *(*answers.TOOLS, *installed_disk.TOOLS),
        )
        return Needs(
            tools=tools,
            disk_bytes=2 << 30,
            # For the check of the disk at the end.
            capabilities=MOUNTS,
            devices=(ALL_DEVICES,),
            writes=(CONFIGFS,) if self._target() is Lio else (),
        )

    def variances(self, doc: DataObjectCache) -> Iterator[Variance]:
        yield Variance(
            "a guest installs the system, with its own clock, random numbers and order of writes"
        )

    def requires(self, doc: DataObjectCache) -> Iterator[tuple[str, ...]]:
        yield (products.DISK,)
        if self.medium is None:
            yield (products.ISO,)

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        yield from check_hardware(doc, self, "installs", only=X86)
        if way_of(doc) is not None:
            yield warning(
                self.argument_place(doc),
                f"{self.name}: secure_boot has no effect on the installed disk",
                "The installer in the guest sets up its boot loader.",
                "use CreateDisk and InstallOffline for a disk that starts with Secure Boot",
            )
        yield from boots.check_conditions(
            self, doc, SUCCESS, self.timeout_seconds, self.memory_mb, self.cpus
        )
        layout, faults = examine_layout(doc)
        if not faults:  # Otherwise CreateDisk reports them.
            yield from self._check_layout(layout, doc)

    def execute(self, context: Context) -> None:
        disk, layout = recorded_disk(context, change=True)
        refuse(self._check_layout(layout, context.doc))
        medium = self._medium(context)
        token = secrets.token_hex(8)
        drive = self._answers(context, layout, token)
        kind, name = self._target(), target_name(context.attempt)
        context.claim(kind.kind, name)
        controllers = context.doc.volatile.get_descendants(None, VmController, max_count=1)
        attachment: Attachment = controllers[0].type if controllers else "virtio"

        def install(accelerator: Accelerator, may_be_stuck: bool) -> None:
            _make_blank(disk, layout.size)
            directory = context.tmp / "target"
            try:
                with kind(directory).export(disk, name) as export:
                    machine = GuestSpec(
                        name=self.name,
                        firmware=self.firmware,
                        accelerator=accelerator,
                        memory_mb=self.memory_mb,
                        cpus=self.cpus,
                        drives=(Drive(medium, "cdrom"), Drive(drive, "cdrom")),
                        console_log=context.evidence / f"{self.name}.log",
                        network_disks=(
                            NetworkDisk(export, attachment, _DISK_SERIAL, layout.sector_size),
                        ),
                    )
                    self._install(context, machine, token, may_be_stuck=may_be_stuck)
            finally:
                shutil.rmtree(directory, ignore_errors=True)

        boots.with_fallback(
            context,
            boots.accelerator_for("qemu", self.accelerator, "amd64"),
            self.accelerator == "auto",
            again="installing once more",
            attempt=install,
        )
        context.report(Report(0.96, "checking the disk"))
        installed_disk.check_disk(context, disk, layout)
        used = disk.stat().st_blocks * 512 >> 20
        context.report(Report(1.0, f"{disk.name}: {used} MiB of {layout.size >> 20} used"))

    def _install(
        self, context: Context, machine: GuestSpec, token: str, *, may_be_stuck: bool
    ) -> None:
        """Run the installation. Raises as `wait_for_success`."""
        medium = machine.drives[0].image.name
        context.report(Report(0.0, f"booting {medium} under {machine.accelerator.upper()}"))
        directory = context.tmp / "guest"
        picture = context.evidence / f"{self.name}.png"
        try:
            with Qemu(context.environment).guest(machine, directory) as guest:
                stopped = self.stopping.is_set
                try:
                    console = wait_for_success(
                        context, guest, token, self.timeout_seconds, stopped, may_be_stuck
                    )
                except GuestTrouble:
                    boots.take_picture(guest, picture)
                    raise
                boots.take_picture(guest, picture)
                wait_until_off(guest, console, stopped)
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _check_layout(self, layout: DiskLayout, doc: DataObjectCache) -> Iterator[Diagnostic]:
        yield from installed.check_root(doc, self, layout, self.grow_root)
        special = [one.title for one in layout.containers]
        special += [one.title for one in layout.volumes if one.volume.subvolumes]
        if special:
            yield self.fault(
                doc,
                None,
                "an installer in a guest makes file systems in partitions only",
                f"LUKS, LVM, subvolumes or dm-verity are in {', '.join(special)}",
                "use InstallOffline in place of it, or file systems in partitions",
            )
        if "uefi" in firmware(doc) and not answers.esp_mountpoint(layout):
            yield self.fault(
                doc,
                None,
                "the EFI system partition has no mountpoint",
                "the installer puts the boot loader there",
                'write <format type="vfat" mountpoint="/boot/efi"/>',
            )

    def _medium(self, context: Context) -> Path:
        if self.medium is not None:
            return captured_file(context.inputs, str(self.medium))
        return required_medium(context, products.ISO)

    def _target(self) -> type[Target]:
        usual = "comstar" if sys.platform.startswith("sunos") else "tgt"
        return _TARGETS[usual if self.target == "auto" else self.target]

    def _answers(self, context: Context, layout: DiskLayout, token: str) -> Path:
        """The drive with the answers."""
        files = context.tmp / "files"
        files.mkdir()
        installed.write_fstab(files, layout, self.grow_root)
        if self.grow_root:
            installed.grow_root(files, layout)
        make_host_keys(files)
        console = serial_line(context.doc, self.serial_console, ",115200")
        serial, consoles = installed.consoles(console)
        write_menu_settings(files, menu_of(context, self.kernel_args, consoles), serial)
        drive = context.tmp / "answers.iso"
        variables = {
            "token": token,
            "disk": _DISK_SERIAL,
            "firmware": " ".join(sorted(firmware(context.doc))),
            "esp": answers.esp_mountpoint(layout),
            "hostname": self.hostname or "",
        }
        answers.make_answers(context, layout, variables, files, drive)
        return drive


def _make_blank(disk: Path, size_bytes: int) -> None:
    """Make a new file, so that the previous layer is not read, and all content comes from the installer."""
    disk.unlink()
    with disk.open("xb") as file:
        file.truncate(size_bytes)
