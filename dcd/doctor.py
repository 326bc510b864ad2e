"""Examining the host: available and missing requirements, with the commands that install them.

Each check examines one item, makes no permanent changes, and has a remedy when it is not ok. `dcctl
doctor` shows the checks through the daemon, `dcd doctor` without one. Blocking; call in a thread.
"""

import os
import platform
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from dcd.platform import apt, foreign
from dcd.platform.host_labels import host_labels, plain
from dcd.platform.hypervisor import probe_kvm
from dcd.platform.sbom_libraries import REMEDY, missing_libraries
from dcd.signing.keys import INSTALL, can_sign, check_key
from dcd.signing.process import sign
from dcd.worker.kinds import AUTO, TOOLS, Kind, chosen_kind
from dcd.worker.permission import require_namespaces
from statemachine.errors import DcdError
from store.host import tools
from store.host.kernel_scopes import can_scope_sockets
from store.host.mounts import can_restrict, file_system_of
from store.host.secret_files import DIRECTORIES
from store.host.system_calls import compile_filter
from store.host.versions import version
from store.layers.choose import choose

ENGINE_TOOLS = (*TOOLS[Kind.NAMESPACES], "mount", "umount", "cp")
"""The tools that every checkpoint needs in namespaces. Portable workers need only those of their kind."""

IMAGE_TOOLS = (
    *(
        "mmdebstrap",
        "apt-helper",
        "debian-archive-keyring",
        "mksquashfs",
        "xorriso",
        "grub-mkrescue",
    ),
    *("grub-bios", "grub-efi", "mformat", "mke2fs", "sfdisk", "qemu-img", "qemu-system-x86_64"),
    *("ovmf", "zstd", "xz", "cpio"),
)
"""The tools of the project's own checkpoints for Debian-family images."""

OPTIONAL_TOOLS = {
    "tgtd": "only InstallISCSI needs it",
    "qemu-block-extra": "only InstallISCSI needs it",
    "qemu-system-aarch64": "only boots of images for arm64 need it",
    "aavmf": "only boots of images for arm64 need it",
    "sbsign": 'only secure_boot="keys" needs it',
    "libfaketime": 'only secure_boot="keys" needs it',
    "mkfs.erofs": "only RootfsArchive with the format erofs needs it",
    "objcopy": "only UnifiedKernelImage needs it",
}
"""Tools that most builds do not need, with their users."""

LAYER_TOOLS = {"btrfs": "btrfs", "zfs": "zfs"}
"""Tools that make layers cheap, with the file system of the state directory for which they do."""

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


_Finding = tuple[str, ...]
"""Status, value and remedy of a check."""

_Check = Callable[[], _Finding | None]
"""None: nothing to report."""


def missing_packages() -> list[str]:
    """Debian packages that this host lacks for building Debian-family images."""
    return tools.packages(tools.missing(ENGINE_TOOLS + IMAGE_TOOLS))


def examine(state_dir: Path, signing_key: str = "", worker: str = AUTO) -> list[HostCheck]:
    """All checks, in the order in which they are shown; `signing_key` is the path of the key, if any, and
    `worker` the setting of that name. They run concurrently; a check that takes longer than `LIMIT_SECONDS`
    (a file system that does not respond) is reported as such."""
    kind, reason = chosen_kind(worker)
    apart = kind is Kind.NAMESPACES
    engine_tools = ENGINE_TOOLS if apart else TOOLS[kind]
    wanted = tuple(dict.fromkeys(engine_tools + IMAGE_TOOLS))
    checks: list[tuple[str, _Check]] = [
        ("worker", partial(_worker, kind, reason)),
        *((name, partial(_tool, name)) for name in wanted),
        *((name, partial(_optional, name, purpose)) for name, purpose in OPTIONAL_TOOLS.items()),
        ("tools", partial(_absent_tools, wanted)),
        *((name, partial(_layer_tool, name, state_dir)) for name in LAYER_TOOLS),
        ("layers", partial(_layers, state_dir, apart)),
        ("sqlite", _sqlite),
        ("space", partial(_space, state_dir)),
        *([("namespaces", _namespaces), ("isolation", _isolation)] if apart else []),
        ("accelerator", _accelerator),
        ("secrets", _secrets),
        ("signatures", partial(_signatures, signing_key)),
        ("architectures", _architectures),
        ("labels", _labels),
        ("sbom", _sbom),
        ("apt sources", _apt_sources),
    ]
    return list(_side_by_side(checks, LIMIT_SECONDS))


