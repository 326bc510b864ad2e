"""Follows an unattended installation on a guest's serial console.

The installer prints `dcd-install: PERCENT% WHAT` at each step and `dcd-install: installed TOKEN` at the end
(see `dcd.checkpoints.image.installer_script`); its progress becomes the checkpoint's. Other signs of failure
are the messages of kernel and boot loader (`dcd.platform.hypervisor.console`), a login prompt on a medium
without an installer, and silence.
"""

import errno
import math
import os
import re
import time
from collections.abc import Callable

from dcd.checkpoints.boots import SILENCE_SECONDS
from dcd.checkpoints.image.installer_script import SAYS
from dcd.checkpoints.interface import Context, Report
from dcd.platform.hypervisor import ConsoleText, Guest, GuestTrouble, wait_for
from dcd.platform.hypervisor.console import TAIL_LINES, TROUBLES, Trouble
from statemachine.errors import CheckpointError

SUCCESS = f"{SAYS}installed "

_FAILED = Trouble(
    (f"{SAYS}failed while",),
    "the installation in the guest failed",
    "the console's last lines have the step and the reason; the whole console is in the attempt's evidence",
)
_STEP = re.compile(rf"{re.escape(SAYS)}(\d+)% (.*)")
_LOGIN = "login:"
_STARTS_LATE_SECONDS = 120.0
"""The longest time between the login prompt and an installer, which usually begins before it."""
_SWITCHES_OFF_SECONDS = 120.0
_SILENT_STEP_SECONDS = 600.0
"""The longest silence in one step, such as the copy of the system."""
_BOOTED = 0.15
"""The share of the boot of the medium in the time."""
_END = 0.95
_LONGEST_LINE = 1000


class _Progress:
    """The progress of the installation, from the console."""

    def __init__(self, context: Context, console: ConsoleText) -> None:
        self._context = context
        self._console = console
        self._line = ""
        self._begun = False
        self._login_at: float | None = None

    def read(self, text: str) -> None:
        """Read a piece of the output."""
        *lines, last = (self._line + text).split("\n")
        # A guest may print an endless line; a step or a prompt is shorter than this.
        self._line = last[-_LONGEST_LINE:]
        for line in lines:
            if step := _STEP.search(line):
                self._begun = True
                share = _BOOTED + int(step[1]) / 100 * (_END - _BOOTED)
                self._context.report(Report(share, step[2].strip()))
        if self._login_at is None and any(_LOGIN in line for line in (*lines, self._line)):
            self._login_at = time.monotonic()

    def silence_seconds(self) -> float:
        """The longest silence of a running guest at this point."""
        return _SILENT_STEP_SECONDS if self._begun else SILENCE_SECONDS

    def check_that_it_installs(self) -> None:
        """Raise `GuestTrouble` when no installer has begun long after a login prompt."""
        waited = 0.0 if self._login_at is None else time.monotonic() - self._login_at
        if waited > _STARTS_LATE_SECONDS and not self._begun:
            raise GuestTrouble(
                "the medium started a system that installs nothing",
                f"the console's last lines:\n{self._console.tail(TAIL_LINES)}",
                "add an installer to the image before it is compressed (DebianInstaller), or name "
                "another medium",
            )


def wait_for_success(
    context: Context,
    guest: Guest,
    token: str,
    timeout_seconds: float,
    stopped: Callable[[], bool],
    may_be_stuck: bool = False,
) -> ConsoleText:
    """Return after the success of the installation; `wait_until_off` is the next step. Raises `GuestTrouble`
    for a failure, `GuestStuck` when the hypervisor no longer runs the guest (with `may_be_stuck` also for a
    silent one), `CheckpointError` when `stopped` returns True."""
    console = ConsoleText()
    progress = _Progress(context, console)

    def look() -> bool:
        progress.check_that_it_installs()
        return stopped()

    try:
        wait_for(
            guest,
            f"{SUCCESS}{token}",
            timeout_seconds,
            console,
            look,
            troubles=(_FAILED, *TROUBLES),
            on_text=progress.read,
            silence_seconds=progress.silence_seconds if may_be_stuck else lambda: math.inf,
        )
    except GuestTrouble as trouble:
        # Other code takes this message of the system for a full disk of the host.
        details = trouble.details.replace(os.strerror(errno.ENOSPC), "the guest's disk is full")
        raise type(trouble)(trouble.brief, details, trouble.resolution) from None
    context.report(Report(_END, "installed; the guest switches itself off"))
    return console


def wait_until_off(guest: Guest, console: ConsoleText, stopped: Callable[[], bool]) -> None:
    """Return when the guest has ended by itself: only then are all its writes on the disk. Raises as
    `wait_for_success`."""
    deadline = time.monotonic() + _SWITCHES_OFF_SECONDS
    while (chunk := guest.read_console(0.5)) is not None:
        console.feed(chunk)
        if stopped():
            raise CheckpointError("stopped while the guest switched itself off")
        if time.monotonic() > deadline:
            raise GuestTrouble(
                "the guest did not switch itself off after the installation",
                f"the console's last lines:\n{console.tail(TAIL_LINES)}",
                "look for the reason in the console log; the medium's installer has to switch it off",
            )
