"""Guests that are booted as proof: side by side, each until its marker, with evidence.

Every guest is without network, ends with its trial and writes nothing to the image it boots. Its console's
log and a picture of its screen are in `context.evidence` whether it succeeds or not. A panic, an emergency
shell or a boot loader's prompt ends a trial at once, a time limit ends it always, and the first failure
ends the trials beside it.
"""

import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from dcd.checkpoints.interface import Checkpoint, Context, Report
from dcd.checkpoints.media.deliver import deliver_file
from dcd.manifest.data_object import Origin
from dcd.manifest.diagnostics import Diagnostic, error
from dcd.manifest.doc import DataObjectCache
from dcd.platform.hypervisor import (
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
    probe_kvm,
    wait_for,
)
from dcd.platform.inside import new_file, write
from statemachine.errors import CheckpointError, Unprepared

AcceleratorName = Literal["auto", "kvm", "hvf", "tcg"]

Result = TypeVar("Result")

LEAST_MEMORY_MB = 64

SILENCE_SECONDS = 60.0
"""For how long a guest under KVM may print nothing before it counts as hung. A KVM that is half there runs
a tiny guest, and stops at some instruction of a kernel."""

_SETTLE_SECONDS = 2.0
"""Between the marker on the serial console and the picture: the screen's login comes a little later."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One boot to be tried. `label` names it in reports and files; it boots from `drive`."""

    label: str
    firmware: Firmware
    drive: Drive


@dataclass(frozen=True, slots=True)
class Exchange:
    """What is typed on the console once the marker is there, and what has to be printed then."""

    typed: str
    awaited: str


@dataclass(frozen=True, slots=True)
class Conditions:
    """What holds for all trials. `timeout_seconds` is the limit for the marker, and again for each
    exchange; `side_by_side` is how many guests run at once at most. `fall_back`: nobody asked for KVM,
    so a guest that falls silent under it is booted again under emulation."""

    marker: str
    timeout_seconds: float
    accelerator: Accelerator
    memory_mb: int
    cpus: int
    side_by_side: int
    exchanges: tuple[Exchange, ...] = ()
    fall_back: bool = False


@dataclass(frozen=True, slots=True)
class Boot:
    """A trial that came to its marker after `seconds`, and to the end of its exchanges
    `exchange_seconds` later. `console` is the text of the serial console. Where the hypervisor makes no
    `screenshot`, `no_picture` says why."""

    trial: Trial
    seconds: float
    exchange_seconds: float
    console: str
    screenshot: Path | None
    accelerator: Accelerator
    no_picture: str = ""


def check_conditions(
    checkpoint: Checkpoint,
    doc: DataObjectCache,
    marker: str,
    timeout_seconds: float,
    memory_mb: int,
    cpus: int,
    elsewhere: Mapping[str, Origin | None] | None = None,
) -> Iterator[Diagnostic]:
    """Errors for arguments that no boot can succeed with. `elsewhere` are the places of values that
    were not given as arguments."""
    for wrong, argument, rule, example in (
        (not marker.strip(), "marker", "is text to wait for", "login:"),
        (timeout_seconds <= 0, "timeout_seconds", "is more than 0", "600"),
        (
            memory_mb < LEAST_MEMORY_MB,
            "memory_mb",
            f"is at least {LEAST_MEMORY_MB}",
            "1024",
        ),
        (cpus < 1, "cpus", "is at least 1", "1"),
    ):
        if wrong:
            origin = (elsewhere or {}).get(argument) or checkpoint.argument_place(doc, argument)
            yield error(
                origin,
                f"{checkpoint.name}: {argument} {rule}",
                "",
                f'<arg name="{argument}">{example}</arg>',
            )


def check_choice(
    checkpoint: Checkpoint, doc: DataObjectCache, argument: str, chosen: Sequence[str]
) -> Iterator[Diagnostic]:
    """An error when something is chosen twice."""
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


def accelerator_for(hypervisor: HypervisorName, name: AcceleratorName) -> Accelerator:
    """The accelerator of QEMU's guests; `auto` is KVM if a tiny guest proves that it works, else
    emulation. Other hypervisors bring their own. Raises `Unprepared` for a KVM that does not work."""
    if hypervisor != "qemu":
        return "tcg"
    if name in ("tcg", "hvf"):
        return name
    kvm = probe_kvm()
    if kvm.usable:
        return "kvm"
    if name == "kvm":
        raise Unprepared(
            "KVM does not work on this host",
            kvm.reason,
            'use accelerator "auto" or "tcg" (slower), or enable nested virtualization',
        )
    return "tcg"


def with_fallback(
    context: Context,
    accelerator: Accelerator,
    fall_back: bool,
    *,
    again: str,
    attempt: Callable[[Accelerator, bool], Result],
) -> Result:
    """What a guest's `attempt` gives under the accelerator. Its second argument says whether the guest may
    be stuck: nobody asked for KVM (`fall_back`), so an attempt that ends in `GuestStuck` is made once more
    under emulation. `again` says so to people."""
    if accelerator == "kvm" and fall_back:
        try:
            return attempt(accelerator, True)
        except GuestStuck as stuck:
            message = f"{stuck.brief} under KVM; {again} under emulation"
            context.report(Report(message=message))
        accelerator = "tcg"
    return attempt(accelerator, False)


