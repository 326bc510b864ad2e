"""A virtual machine that is installed through iSCSI: by a daemon that is killed while the guest boots that
installs, and goes on, and booted by a plain QEMU.

The processes of an attempt are known by the PID namespace that they are in.
"""

import hashlib
import shutil
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dcd.worker.recover import leftover_workers
from tests.system.plain_qemu import console_with

pytestmark = [pytest.mark.system, pytest.mark.root, pytest.mark.timeout(2400)]

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = ("--set", "kernel=linux-image-cloud-amd64", "--set", "disk_size=1gb")
BOOT_SECONDS = 600.0
GONE_SECONDS = 60.0


BOOTS = (("bios", "Hostname set to <debian-vm>"), ("uefi", "Linux version"))
"""Firmware, and the text of the console that proves that it works. After the kernel's first line the boots do
not differ. What init starts is what it started in the guest that has installed."""


def test_an_installation_is_killed_in_its_middle_goes_on_and_the_result_boots(
    cold_daemon: Any, tmp_path: Path
) -> None:
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    daemon = cold_daemon.start()
    manifest = tmp_path / "examples/debian-vm-iscsi.xml"
    manifest.write_text(with_a_kernel_that_talks(manifest.read_text()))
    build = daemon.submit(manifest, *SMALL, "--pause-before", "verify-boot")

    logs = daemon.state_dir / f"logs/{build}"
    wait_until((logs / "install-iscsi.1.log").exists, 900, "the installation")
    namespace = wait_until(lambda: namespace_of(daemon, build), 60, "its processes")
    running = {"tgtd", "qemu-system-x86"}
    wait_until(lambda: running <= set(in_namespace(namespace)), 120, "the target and the guest")
    disk = disk_of(daemon, build)
    before = digest(disk)
    with socket.socket() as outside:
        assert outside.connect_ex(("127.0.0.1", 3260)) != 0, "the portal is the worker's alone"
    daemon.kill()
    wait_until(lambda: not in_namespace(namespace), GONE_SECONDS, "the end of all processes")

    daemon.start()
    status = daemon.wait(build, "paused", seconds=1500)
    assert [c["attempts"] for c in status["checkpoints"] if c["name"] == "install-iscsi"] == [2]
    assert digest(disk) == before, "the layer before the installation is as it was"
    assert daemon.leaks() == []
    events = daemon.events(build)
    daemon.ctl("events", build, "--verify")
    interrupted = [e["data"]["cause"] for e in events if e["type"] == "CheckpointInterrupted"]
    assert interrupted == ["daemon-died"]
    claims = [e["data"] for e in events if e["type"] == "ResourceClaimed"]
    assert [(c["attempt"], c["kind"]) for c in claims] == [(1, "iscsi-tgt"), (2, "iscsi-tgt")]
    assert claims[0]["name"] != claims[1]["name"]
    assert "# installing the boot loader" in (logs / "install-iscsi.2.log").read_text()
    console = logs / "install-iscsi.2/install-iscsi.log"
    assert b"dcd-install: installed " in console.read_bytes()

    (image,) = daemon.state_dir.glob("layers/*/*/tree/media/debian-vm-iscsi.qcow2")
    with ThreadPoolExecutor() as pool:
        booting = [
            pool.submit(boots, image, tmp_path / firmware, firmware, marker)
            for firmware, marker in BOOTS
        ]
    assert [boot.result() for boot in booting] == [True] * len(BOOTS)
    daemon.ctl("cancel", build)
    assert daemon.stop() == 0
    assert daemon.leaks() == []


def disk_of(daemon: Any, build: str) -> Path:
    """The disk in the layer of create-disk."""
    (key,) = (
        c["key"] for c in daemon.json("status", build)["checkpoints"] if c["name"] == "create-disk"
    )
    (disk,) = daemon.state_dir.glob(f"layers/*/{key}/tree/media/debian-vm.raw")
    return Path(disk)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def with_a_kernel_that_talks(manifest: str) -> str:
    """The manifest of a system whose kernel and init tell of their start on the console."""
    step = '<arg name="timeout_seconds">1800</arg>'
    assert manifest.count(step) == 1
    return manifest.replace(step, f'{step}<arg name="kernel_args">loglevel=7</arg>')


def namespace_of(daemon: Any, build: str) -> int | None:
    """The PID namespace of the installation's first attempt, if it runs."""
    ours = Path("/proc/self/ns/pid").stat().st_ino
    identity = (daemon.state_dir / "id").read_text().strip()
    for worker in leftover_workers(f"{identity}:{build}:install-iscsi:1"):
        found = pid_namespace(Path(f"/proc/{worker.pid}"))
        if found not in (None, ours):
            return found
    return None


def in_namespace(namespace: int) -> list[str]:
    """The names of the processes in a PID namespace."""
    names = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if pid_namespace(place) == namespace:
                names.append((place / "comm").read_text().strip())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return names


def pid_namespace(process: Path) -> int | None:
    try:
        return (process / "ns/pid").stat().st_ino
    except OSError:
        return None


def wait_until(look: Callable[[], Any], seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:g} s in vain: {what}")
        time.sleep(0.02)
    return found


def boots(image: Path, directory: Path, firmware: str, marker: str) -> bool:
    """Whether a plain machine with nothing but the disk comes so far."""
    devices = ["-drive", f"if=none,id=disk,format=qcow2,snapshot=on,file={image}"]
    devices += ["-device", "virtio-blk-pci,drive=disk"]
    return marker in console_with(
        marker, BOOT_SECONDS, directory, devices, firmware=firmware, memory_mb=512
    )
