"""Examining the host: available and missing requirements, with the commands that install them.

Each check examines one item, makes no permanent changes, and has a remedy when it is not ok. `dcctl
doctor` shows the checks through the daemon, `dcd doctor` without one. Blocking; call in a thread.
"""

import os
import platform
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dcd.platform import apt, foreign
from dcd.platform.asking import ask_host_apt
from dcd.platform.hypervisor import probe_kvm
from statemachine.errors import DcdError
from store.host import tools
from store.host.kernel_scopes import can_scope_sockets
from store.host.mounts import can_restrict, file_system_of
from store.host.system_calls import compile_filter
from store.host.versions import version
from store.layers.choose import choose

ENGINE_TOOLS = (*tools.WORKER_TOOLS, "mount", "umount", "cp")
"""The tools that every checkpoint needs."""

IMAGE_TOOLS = (
    "mmdebstrap",
    "apt-helper",
    "debian-archive-keyring",
    "mksquashfs",
    "xorriso",
    "grub-mkrescue",
    "grub-bios",
    "grub-efi",
    "mformat",
    "mke2fs",
    "sfdisk",
    "qemu-img",
    "qemu-system-x86_64",
    "ovmf",
    "zstd",
    "xz",
    "cpio",
)
"""The tools of the project's own checkpoints for Debian-family images."""

OPTIONAL_TOOLS = {
    "tgtd": "only InstallISCSI needs it",
    "qemu-block-extra": "only InstallISCSI needs it",
}
"""Tools that most builds do not need, with their users."""

LAYER_TOOLS = {"btrfs": "btrfs", "zfs": "zfs"}
"""The tool that makes layers cheap, by the state directory's file system."""

LIMIT_SECONDS = 15.0
"""The maximum duration of an examination. A guest that tries KVM has three seconds."""

SIDE_BY_SIDE = 6
"""The number of concurrent checks; most wait for a program."""

LOW_SPACE_BYTES = 4 * 1024**3


@dataclass(frozen=True, slots=True)
class HostCheck:
    """The result of one check. `status` is `ok`, `warning` or `missing`; `remedy` is a command or a
    sentence."""

    name: str
    status: str
    value: str
    remedy: str = ""


_Check = Callable[[], HostCheck | None]
"""None: nothing to report."""


def missing_packages() -> list[str]:
    """Debian packages that this host lacks for building Debian-family images."""
    return tools.packages(tools.missing(ENGINE_TOOLS + IMAGE_TOOLS))


def examine(state_dir: Path) -> list[HostCheck]:
    """All checks, in the order in which they are shown. They run concurrently; a check that takes
    longer than `LIMIT_SECONDS` (a file system that does not respond) is reported as such."""
    checks: list[tuple[str, _Check]] = [
        *((name, partial(_tool, name)) for name in ENGINE_TOOLS + IMAGE_TOOLS),
        *((name, partial(_optional, name, purpose)) for name, purpose in OPTIONAL_TOOLS.items()),
        ("tools", _absent_tools),
        ("layer tools", partial(_layer_tool, state_dir)),
        ("layers", partial(_layers, state_dir)),
        ("sqlite", _sqlite),
        ("space", partial(_space, state_dir)),
        ("namespaces", _namespaces),
        ("isolation", _isolation),
        ("accelerator", _accelerator),
        ("architectures", _architectures),
        ("apt sources", _apt_sources),
    ]
    return [found for found in _side_by_side(checks, LIMIT_SECONDS) if found is not None]


def _side_by_side(
    checks: Sequence[tuple[str, _Check]], limit_seconds: float
) -> Iterator[HostCheck | None]:
    """The results, in order. A hanging thread ends with the process, without a wait for it."""
    results: list[Future[HostCheck | None]] = [Future() for _ in checks]
    # The slow checks are last in the list and start first.
    left = list(zip(results, checks, strict=True))
    examined = threading.Event()

    def work() -> None:
        while not examined.is_set():
            try:
                result, (name, check) = left.pop()
            except IndexError:
                return
            try:
                result.set_result(_guarded(name, check))
            except BaseException as defect:  # noqa: BLE001 - raised again below
                result.set_exception(defect)

    for _ in range(SIDE_BY_SIDE):
        threading.Thread(target=work, name="doctor", daemon=True).start()
    wait(results, limit_seconds)
    examined.set()
    for result, (name, _) in zip(results, checks, strict=True):
        if result.done():
            yield result.result()
        else:
            late = f"cannot be examined: no answer within {limit_seconds:g} seconds"
            yield HostCheck(
                name, "warning", late, "check whether the file systems of the host respond"
            )


def _guarded(name: str, check: _Check) -> HostCheck | None:
    try:
        return check()
    except DcdError as error:
        return HostCheck(
            name, "missing", f"{error.brief} {error.details}".strip(), error.resolution
        )
    except FileNotFoundError as error:
        absent = tools.cannot_start(error)
        return HostCheck(name, "missing", absent.brief, absent.resolution)
    except (OSError, subprocess.SubprocessError) as error:
        return HostCheck(name, "missing", f"cannot be examined: {error}")