def guests_at_once(memory_mb: int) -> int:
    """How many guests may run side by side: one for each processor, in half of the host's memory."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(os.cpu_count() or 1, (physical // 2) // (max(1, memory_mb) << 20)))


def boot_all(
    context: Context,
    checkpoint: str,
    hypervisor: Hypervisor,
    trials: Sequence[Trial],
    conditions: Conditions,
    stop: threading.Event,
) -> list[Boot]:
    """Carry the trials out and return what came of them, in their order. `stop` is set when this ends,
    and ends it when it is set. Raises `GuestTrouble`, `CheckpointError`, `Unprepared`."""
    done: dict[str, Boot] = {}
    with ThreadPoolExecutor(conditions.side_by_side) as pool:
        pending = [
            pool.submit(_boot, context, checkpoint, hypervisor, trial, conditions, stop)
            for trial in trials
        ]
        try:
            for ended in as_completed(pending):
                boot = ended.result()
                done[boot.trial.label] = boot
                message = (
                    f"{boot.trial.label}: {conditions.marker!r} after {boot.seconds:.1f} seconds"
                )
                if boot.no_picture:
                    message += f" (no picture: {boot.no_picture})"
                context.report(Report(len(done) / len(pending), message))
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
    return [done[trial.label] for trial in trials]


def take_picture(guest: Guest, picture: Path) -> None:
    """Keep what the screen shows, as evidence, where there is a picture: a guest that has ended has none."""
    with suppress(CheckpointError):
        guest.screenshot(picture)


def deliver_boots(context: Context, checkpoint: str, boots: Sequence[Boot]) -> None:
    """Deliver the console and the screen of each boot."""
    for boot in boots:
        log = write(context.media, f"{checkpoint}-{boot.trial.label}.log", boot.console)
        deliver_file(context, log, "text", evidence=True)
        if boot.screenshot is not None:
            screenshot = new_file(context.media, boot.screenshot.name)
            shutil.copyfile(boot.screenshot, screenshot)
            deliver_file(context, screenshot, "png", evidence=True)


def _boot(
    context: Context,
    checkpoint: str,
    hypervisor: Hypervisor,
    trial: Trial,
    conditions: Conditions,
    stop: threading.Event,
) -> Boot:
    """Boot under KVM where it is there, else or after that under emulation. Runs in a thread of its own,
    which owns the guest."""

    def attempt(accelerator: Accelerator, may_be_stuck: bool) -> Boot:
        silence_seconds = SILENCE_SECONDS if may_be_stuck else math.inf
        here = replace(conditions, accelerator=accelerator)
        return _boot_once(context, checkpoint, hypervisor, trial, here, stop, silence_seconds)

    return with_fallback(
        *(context, conditions.accelerator, conditions.fall_back),
        again="booting it again",
        attempt=attempt,
    )


def _boot_once(
    context: Context,
    checkpoint: str,
    hypervisor: Hypervisor,
    trial: Trial,
    conditions: Conditions,
    stop: threading.Event,
    silence_seconds: float,
) -> Boot:
    name = f"{checkpoint}-{trial.label}"
    spec = GuestSpec(
        name=name,
        firmware=trial.firmware,
        accelerator=conditions.accelerator,
        memory_mb=conditions.memory_mb,
        cpus=conditions.cpus,
        drives=(trial.drive,),
        console_log=context.evidence / f"{name}.log",
    )
    console = ConsoleText()
    picture = context.evidence / f"{name}.png"
    directory = context.tmp / name
    no_picture = ""
    try:
        with hypervisor.guest(spec, directory) as guest:
            wait = partial(
                wait_for,
                guest,
                timeout_seconds=conditions.timeout_seconds,
                console=console,
                stopped=stop.is_set,
                silence_seconds=lambda: silence_seconds,
            )
            try:
                seconds = wait(conditions.marker)
                begun = time.monotonic()
                for exchange in conditions.exchanges:
                    guest.write_console(exchange.typed.encode())
                    wait(exchange.awaited)
                exchange_seconds = time.monotonic() - begun
            except GuestTrouble:
                take_picture(guest, picture)
                raise
            stop.wait(_SETTLE_SECONDS)
            try:
                guest.screenshot(picture)
            except CheckpointError as error:
                no_picture = error.brief
    except CheckpointError as error:
        kind = next(
            each for each in (GuestStuck, GuestTrouble, CheckpointError) if isinstance(error, each)
        )
        raise kind(f"{trial.label}: {error.brief}", error.details, error.resolution) from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    screenshot = None if no_picture else picture
    return Boot(
        trial,
        seconds,
        exchange_seconds,
        console.text,
        screenshot,
        conditions.accelerator,
        no_picture,
    )
