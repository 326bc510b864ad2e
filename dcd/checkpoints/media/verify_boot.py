"""`VerifyBoot`: proof that a medium boots, by booting it.

A guest without network boots the medium with each firmware, side by side, until the marker appears on
its serial console. A netboot kit is booted from a network that the guest's own hypervisor provides. The
console's log and a screenshot are delivered for each; see `dcd.checkpoints.boots`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from dcd.checkpoints import architecture, boots, products, secure_boot
from dcd.checkpoints.architecture import check_hardware, hardware, image_architecture
from dcd.checkpoints.interface import Checkpoint, Context, Needs, Report
from dcd.checkpoints.media import network_boot
from dcd.checkpoints.recorded import required_medium
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.forms import LINE
from dcd.platform.hypervisor import (
    Drive,
    Firmware,
    HypervisorName,
    all_tools,
    devices_of,
    hypervisor_named,
    tools_of,
)


@dataclass(frozen=True)
class VerifyBoot(Checkpoint):
    """Boot the medium, or the netboot kit, of an earlier checkpoint.

    An image with `secure_boot` is booted by UEFI firmware that demands signatures.
    """

    DESCRIPTION = "Boot the medium to prove that it boots"
    EXPECTED_SECONDS = 60.0
    TOOLS = (*all_tools(), network_boot.CARD)
    PROVIDES = ()
    READS = (*secure_boot.READS, *architecture.READS)

    firmware: tuple[Firmware, ...] = ()
    """The firmware to boot with, each of those listed. Default: all that the machine has."""

    media: Literal["cdrom", "usb", "network"] = "cdrom"
    """The medium's form in the guest: a CD or a USB stick; or the network, for a netboot kit."""

    boot_loader: network_boot.BootLoader = "auto"
    """What the firmware loads from the network: `ipxe` is the kit's script, run by the iPXE of the network
    card, with BIOS only; `grub` is GRUB's image. `auto` is iPXE with BIOS and GRUB with UEFI, which proves
    both scripts."""

    memory_mb: int = 1024
    """The memory of each guest, in MiB."""

    marker: Annotated[str, LINE] = "login:"
    """Text that the serial console shows only after everything before it worked."""

    timeout_seconds: float = 600.0
    """The time limit of each boot, in seconds."""

    accelerator: boots.AcceleratorName = "auto"
    """The accelerator of the guest. `auto` is KVM if a tiny guest proves that it works here, else
    emulation (`tcg`)."""

    cpus: int = 1
    """The number of processors of each guest."""

    parallel: bool = True
    """Boot with all firmware at once; each guest then needs `memory_mb`."""

    hypervisor: HypervisorName = "qemu"
    """The hypervisor. `virtualbox` and `bhyve` have been tested with stand-ins only."""

    def needs(self, doc: DataObjectCache) -> Needs:
        return Needs(
            tools=(
                *tools_of(
                    self.hypervisor,
                    uefi="uefi" in self._firmware(doc),
                    architecture=image_architecture(doc),
                ),
                *((network_boot.CARD,) if self.media == "network" else ()),
            ),
            disk_bytes=network_boot.DISK_BYTES if self.media == "network" else 64 << 20,
            devices=devices_of(self.hypervisor),
        )

    def requires(self, doc: DataObjectCache) -> Iterator[tuple[str, ...]]:
        yield self._kinds()

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        yield from check_hardware(doc, self, "boots")
        yield from boots.check_machine(self, doc, self.hypervisor, self.firmware)
        yield from boots.check_choice(self, doc, "firmware", self.firmware)
        yield from boots.check_conditions(
            self, doc, self.marker, self.timeout_seconds, self.memory_mb, self.cpus
        )
        yield from boots.check_secure_boot(self, doc, self.hypervisor, self._firmware(doc))
        if self.media == "network":
            yield from network_boot.check(
                self, doc, self.hypervisor, self.boot_loader, self._firmware(doc)
            )
            return
        if self.boot_loader != "auto":
            yield self.fault(
                doc,
                "boot_loader",
                f"a {self.media} starts by its own boot loader",
                "",
                '<arg name="media">network</arg>, or leave boot_loader out',
            )
        if self.media not in hypervisor_named(self.hypervisor, {}).attachments:
            yield self.fault(
                doc,
                "media",
                f"{self.hypervisor} attaches no {self.media}",
                "",
                '<arg name="media">cdrom</arg>',
            )

    def execute(self, context: Context) -> None:
        medium = required_medium(context, *self._kinds())
        machine, kinds = image_architecture(context.doc), self._firmware(context.doc)
        conditions = boots.Conditions(
            checkpoint=self.name,
            hypervisor=hypervisor_named(self.hypervisor, context.environment),
            marker=self.marker,
            timeout_seconds=self.timeout_seconds,
            accelerator=boots.accelerator_for(self.hypervisor, self.accelerator, machine),
            fall_back=self.accelerator == "auto",
            memory_mb=self.memory_mb,
            cpus=self.cpus,
            side_by_side=len(kinds) if self.parallel else 1,
            architecture=machine,
        )
        message = f"booting {medium.name} as {self.media} under {conditions.under}"
        context.report(Report(0.0, message))
        if self.media == "network":
            trials = network_boot.trials(context, medium, kinds, self.boot_loader)
            conditions = replace(
                conditions,
                troubles=network_boot.TROUBLES,
                unbootable=network_boot.UNBOOTABLE,
            )
        else:
            drive = Drive(medium, self.media)
            signed = secure_boot.way_of(context.doc) is not None
            certificate = secure_boot.certificate_of(context)
            trials = [
                boots.Trial(kind, kind, drive, signed and kind == "uefi", certificate)
                for kind in kinds
            ]
        boots.boot_all(context, trials, conditions, self.stopping)

    def _firmware(self, doc: DataObjectCache) -> tuple[Firmware, ...]:
        if self.firmware:
            return self.firmware
        offered = hardware(doc).firmware
        # QEMU's iPXE runs the script with BIOS only.
        return ("bios",) if self.boot_loader == "ipxe" and "bios" in offered else offered

    def _kinds(self) -> tuple[str, ...]:
        if self.media == "network":
            return (products.NETBOOT,)
        return (products.ISO,) if self.media == "cdrom" else (products.USB, products.ISO)