def _side_by_side(
    checks: Sequence[tuple[str, _Check]], limit_seconds: float
) -> Iterator[HostCheck]:
    """The results, in order. A hanging thread ends with the process, without a wait for it."""
    results: list[Future[_Finding | None]] = [Future() for _ in checks]
    # The slow checks are last in the list and start first.
    left = list(zip(results, checks, strict=True))
    examined = threading.Event()

    def work() -> None:
        while not examined.is_set():
            try:
                result, (_, check) = left.pop()
            except IndexError:
                return
            try:
                result.set_result(_guarded(check))
            except BaseException as defect:  # noqa: BLE001 - raised again below
                result.set_exception(defect)

    for _ in range(SIDE_BY_SIDE):
        threading.Thread(target=work, name="doctor", daemon=True).start()
    wait(results, limit_seconds)
    examined.set()
    late = f"cannot be examined: no answer within {limit_seconds:g} seconds"
    silent = ("warning", late, "check whether the file systems of the host respond")
    for result, (name, _) in zip(results, checks, strict=True):
        if (finding := result.result() if result.done() else silent) is not None:
            yield HostCheck(name, *finding)


def _guarded(check: _Check) -> _Finding | None:
    try:
        return check()
    except DcdError as error:
        told = ": ".join(filter(None, (error.brief, error.details)))
        return "missing", told, error.resolution
    except FileNotFoundError as error:
        absent = tools.cannot_start(error)
        return "missing", absent.brief, absent.resolution
    except (OSError, subprocess.SubprocessError) as error:
        return "missing", f"cannot be examined: {error}"


def _tool(name: str) -> _Finding:
    if tools.missing([name]):
        return "missing", "not installed", tools.remedy([name])
    return "ok", version(name) or "installed"


def _optional(name: str, purpose: str) -> _Finding:
    if tools.missing([name]):
        return "ok", f"not installed; {purpose}"
    return _tool(name)


def _absent_tools(wanted: Sequence[str]) -> _Finding | None:
    absent = tools.missing(wanted)
    if not absent:
        return None
    count = f"{len(absent)} of the tools that Debian images need are missing"
    return "missing", count, tools.remedy(absent)


def _layer_tool(tool: str, state_dir: Path) -> _Finding | None:
    """A warning if the missing tool would make layers on the state directory's file system cheaper."""
    if not tools.missing([tool]):
        return None
    try:
        kind = file_system_of(_existing(state_dir)).type
    except (DcdError, OSError):  # the check of layers reports the error
        return None
    if kind != LAYER_TOOLS[tool]:
        return None
    value = f"not installed, so layers in {state_dir} take more space and time than {kind} needs"
    return "warning", value, tools.remedy([tool])


def _existing(directory: Path) -> Path:
    """The directory, or else the nearest one above it, on whose file system it would be made."""
    directory = directory.absolute()
    return next(each for each in (directory, *directory.parents) if each.exists())


def _layers(state_dir: Path, mounts: bool) -> _Finding:
    """What works is tried; where there is no state directory yet, none is left."""
    with ExitStack() as stack:
        place = _existing(state_dir)
        if place != state_dir.absolute():
            place = Path(stack.enter_context(TemporaryDirectory(prefix=".dcd-doctor-", dir=place)))
        store, reason = choose(place / "layers", mounts=mounts)
        return "ok", f"{store.name}: {reason.replace(str(place), str(state_dir))}"


def _sqlite() -> _Finding:
    return "ok", f"{sqlite3.sqlite_version}, journal_mode=WAL synchronous=FULL"


def _space(state_dir: Path) -> _Finding:
    free = shutil.disk_usage(_existing(state_dir)).free
    value = f"{free / 1024**3:.1f} GiB free in {state_dir}"
    if free < LOW_SPACE_BYTES:
        return "warning", value, "free some space: an image needs about 4 GiB"
    return "ok", value


