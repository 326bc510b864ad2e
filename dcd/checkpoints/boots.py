"""Guests that boot as a test, side by side, each until its marker, with evidence.

Every guest is without network, or has one of its own from which it boots. It ends with its trial and leaves
the image that it boots unchanged. Its console log and a screenshot are in `context.evidence` whether it
succeeds or not. A panic, an emergency shell or a boot loader's prompt ends a trial at once, a time limit ends
it always, and the first failure ends the other trials.
"""

import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from dcd.checkpoints.architecture import hardware, image_architecture
from dcd.checkpoints.interface import Checkpoint, Context, Report
from dcd.checkpoints.media.deliver import deliver_file
from dcd.checkpoints.secure_boot import way_of
from dcd.manifest.data_object import Origin
from dcd.manifest.diagnostics import Diagnostic, error, warning
from dcd.manifest.doc import DataObjectCache
from dcd.platform import foreign
from dcd.platform.hypervisor import (
    TROUBLES,
    UNBOOTABLE,
    Accelerator,
    ConsoleText,
    Drive,
    Firmware,
    Guest,
    GuestSpec,
    GuestStuck,
    GuestTrouble,
    Hypervisor,
    HypervisorName,
    NetworkBoot,
    Trouble,
    listen,
    probe_kvm,
    wait_for,
)
from dcd.platform.inside import new_file, write
from statemachine.errors import CheckpointError, Unprepared

AcceleratorName = Literal["auto", "kvm", "hvf", "tcg"]

Result = TypeVar("Result")

LEAST_MEMORY_MB = 64

SILENCE_SECONDS = 60.0
"""The longest silence of a guest under KVM that does not count as hung. An incomplete KVM runs a tiny guest,
but stops at some instruction of a kernel."""

PICTURE_SECONDS = 5.0
"""The time between two pictures of a guest that boots."""

_REPORT_ON, _REPORT_OFF = "Secure boot enabled", "Secure boot disabled"

_SETTLE_SECONDS = 2.0
"""The time between the marker on the serial console and the screenshot: the screen's login appears later, and
so does the rest of the marker's line."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One boot from `drive`, or from `network`; with `secure_boot` by firmware that demands signatures, with
    the key of a `certificate` (a file) or else Microsoft's. `label` names it in reports and files."""

    label: str
    firmware: Firmware
    drive: Drive | None
    secure_boot: bool = False
    certificate: Path | None = None
    network: NetworkBoot | None = None


@dataclass(frozen=True, slots=True)
class Exchange:
    """A text to type on the console after the marker, and the expected output."""

    typed: str
    awaited: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question on the console before the marker, the text to type then, and the signs that it was wrong."""

    awaited: str
    typed: str
    refusal: Trouble


@dataclass(frozen=True, slots=True)
class Conditions:
    """The common conditions of all trials of a checkpoint. `timeout_seconds` is the limit for the marker, and
    again for each exchange; `side_by_side` is the most guests at a time. With `fall_back` (the manifest does
    not require KVM) a guest that falls silent under KVM boots again under emulation. `troubles` and
    `unbootable` are as for `wait_for`."""

    checkpoint: str
    hypervisor: Hypervisor
    marker: str
    timeout_seconds: float
    accelerator: Accelerator
    memory_mb: int
    cpus: int
    side_by_side: int
    prompts: tuple[Prompt, ...] = ()
    exchanges: tuple[Exchange, ...] = ()
    fall_back: bool = False
    architecture: str = "amd64"
    troubles: Sequence[Trouble] = TROUBLES
    unbootable: Trouble = UNBOOTABLE

    @property
    def under(self) -> str:
        """The accelerator of QEMU, or else the hypervisor, in messages."""
        qemu = self.hypervisor.name == "qemu"
        return self.accelerator.upper() if qemu else self.hypervisor.name


@dataclass(frozen=True, slots=True)
class Boot:
    """A trial that reached its marker after `seconds`, and the end of its exchanges `exchange_seconds` later.
    `console` is the text of the serial console. Without a `screenshot`, `no_picture` is the reason."""

    trial: Trial
    seconds: float
    exchange_seconds: float
    console: str
    screenshot: Path | None
    accelerator: Accelerator
    no_picture: str = ""

    @property
    def reports_secure_boot(self) -> bool:
        """Whether the guest's kernel has reported that Secure Boot is on. Source: Linux,
        drivers/firmware/efi/secureboot.c."""
        return _REPORT_ON in self.console


def check_secure_boot(
    checkpoint: Checkpoint,
    doc: DataObjectCache,
    hypervisor: HypervisorName,
    kinds: Sequence[Firmware],
) -> Iterator[Diagnostic]:
    """The reasons why the Secure Boot of the manifest's image cannot be tested."""
    if way_of(doc) is None:
        return
    if "uefi" not in kinds:
        yield warning(
            checkpoint.argument_place(doc, "firmware"),
            f"{checkpoint.name}: only UEFI has Secure Boot, which is not tested",
            f"it boots with {', '.join(kinds)}",
            '<arglist name="firmware"><argitem>uefi</argitem></arglist>',
        )
    elif hypervisor != "qemu":
        yield checkpoint.fault(
            doc,
            "hypervisor",
            f"{hypervisor} is not started with Secure Boot",
            "the image of this manifest is for machines with it",
            '<arg name="hypervisor">qemu</arg>',
        )