def _tool(name: str) -> HostCheck:
    if tools.missing([name]):
        return HostCheck(name, "missing", "not installed", tools.remedy([name]))
    return HostCheck(name, "ok", version(name) or "installed")


def _optional(name: str, purpose: str) -> HostCheck:
    if tools.missing([name]):
        return HostCheck(name, "ok", f"not installed; {purpose}")
    return _tool(name)


def _absent_tools() -> HostCheck | None:
    absent = tools.missing(ENGINE_TOOLS + IMAGE_TOOLS)
    if not absent:
        return None
    count = f"{len(absent)} of the tools that Debian images need are missing"
    return HostCheck("tools", "missing", count, tools.remedy(absent))


def _layer_tool(state_dir: Path) -> HostCheck | None:
    """A warning if a missing tool would make layers on the state directory's file system cheaper."""
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        kind = file_system_of(state_dir).type
    except (DcdError, OSError):  # the check of layers reports the error
        return None
    tool = LAYER_TOOLS.get(kind)
    if tool is not None and tools.missing([tool]):
        value = (
            f"not installed, so layers in {state_dir} take more space and time than {kind} needs"
        )
        return HostCheck(tool, "warning", value, tools.remedy([tool]))
    return None


def _layers(state_dir: Path) -> HostCheck:
    state_dir.mkdir(parents=True, exist_ok=True)
    store, reason = choose(state_dir / "layers")
    return HostCheck("layers", "ok", f"{store.name}: {reason}")


def _sqlite() -> HostCheck:
    return HostCheck("sqlite", "ok", f"{sqlite3.sqlite_version}, journal_mode=WAL synchronous=FULL")


def _space(state_dir: Path) -> HostCheck:
    state_dir.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(state_dir).free
    value = f"{free / 1024**3:.1f} GiB free in {state_dir}"
    if free < LOW_SPACE_BYTES:
        return HostCheck("space", "warning", value, "free some space: an image needs about 4 GiB")
    return HostCheck("space", "ok", value)


def _namespaces() -> HostCheck:
    command = ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--mount-proc"]
    root = os.geteuid() == 0
    command += ["true"] if root else ["--user", "--map-root-user", "true"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    if result.returncode != 0:
        return HostCheck(
            "namespaces", "missing", result.stderr.strip(), "run the daemon as root (CAP_SYS_ADMIN)"
        )
    if not root:
        only = "only in a user namespace: checkpoints cannot mount, open devices or set owners"
        return HostCheck(
            "namespaces", "warning", only, "for all checkpoints, run the daemon as root"
        )
    return HostCheck(
        "namespaces", "ok", "mount, PID, network, IPC and UTS namespaces can be created"
    )


def _isolation() -> HostCheck:
    if not can_restrict():
        return HostCheck(
            "isolation",
            "warning",
            "workers have only the capabilities that checkpoints declare, but see the whole host",
            "use Linux 5.12 or newer",
        )
    machine = platform.machine()
    if not compile_filter(machine):
        return HostCheck(
            "isolation",
            "warning",
            f"workers have their own root, but no filter of system calls on {machine}",
            "give the role submit only to people whom you trust with the server",
        )
    sockets = (
        "they cannot reach abstract sockets of the host"
        if can_scope_sockets()
        else "workers with network access can reach abstract sockets of the host (before Linux 6.12)"
    )
    return HostCheck(
        "isolation", "ok", f"workers have their own root and filtered system calls; {sockets}"
    )


def _accelerator() -> HostCheck:
    verdict = probe_kvm()
    if verdict.usable:
        return HostCheck("accelerator", "ok", f"kvm: {verdict.reason}")
    return HostCheck(
        "accelerator",
        "warning",
        f"emulation; KVM cannot be used: {verdict.reason}",
        "checkpoints that boot images work, but take several times longer; on a host with KVM they are "
        "fast (in a virtual machine: switch nested virtualization on)",
    )


def _architectures() -> HostCheck:
    """The architectures for which images can be built; the others need emulation."""
    others = foreign.runnable()
    if len(others) > 1:
        return HostCheck("architectures", "ok", f"the host's own, {', '.join(others)}")
    able = ", ".join(["the host's own", *others])
    why, remedy = foreign.obstacle("riscv64" if foreign.is_own("arm64") else "arm64") or ("", "")
    return HostCheck("architectures", "ok", f"{able}; others need more: {why} ({remedy})")


def _apt_sources() -> HostCheck:
    sources = apt.sources_for(ask_host_apt().sources, apt.host_codename())
    suites = ", ".join(dict.fromkeys(source.suite for source in sources))
    return HostCheck("apt sources", "ok", f"{len(sources)} for {suites}")
