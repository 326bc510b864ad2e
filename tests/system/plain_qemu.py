"""A plain QEMU, by its own command line, that boots what was delivered: nothing of dcd is in it."""

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest


def console_with(
    marker: str,
    seconds: float,
    directory: Path,
    devices: Sequence[str],
    *,
    firmware: str,
    machine: str = "q35",
    memory_mb: int = 1024,
) -> str:
    """The serial console of an emulated machine that has only these devices (arguments of QEMU), once
    `marker` is on it. Fails the test when it does not come in time. `directory` is made."""
    directory.mkdir()
    console = directory / "console.log"
    command = ["qemu-system-x86_64", "-machine", machine, "-accel", "tcg", "-cpu", "qemu64"]
    command += ["-m", str(memory_mb), "-nic", "none", "-display", "none", "-no-reboot"]
    command += ["-serial", f"file:{console}", "-device", "virtio-rng-pci"]
    if firmware == "uefi":
        command += ["-bios", "/usr/share/ovmf/OVMF.fd"]
    guest = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *command, *devices],
        env={**os.environ, "TMPDIR": str(directory)},
    )
    try:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and guest.poll() is None:
            text = console.read_text("utf-8", "replace") if console.exists() else ""
            if marker in text:
                return text
            time.sleep(0.2)
        shown = console.read_text("utf-8", "replace")[-2000:] if console.exists() else ""
        pytest.fail(f"{directory.name}, {firmware}: no {marker!r}\n{shown}")
    finally:
        guest.kill()
        guest.wait()
