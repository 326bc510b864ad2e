"""What a worker sees of the host: everything read-only, and nothing of what is none of its business.

`isolate` is called once, in the worker's own mount namespace, when the workspace has been entered; the view
lasts as long as the namespace. What the checkpoint may write is its workspace, its evidence, what it has
declared, and /tmp, /var/tmp, /run, /dev/shm and the home directory, which are new, empty and its own. Other
builds, the event log, the daemon's socket, what is mounted in /mnt and /media and the host's secrets are not
there, and no file system but /dev opens devices. It keeps no mount of what it does not see. Who has no
SYS_ADMIN cannot change the view back.

`confine` then gives up, for good, the rights that the checkpoint has not declared. Every mount is a system
call or two: all of it takes a few milliseconds.

Source: mount_setattr(2), mount_namespaces(7), capabilities(7), setrlimit(2).
"""

import os
import re
import resource
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from dcd.manifest.secrets import DIRECTORIES as SECRETS
from dcd.worker.request import SCRATCH, Grants, WorkerRequest
from statemachine.errors import Unprepared
from store.host.capabilities import keep_only
from store.host.devices import ALL_DEVICES, mount_devices
from store.host.mounts import (
    NO_DEVICES,
    NO_SUID,
    READ_ONLY,
    attach,
    bind,
    can_restrict,
    copy_of,
    mount,
    move,
    restrict,
    unmount_all,
)

_OWN = ("dcd", "statemachine", "store")

_KERNEL = ("sys", "sysrq-trigger", "irq", "bus", "fs", "acpi", "scsi", "mtrr", "driver")
"""Below /proc, what steers the kernel. None of it belongs to the PID namespace."""

_EMPTY = tuple(map(Path, ("/run", "/root", "/home", "/mnt", "/media")))
_DEVICES = "dev"
"""In the workspace's scratch space: where /dev is made before it is moved into place."""

_TEMPORARY = (Path("/tmp"), Path("/var/tmp"))

_PRIVATE = (
    *(Path("/etc", name) for name in ("shadow", "shadow-", "gshadow", "gshadow-")),
    Path("/etc/ssl/private"),
    *SECRETS,
)


@dataclass(frozen=True, slots=True)
class _Shown:
    """What stays in sight: the worker sees at `target` what was at `source`."""

    source: Path
    target: Path
    writable: bool = False


def isolate(request: WorkerRequest) -> None:
    """Change the view of this mount namespace to what the attempt may see. Raises Unprepared when the host
    lacks something that the checkpoint declared."""
    if not can_restrict():
        print(
            "# this kernel cannot make the host read-only for workers; Linux 5.12 can", flush=True
        )
        return
    hidden = (*_PRIVATE, *Path("/etc/ssh").glob("ssh_host_*_key"), *request.grants.hidden)
    covers = (*_EMPTY, *hidden)
    shown = list(_shown(request, covers))
    copies = [(one, copy_of(one.source)) for one in shown]
    # The worker's own copies of what it does not see: a host that lets go of a disk, an image or a dataset
    # finds nobody here who keeps it busy.
    unmount_all(
        place for place in (*covers, *_TEMPORARY) if place.is_dir() and not place.is_symlink()
    )
    for one, copy in copies:
        restrict(copy, NO_SUID | NO_DEVICES | (0 if one.writable else READ_ONLY))
    _limit_processes(request.grants.processes)
    for name in _KERNEL:
        if (entry := Path("/proc", name)).exists():
            bind(entry, entry)
    restrict(Path("/"), READ_ONLY | NO_SUID | NO_DEVICES)
    restrict(Path("/proc"), 0, lift=READ_ONLY, recursive=False)
    restrict(Path("/dev"), 0, lift=NO_DEVICES)
    # What is deeper comes later, and so is in or on what was put there before.
    steps = [(len(cover.parts), -1, cover) for cover in covers]
    steps += [(len(one.target.parts), copy, one.target) for one, copy in copies]
    covered = set()
    for _, copy, target in sorted(steps):
        if copy >= 0:
            _show(copy, target)
            os.close(copy)
        elif _cover(target):
            covered.add(target)
    for directory in covered.intersection(hidden):
        restrict(directory, READ_ONLY, recursive=False)
    _replace_devices(request)