def _worker(kind: Kind, reason: str) -> _Finding:
    """The kind of workers, why, and what it cannot give."""
    if kind is Kind.NAMESPACES:
        return "ok", f"namespaces: {reason}"
    return (
        "warning",
        f"portable: {reason}. A checkpoint sees the whole host and shares its processes and network; those "
        "that mount file systems or run programs inside the image are refused",
        "give host_code only to people who may be root here"
        + (
            "; for all checkpoints install util-linux, with worker = auto"
            if sys.platform == "linux"
            else ""
        ),
    )


def _namespaces() -> _Finding:
    require_namespaces()
    if os.geteuid() == 0:
        return "ok", "mount, PID, network, IPC and UTS namespaces can be created"
    only = "only in a user namespace: checkpoints cannot mount, open devices or set owners"
    return "warning", only, "for all checkpoints, run the daemon as root"


def _isolation() -> _Finding:
    if not can_restrict():
        whole = (
            "workers have only the capabilities that checkpoints declare, but see the whole host"
        )
        return "warning", whole, "use Linux 5.12 or newer"
    machine = platform.machine()
    if not compile_filter(machine):
        return (
            "warning",
            f"workers have their own root, but no filter of system calls on {machine}",
            "give the role submit only to people whom you trust with the server",
        )
    sockets = (
        "they cannot reach abstract sockets of the host"
        if can_scope_sockets()
        else "workers with network access can reach abstract sockets of the host (before Linux 6.12)"
    )
    return "ok", f"workers have their own root and filtered system calls; {sockets}"


def _accelerator() -> _Finding:
    verdict = probe_kvm()
    if verdict.usable:
        return "ok", f"kvm: {verdict.reason}"
    return (
        "warning",
        f"emulation; KVM cannot be used: {verdict.reason}",
        "checkpoints that boot images work, but take several times longer; on a host with KVM they are "
        "fast (in a virtual machine: switch nested virtualization on)",
    )


def _architectures() -> _Finding:
    """The architectures for which images can be built; the others need emulation."""
    others = foreign.runnable()
    able = ", ".join(["the host's own", *others])
    if len(others) > 1:
        return "ok", able
    why, remedy = foreign.obstacle("riscv64" if foreign.is_own("arm64") else "arm64") or ("", "")
    return "ok", f"{able}; others need more: {why} ({remedy})"


def _labels() -> _Finding:
    """What builds may require of this host, beside tools and secrets."""
    return "ok", plain(host_labels())


def _secrets() -> _Finding | None:
    """Whether the daemon's user can see whose a secret is; None when there is no directory of secrets."""
    for directory in DIRECTORIES:
        if directory.exists() and not directory.stat().st_mode & stat.S_IXOTH:
            closed = f"{directory} is closed to the daemon's user: only root can use secrets"
            return "warning", closed, f"chmod 0711 {directory} (the files in it keep their modes)"
        if directory.exists():
            return "ok", f"{directory}: each file's owner and group may use it"
    return None


_SIGNED = "NAME.provenance.dsse.json, NAME.sigstore.json, SHA256SUMS.sig"


def _signatures(key: str) -> _Finding:
    if not can_sign():
        lacking = f"products are not signed ({_SIGNED}): the extra dcd[sign] is not installed"
        return ("missing" if key else "ok"), lacking, INSTALL if key else ""
    if not key:
        return "ok", "products are not signed: the setting signing_key is empty"
    check_key(Path(key))
    sign(Path(key), ())
    return "ok", f"products are signed with {key}"


def _apt_sources() -> _Finding:
    sources = apt.sources_for(apt.host_sources(), apt.host_codename())
    suites = ", ".join(dict.fromkeys(source.suite for source in sources))
    return "ok", f"{len(sources)} for {suites}"


def _sbom() -> _Finding:
    """Whether images get an SBOM."""
    lacking = missing_libraries()
    if lacking:
        what = f"images get no SBOM (NAME.cdx.json, NAME.spdx.json): not installed: {', '.join(lacking)}"
        return "warning", what, REMEDY
    return "ok", "images get an SBOM: CycloneDX 1.6 and SPDX 2.3"