def check_conditions(
    checkpoint: Checkpoint,
    doc: DataObjectCache,
    marker: str,
    timeout_seconds: float,
    memory_mb: int,
    cpus: int,
    elsewhere: Mapping[str, Origin | None] | None = None,
) -> Iterator[Diagnostic]:
    """Errors for arguments with which no boot can succeed. `elsewhere` are the places of values that are
    not arguments."""
    for valid, argument, rule, example in (
        (bool(marker.strip()), "marker", "is text to wait for", "login:"),
        (timeout_seconds > 0, "timeout_seconds", "is more than 0", "600"),
        (memory_mb >= LEAST_MEMORY_MB, "memory_mb", f"is at least {LEAST_MEMORY_MB}", "1024"),
        (cpus >= 1, "cpus", "is at least 1", "1"),
    ):
        if not valid:
            origin = (elsewhere or {}).get(argument) or checkpoint.argument_place(doc, argument)
            message = f"{checkpoint.name}: {argument} {rule}"
            yield error(origin, message, "", f'<arg name="{argument}">{example}</arg>')


def check_choice(
    checkpoint: Checkpoint, doc: DataObjectCache, argument: str, chosen: Sequence[str]
) -> Iterator[Diagnostic]:
    """An error for a repetition in the argument."""
    once = list(dict.fromkeys(chosen))
    if len(once) != len(chosen):
        items = "".join(f"<argitem>{item}</argitem>" for item in once)
        yield checkpoint.fault(
            doc,
            argument,
            f"{argument} names each once",
            f"it is {', '.join(chosen)}",
            f'<arglist name="{argument}">{items}</arglist>',
        )


def check_machine(
    checkpoint: Checkpoint,
    doc: DataObjectCache,
    hypervisor: HypervisorName,
    firmware: Sequence[Firmware],
) -> Iterator[Diagnostic]:
    """Errors for an image whose machines the hypervisor does not have, and for `firmware` that these lack."""
    architecture = image_architecture(doc)
    if hypervisor != "qemu" and architecture not in foreign.X86:
        brief = f"{hypervisor} boots no images of {architecture}"
        yield checkpoint.fault(doc, "hypervisor", brief, "", '<arg name="hypervisor">qemu</arg>')
    offered = hardware(doc).firmware
    for item, kind in enumerate(firmware):
        if kind not in offered:
            brief = f"machines of {architecture} have no {kind.upper()}"
            example = f'<arglist name="firmware"><argitem>{offered[0]}</argitem></arglist>'
            yield checkpoint.fault(doc, "firmware", brief, "", example, item)


def accelerator_for(
    hypervisor: HypervisorName, name: AcceleratorName, architecture: str
) -> Accelerator:
    """The accelerator of QEMU's guests of an architecture; `auto` is KVM if a tiny guest proves that it
    works, else emulation. Other hypervisors have their own. Raises `Unprepared` for a KVM that does not
    work."""
    if hypervisor != "qemu":
        return "tcg"
    if architecture not in foreign.X86:
        return _accelerator_of_others(name, architecture)
    if name in ("tcg", "hvf"):
        return name
    kvm = probe_kvm()
    if name == "kvm" and not kvm.usable:
        raise Unprepared(
            "KVM does not work on this host",
            kvm.reason,
            'use accelerator "auto" or "tcg" (slower), or enable nested virtualization',
        )
    return "kvm" if kvm.usable else "tcg"


