"""`VerifyBoot`: proof that a medium boots, by booting it.

A guest without network boots the medium with each firmware, side by side, until the marker appears on
its serial console. The console's log and a picture of the screen are delivered for each; in
`context.evidence` they stay also when it fails. A panic, an emergency shell or a boot loader's prompt
ends the wait at once; a time limit ends it always. No guest outlives the checkpoint.
"""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dcd.checkpoints.interface import Checkpoint, Context, Needs, Report
from dcd.checkpoints.media.deliver import deliver_file, recorded_medium
from dcd.manifest.doc import DataObjectCache
from dcd.platform.hypervisor import (
    Accelerator,
    ConsoleText,
    Drive,
    Firmware,
    GuestSpec,
    GuestTrouble,
    Qemu,
    probe_kvm,
    wait_for,
)
from statemachine.errors import CheckpointError, InvalidManifest, Unprepared

_LEAST_MEMORY_MB = 64
_SETTLE_SECONDS = 2.0
"""Between the marker on the serial console and the picture: the screen's login comes a little later."""


@dataclass(frozen=True, slots=True)
class Boot:
    """One boot that came to its marker. `console` is the text of the serial console."""

    firmware: Firmware
    seconds: float
    console: str
    screenshot: Path


class VerifyBoot(Checkpoint):
    """Boot the medium that an earlier checkpoint made.

    `firmware` lists how: `bios`, `uefi` or both. `media` says as what the guest sees it: a CD or a
    USB stick. `marker` is text that the serial console shows only after everything before it worked.
    `timeout_seconds` is the limit for each boot. `accelerator` `auto` is KVM if a tiny guest proves
    that it works here, else emulation (`tcg`). `cpus` and `memory_mb` are those of each guest.
    `parallel` boots all firmware at once; each then needs `memory_mb`.
    """

    DESCRIPTION = "Boot the medium to prove that it boots"
    TOOLS = ("qemu-system-x86_64", "setpriv", "ovmf")

    def __init__(
        self,
        name: str,
        firmware: tuple[Literal["bios", "uefi"], ...] = ("bios",),
        media: Literal["cdrom", "usb"] = "cdrom",
        memory_mb: int = 1024,
        marker: str = "login:",
        timeout_seconds: float = 600.0,
        accelerator: Literal["auto", "kvm", "tcg"] = "auto",
        cpus: int = 1,
        parallel: bool = True,
    ) -> None:
        super().__init__(name)
        self.firmware = firmware
        self.media = media
        self.memory_mb = memory_mb
        self.marker = marker
        self.timeout_seconds = timeout_seconds
        self.accelerator = accelerator
        self.cpus = cpus
        self.parallel = parallel
        self._stop = threading.Event()

    def needs(self, doc: DataObjectCache) -> Needs:
        tools = [tool for tool in self.TOOLS if tool != "ovmf" or "uefi" in self.firmware]
        return Needs(tools=tuple(tools), disk_bytes=64 << 20)

    def check(self, doc: DataObjectCache) -> None:
        if not self.firmware or len(set(self.firmware)) != len(self.firmware):
            raise self._invalid("firmware", "names bios, uefi or both, each once", "bios")
        if not self.marker.strip():
            raise self._invalid("marker", "is text to wait for", "login:")
        if self.memory_mb < _LEAST_MEMORY_MB:
            raise self._invalid("memory_mb", f"is at least {_LEAST_MEMORY_MB}", "1024")
        if self.cpus < 1:
            raise self._invalid("cpus", "is at least 1", "1")
        if self.timeout_seconds <= 0:
            raise self._invalid("timeout_seconds", "is more than 0", "600")

    def _invalid(self, argument: str, rule: str, example: str) -> InvalidManifest:
        value = (
            f'<arglist name="{argument}"><argitem>{example}</argitem></arglist>'
            if argument == "firmware"
            else f'<arg name="{argument}">{example}</arg>'
        )
        return InvalidManifest(f"{self.name}: {argument} {rule}", "", f"write {value}")

    def get_progress_estimate(self) -> float:
        return 60.0

    def cancel(self) -> None:
        self._stop.set()

    def execute(self, context: Context, dry_run: bool = False) -> None:
        if dry_run:
            names = " and ".join(self.firmware)
            context.report(Report(message=f"would boot the medium with {names}"))
            return
        medium = self._medium(context)
        accelerator = self._accelerator()
        context.report(
            Report(0.0, f"booting {medium.name} as {self.media} under {accelerator.upper()}")
        )
        boots: list[Boot] = []
        with ThreadPoolExecutor(len(self.firmware) if self.parallel else 1) as pool:
            pending = [
                pool.submit(self._boot, context, medium, accelerator, firmware)
                for firmware in self.firmware
            ]
            try:
                for ended in as_completed(pending):
                    boot = ended.result()
                    boots.append(boot)
                    context.report(
                        Report(
                            len(boots) / len(pending),
                            f"{boot.firmware}: {self.marker!r} after {boot.seconds:.1f} seconds",
                        )
                    )
            finally:
                # The first failure ends the boots beside it.
                self._stop.set()
                pool.shutdown(cancel_futures=True)
        for boot in boots:
            log = context.media / f"{self.name}-{boot.firmware}.log"
            log.write_text(boot.console, "utf-8")
            deliver_file(context, log, "text")
            screenshot = Path(shutil.copy(boot.screenshot, context.media))
            deliver_file(context, screenshot, "png")

    def _medium(self, context: Context) -> Path:
        medium = recorded_medium(context, *(("iso",) if self.media == "cdrom" else ("usb", "iso")))
        if medium is None:
            raise CheckpointError(
                "there is no medium to boot",
                "no checkpoint before has made one",
                "run a checkpoint that makes an ISO (CreateISO) before",
            )
        return medium

    def _accelerator(self) -> Accelerator:
        if self.accelerator == "tcg":
            return "tcg"
        kvm = probe_kvm()
        if kvm.usable:
            return "kvm"
        if self.accelerator == "kvm":
            raise Unprepared(
                "KVM does not work on this host",
                kvm.reason,
                'use accelerator "auto" or "tcg" (slower), or enable nested virtualization',
            )
        return "tcg"

    def _boot(
        self, context: Context, medium: Path, accelerator: Accelerator, firmware: Firmware
    ) -> Boot:
        """Boot once. Runs in a thread of its own, which owns the guest."""
        screenshot = context.evidence / f"{self.name}-{firmware}.png"
        spec = GuestSpec(
            name=f"{self.name}-{firmware}",
            firmware=firmware,
            accelerator=accelerator,
            memory_mb=self.memory_mb,
            cpus=self.cpus,
            drives=(Drive(medium, self.media),),
            console_log=context.evidence / f"{self.name}-{firmware}.log",
        )
        console = ConsoleText()
        hypervisor = Qemu(context.environment)
        with hypervisor.guest(spec, context.tmp / f"{self.name}-{firmware}") as guest:
            try:
                seconds = wait_for(
                    guest, self.marker, self.timeout_seconds, console, self._stop.is_set
                )
            except GuestTrouble as trouble:
                # The picture is evidence; a guest that has ended has none.
                with suppress(CheckpointError):
                    guest.screenshot(screenshot)
                raise GuestTrouble(
                    f"{firmware}: {trouble.brief}", trouble.details, trouble.resolution
                ) from None
            self._stop.wait(_SETTLE_SECONDS)
            guest.screenshot(screenshot)
        return Boot(firmware, seconds, console.text, screenshot)
