"""Whether KVM works on this host, proven by running a guest in it.

`/dev/kvm` can exist, open, accept a machine, and never execute it (incomplete nested virtualization), or the
process can abort at the first model-specific register. So the probe runs a guest: a boot sector of nine bytes
that reports through QEMU's debug-exit device. Only its answer counts. A guest without an answer within
`LIMIT_SECONDS` is killed; under emulation it answers in a tenth of a second. The verdict is valid for the
life of this process, hence at most until the host reboots.
"""

import functools
import os
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from dcd.platform.child import dies_with_caller
from dcd.platform.hypervisor.interface import Accelerator
from store.host.process import BASE_ENVIRONMENT

LIMIT_SECONDS = 3.0

_PORT = 0xF4
_ANSWER = 0x2A
_BOOT_SECTOR = (
    bytes((0xBA, _PORT, 0x00))  # mov dx, _PORT
    + bytes((0xB0, _ANSWER))  # mov al, _ANSWER
    + bytes((0xEE,))  # out dx, al: QEMU exits
    + bytes((0xF4, 0xEB, 0xFD))  # halt, for ever
).ljust(510, b"\0") + b"\x55\xaa"
_EXIT_STATUS = _ANSWER << 1 | 1
"""isa-debug-exit makes QEMU exit with (value << 1) | 1, so never with 0."""


@dataclass(frozen=True, slots=True)
class KvmVerdict:
    """Whether guests run under KVM, and the reason for people."""

    usable: bool
    reason: str


@functools.cache
def probe_kvm() -> KvmVerdict:
    """Run the guest, once per process. Takes little more than `LIMIT_SECONDS` at most."""
    device = Path("/dev/kvm")
    if not device.exists():
        return KvmVerdict(False, "there is no /dev/kvm")
    if not os.access(device, os.R_OK | os.W_OK):
        return KvmVerdict(False, "/dev/kvm may not be opened by this user")
    return run_probe_guest("kvm", "host")


def run_probe_guest(
    accelerator: Accelerator, cpu: str, limit_seconds: float = LIMIT_SECONDS
) -> KvmVerdict:
    """Run the probing guest under an accelerator with a CPU model; "usable" means it answered."""
    with tempfile.NamedTemporaryFile(prefix="dcd-probe-") as sector:
        sector.write(_BOOT_SECTOR)
        sector.flush()
        argv = [
            # With an incomplete KVM QEMU aborts, which is an answer and needs no core file.
            *("sh", "-c", 'ulimit -c 0; exec "$@"', "sh", *dies_with_caller()),
            "qemu-system-x86_64",
            *("-no-user-config", "-nodefaults", "-display", "none", "-machine", "pc"),
            *("-accel", accelerator, "-cpu", cpu, "-m", "32"),
            *("-device", f"isa-debug-exit,iobase={_PORT:#x},iosize=1"),
            *("-drive", f"if=floppy,format=raw,readonly=on,file={sector.name}"),
        ]
        try:
            ended = subprocess.run(
                argv,
                env=BASE_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=limit_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return KvmVerdict(False, f"a tiny guest did not answer within {limit_seconds:g} s")
        except OSError as error:
            return KvmVerdict(False, f"{error.filename} cannot be started: {error.strerror}")
    if ended.returncode == _EXIT_STATUS:
        return KvmVerdict(True, "a tiny guest ran and answered")
    if ended.returncode < 0:  # An assertion, whose text helps only QEMU's developers.
        number = signal.Signals(-ended.returncode).name
        return KvmVerdict(False, f"QEMU ended with {number} instead of running a tiny guest")
    lines = ended.stderr.decode("utf-8", "replace").strip().splitlines()
    last = f": {lines[-1]}" if lines else ""
    return KvmVerdict(
        False, f"QEMU ended with status {ended.returncode} instead of running a tiny guest{last}"
    )