def hiding(path: Path) -> Path | None:
    """What on the way to a path of the host is hidden from every worker, or None when a worker sees it."""
    places = (*_EMPTY, *_TEMPORARY, Path("/dev"), Path("/proc"), *_PRIVATE)
    real = Path(os.path.normpath(path))
    return next((place for place in places if real.is_relative_to(place)), None)


def confine(grants: Grants) -> None:
    """Give up, for this process and all that it starts, what the checkpoint has not declared."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_NOFILE, grants.open_files)
    if grants.memory_bytes:
        _lower(resource.RLIMIT_DATA, grants.memory_bytes)
    # To give up still more for the programs of an image.
    keep_only({*grants.capabilities, "SETPCAP"})


def _shown(request: WorkerRequest, covers: tuple[Path, ...]) -> Iterator[_Shown]:
    workspace, grants = request.workspace, request.grants
    _scratch(workspace.directory, _DEVICES)
    for target in _TEMPORARY:
        yield _Shown(_scratch(workspace.directory, "-".join(target.parts[1:])), target, True)
    # What the layer store has noted of the workspace, and its tree without what is mounted over it, are
    # there to be looked at by what ends the attempt.
    yield _Shown(workspace.directory, workspace.directory)
    yield _Shown(workspace.root, workspace.root, True)
    yield _Shown(request.evidence, request.evidence, True)
    for path in grants.writes:
        if not path.exists():
            raise Unprepared(
                f"{path} does not exist",
                f"{request.checkpoint} declares that it writes there",
                "create it, or correct the manifest",
            )
        yield _Shown(path, path, True)
    readable = [*request.inputs.values(), *grants.secrets, *_code(request)]
    if request.network:
        readable.append(Path("/etc/resolv.conf").resolve().parent)
    for path in dict.fromkeys(readable):
        if path.exists() and any(cover in path.parents for cover in (*covers, *_TEMPORARY)):
            yield _Shown(path, path)


def _code(request: WorkerRequest) -> Iterator[Path]:
    """Where this interpreter and what it imports live."""
    yield Path(sys.prefix)
    yield Path(sys.base_prefix)
    yield from (Path(entry).absolute() for entry in sys.path if entry)
    # An editable install need not be in the search path: a finder of its own knows where its packages are.
    modules = [*_OWN, request.mod_path, *request.allowed]
    for package in {module.replace("/", ".").split(".")[0] for module in modules}:
        if (spec := find_spec(package)) is not None:
            yield from map(Path, spec.submodule_search_locations or filter(None, [spec.origin]))


def _scratch(workspace: Path, name: str) -> Path:
    # Everybody may write there as /tmp, and nobody by its path on the host.
    (workspace / SCRATCH).mkdir(mode=0o700, exist_ok=True)
    directory = workspace / SCRATCH / name
    directory.mkdir(exist_ok=True)
    directory.chmod(0o1777)
    return directory


def _cover(path: Path) -> bool:
    """Put something empty on a path. Returns whether it was a directory."""
    if not path.exists():
        return False
    if path.is_dir():
        mount("tmpfs", path, "mode=755", NO_SUID | NO_DEVICES)
        return True
    # Nobody opens a device on this mount, or connects to one.
    bind(Path("/dev/null"), path)
    restrict(path, NO_DEVICES)
    return False


def _show(copy: int, target: Path) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        if stat.S_ISDIR(os.fstat(copy).st_mode):
            target.mkdir()
        else:
            target.touch()
    attach(copy, target)


def _replace_devices(request: WorkerRequest) -> None:
    devices = Path("/dev")
    if ALL_DEVICES not in request.grants.devices:
        aside = request.workspace.directory / SCRATCH / _DEVICES
        mount_devices(aside, request.grants.devices)
        move(aside, devices)
    mount("tmpfs", devices / "shm", "mode=1777", NO_SUID | NO_DEVICES)


def _limit_processes(most: int) -> None:
    # Before Linux 6.14 the setting was the whole host's.
    version = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if version and (int(version[1]), int(version[2])) >= (6, 14):
        Path("/proc/sys/kernel/pid_max").write_text(str(most))


def _lower(limit: int, value: int) -> None:
    _, hard = resource.getrlimit(limit)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(limit, (value, value))
