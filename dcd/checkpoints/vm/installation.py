"""Following an unattended installation on a guest's serial console.

The installer says `dcd-install: PERCENT% WHAT` at each step and `dcd-install: installed TOKEN` at the end
(see `dcd.checkpoints.image.installer_script`); its progress becomes the checkpoint's. What it cannot say
itself is known by other signs: the kernel's and the boot loader's (`dcd.platform.hypervisor.console`), a
login prompt on a medium that has no installer, silence.
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
    "the console's last lines say at which step and why; the whole console is in the evidence of the"
    " attempt",
)
_STEP = re.compile(rf"{re.escape(SAYS)}(\d+)% (.*)")
_LOGIN = "login:"
_STARTS_LATE_SECONDS = 120.0
"""How long after the login prompt an installer may begin; it begins before, unless the machine is slow."""
_SWITCHES_OFF_SECONDS = 120.0
_SILENT_STEP_SECONDS = 600.0
"""The longest that a step, such as the copy of the system, is thought to take."""
_BOOTED = 0.15
"""The share of the time that booting the medium takes."""
_END = 0.95
_LONGEST_LINE = 1000


class _Progress:
    """What the console has told so far."""

    def __init__(self, context: Context, console: ConsoleText) -> None:
        self._context = context
        self._console = console
        self._line = ""
        self._begun = False
        self._login_at: float | None = None

    def hear(self, text: str) -> None:
        """Take in a piece of what is printed."""
        *lines, last = (self._line + text).split("\n")
        # A guest may print a line without end; a step or a prompt is no longer than this.
        self._line = last[-_LONGEST_LINE:]
        for line in lines:
            if step := _STEP.search(line):
                self._begun = True
                share = _BOOTED + int(step[1]) / 100 * (_END - _BOOTED)
                self._context.report(Report(share, step[2].strip()))
        if self._login_at is None and any(_LOGIN in line for line in (*lines, self._line)):
            self._login_at = time.monotonic()

    def silence_seconds(self) -> float:
        """For how long a guest that runs may be silent where it is."""
        return _SILENT_STEP_SECONDS if self._begun else SILENCE_SECONDS

    def check_that_it_installs(self) -> None:
        """Raise `GuestTrouble` when a login has been there for long and no installer."""
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
    """Return when the installation has succeeded; `wait_until_off` comes next. Raises `GuestTrouble` when
    it has not, `GuestStuck` when its hypervisor does not run it any more (a silent one only where it
    `may_be_stuck`), `CheckpointError` when `stopped` says so."""
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
            on_text=progress.hear,
            silence_seconds=progress.silence_seconds if may_be_stuck else lambda: math.inf,
        )
    except GuestTrouble as trouble:
        # Whose disk is full is decided by these words elsewhere, and it is not this host's.
        details = trouble.details.replace(os.strerror(errno.ENOSPC), "the guest's disk is full")
        raise type(trouble)(trouble.brief, details, trouble.resolution) from None
    context.report(Report(_END, "installed; the guest switches itself off"))
    return console


def wait_until_off(guest: Guest, console: ConsoleText, stopped: Callable[[], bool]) -> None:
    """Return when the guest has ended by itself: only then is on the disk what it has written. Raises as
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
                "see in the console log what keeps it; the medium's installer has to switch it off",
            )