def _accelerator_of_others(name: AcceleratorName, architecture: str) -> Accelerator:
    """The accelerator of guests that no tiny guest speaks for: only that of PCs exists."""
    if name == "auto":
        return "tcg"
    if name == "kvm" and not foreign.is_own(architecture):
        raise Unprepared(
            f"KVM runs no guests of {architecture} on this host",
            f"it runs those of {foreign.own()}",
            'use accelerator "auto" or "tcg"',
        )
    return name


def with_fallback(
    context: Context,
    accelerator: Accelerator,
    fall_back: bool,
    *,
    again: str,
    attempt: Callable[[Accelerator, bool], Result],
) -> Result:
    """The result of a guest's `attempt` under the accelerator. With `fall_back`, an attempt under KVM that
    ends in `GuestStuck` is repeated under emulation, and reported with `again`. The second argument of
    `attempt` says whether it may end so."""
    if accelerator == "kvm" and fall_back:
        try:
            return attempt(accelerator, True)
        except GuestStuck as stuck:
            context.report(Report(message=f"{stuck.brief} under KVM; {again} under emulation"))
        accelerator = "tcg"
    return attempt(accelerator, False)


def guests_at_once(memory_mb: int) -> int:
    """The number of guests to run side by side: one for each processor, in half of the host's memory."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(os.cpu_count() or 1, (physical // 2) // (max(1, memory_mb) << 20)))


def boot_all(
    context: Context, trials: Sequence[Trial], conditions: Conditions, stop: threading.Event
) -> list[Boot]:
    """Carry the trials out, deliver the console and the screenshot of each, and return their results in
    order. Setting `stop` ends them; it is set at the end. Raises `GuestTrouble`, `CheckpointError`,
    `Unprepared`."""
    done: dict[str, Boot] = {}
    with ThreadPoolExecutor(conditions.side_by_side) as pool:
        pending = [pool.submit(_boot, context, trial, conditions, stop) for trial in trials]
        try:
            for ended in as_completed(pending):
                boot = ended.result()
                label = boot.trial.label
                done[label] = boot
                message = f"{label}: {conditions.marker!r} after {boot.seconds:.1f} seconds"
                if boot.trial.secure_boot:
                    message += ", with Secure Boot"
                    message += ", as the guest reports" if boot.reports_secure_boot else ""
                if boot.no_picture:
                    message += f" (no picture: {boot.no_picture})"
                context.report(Report(len(done) / len(pending), message))
                if boot.trial.secure_boot and not boot.reports_secure_boot:
                    context.warn(
                        f"{label}: Secure Boot was on, but the guest did not report it: leave quiet out of "
                        "kernel_args, so that its kernel does"
                    )
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
    boots = [done[trial.label] for trial in trials]
    for boot in boots:
        log = write(context.media, f"{conditions.checkpoint}-{boot.trial.label}.log", boot.console)
        deliver_file(context, log, "text", evidence=True)
        if boot.screenshot is not None:
            screenshot = new_file(context.media, boot.screenshot.name)
            shutil.copyfile(boot.screenshot, screenshot)
            deliver_file(context, screenshot, "png", evidence=True)
    return boots


def take_picture(guest: Guest, picture: Path) -> None:
    """Keep a screenshot as evidence, if there is one: a guest that has ended has none."""
    with suppress(CheckpointError):
        _replace_picture(guest, picture)


def _replace_picture(guest: Guest, picture: Path) -> None:
    """Take a picture. A reader sees this or the previous one, never a part. Raises CheckpointError."""
    new = picture.with_name(f".{picture.name}")
    guest.screenshot(new)
    new.replace(picture)


class Watched:
    """A guest whose screen can be seen while somebody waits for it: its picture is renewed now and then."""

    def __init__(self, guest: Guest, picture: Path, stop: threading.Event) -> None:
        self._guest, self._picture, self._stop = guest, picture, stop
        self._next = time.monotonic() + PICTURE_SECONDS

    def stopped(self) -> bool:
        """Whether to stop waiting. Called all the time while the guest is waited for."""
        if time.monotonic() >= self._next:
            take_picture(self._guest, self._picture)
            # From the end of this one: a slow picture must not take the guest's time.
            self._next = time.monotonic() + PICTURE_SECONDS
        return self._stop.is_set()


def _boot(context: Context, trial: Trial, conditions: Conditions, stop: threading.Event) -> Boot:
    """Carry out one trial. Runs in its own thread, which owns the guest."""

    def attempt(accelerator: Accelerator, may_be_stuck: bool) -> Boot:
        silence_seconds = SILENCE_SECONDS if may_be_stuck else math.inf
        return _boot_under(accelerator, context, trial, conditions, stop, silence_seconds)

    return with_fallback(
        *(context, conditions.accelerator, conditions.fall_back),
        again="booting it again",
        attempt=attempt,
    )


def _boot_under(
    accelerator: Accelerator,
    context: Context,
    trial: Trial,
    conditions: Conditions,
    stop: threading.Event,
    silence_seconds: float,
) -> Boot:
    name = f"{conditions.checkpoint}-{trial.label}"
    spec = GuestSpec(
        name=name,
        firmware=trial.firmware,
        accelerator=accelerator,
        memory_mb=conditions.memory_mb,
        cpus=conditions.cpus,
        drives=(trial.drive,) if trial.drive else (),
        network=trial.network,
        console_log=context.evidence / f"{name}.log",
        secure_boot=trial.secure_boot,
        certificate=trial.certificate,
        architecture=conditions.architecture,
    )
    console = ConsoleText()
    picture = context.evidence / f"{name}.png"
    directory = context.tmp / name
    no_picture = ""
    try:
        with conditions.hypervisor.guest(spec, directory) as guest:
            watched = Watched(guest, picture, stop)
            wait = partial(
                wait_for,
                guest,
                timeout_seconds=conditions.timeout_seconds,
                console=console,
                stopped=watched.stopped,
                troubles=conditions.troubles,
                unbootable=conditions.unbootable,
                silence_seconds=lambda: silence_seconds,
            )
            try:
                seconds = _answer_prompts(guest, conditions.prompts, wait)
                refusals = (prompt.refusal for prompt in conditions.prompts)
                seconds += wait(conditions.marker, troubles=(*refusals, *conditions.troubles))
                begun = time.monotonic()
                for exchange in conditions.exchanges:
                    guest.write_console(exchange.typed.encode())
                    wait(exchange.awaited)
                exchange_seconds = time.monotonic() - begun
                if trial.secure_boot and _REPORT_OFF in console.text:
                    raise GuestTrouble(
                        "the guest reports that Secure Boot is off",
                        f"its kernel printed {_REPORT_OFF!r}, although its firmware demands signatures",
                        "use a kernel that knows Secure Boot",
                    )
            except GuestTrouble:
                take_picture(guest, picture)
                raise
            listen(guest, console, _SETTLE_SECONDS, stop.is_set)
            try:
                _replace_picture(guest, picture)
            except CheckpointError as error:
                no_picture = error.brief
    except CheckpointError as error:
        kinds = (GuestStuck, GuestTrouble, CheckpointError)
        kind = next(each for each in kinds if isinstance(error, each))
        raise kind(f"{trial.label}: {error.brief}", error.details, error.resolution) from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    screenshot = None if no_picture else picture
    return Boot(trial, seconds, exchange_seconds, console.text, screenshot, accelerator, no_picture)


def _answer_prompts(guest: Guest, prompts: Sequence[Prompt], wait: Callable[..., float]) -> float:
    """Type the answer to each prompt. Returns the seconds until the last one."""
    seconds = 0.0
    refusals: tuple[Trouble, ...] = ()
    for prompt in prompts:
        seconds += wait(prompt.awaited, troubles=(*refusals, *TROUBLES))
        guest.write_console(f"{prompt.typed}\n".encode())
        refusals = (*refusals, prompt.refusal)
    return seconds
