"""The host as a worker sees it: only the paths listed here.

`isolate` is called once, in the worker's own mount namespace, after the workspace has been entered; the
view lasts as long as the namespace. It contains, read-only, the system's software, the files of /etc that
tools need, the code of this project, and the paths named by the manifest or the configuration; /proc and
/sys without the files that control or describe the machine; a /dev with the declared devices. The checkpoint
may write to its workspace, its evidence, the declared paths, and its own, initially empty /tmp, /var/tmp,
/run, /dev/shm and home directory. Other builds, the event log, the daemon's socket and all other files of
the host are absent, and only /dev opens devices. Hidden file systems are unmounted in the namespace. Without
SYS_ADMIN the view cannot be changed.

`confine` then permanently drops the capabilities and system calls that the checkpoint has not declared.

Source: capabilities(7), setrlimit(2), seccomp(2); podman(1) for the hidden parts of /proc and /sys.
"""

import errno
import os
import resource
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from dcd.worker.request import SCRATCH, Grants, WorkerRequest
from statemachine.errors import Unprepared
from store.host import privileges, view
from store.host.capabilities import give_up_new_privileges, keep_only, permitted
from store.host.kernel_scopes import (
    can_scope_sockets,
    leave_session_keyring,
    limit_processes,
    scope_sockets,
)
from store.host.mounts import can_restrict
from store.host.system_calls import compile_filter, compile_unreachable_filter, install
from store.host.system_paths import ALL_SETTINGS, LOGINS, SECRETS, code_places
from store.host.view import (
    Closed,
    Devices,
    Empty,
    Hidden,
    Place,
    Processes,
    ReadOnly,
    Shown,
    Step,
    if_there,
)

_BETWEEN_LIMITS = "size=64k,nr_inodes=1k"
"""Limits of a directory in memory that holds only the way to what is shown."""

_EMPTY = tuple(map(Path, ("/run", "/root", "/home", "/mnt", "/media")))
_TEMPORARY = (Path("/tmp"), Path("/var/tmp"))
_PLACES = tuple(
    Path(name)
    for name in ("/boot", "/opt", "/srv", *(f"/var/{n}" for n in ("cache", "lib", "log")))
)
_LINKED = ("/etc/mtab", "/var/lock", "/var/run")

_STEERING = ("sys", "sysrq-trigger", "irq", "bus", "fs", "driver", "mtrr")
"""Files below /proc that control the kernel; none belongs to the PID namespace."""

_DESCRIBING = (
    *("acpi", "asound", "kcore", "key-users", "keys", "kmsg", "kpagecgroup", "kpagecount"),
    *("kpageflags", "latency_stats", "sched_debug", "scsi", "timer_list", "timer_stats"),
)
"""Files below /proc that show the machine's memory, the keys of other users and the hardware."""

_MACHINE = tuple(map(Path, ("/sys/firmware", "/sys/devices/virtual/powercap", "/sys/kernel/debug")))

_CLOSED = tuple(Path("/etc", name) for name in ("shadow", "gshadow"))

_PRIVATE = (
    Path("/etc/shadow-"),
    Path("/etc/gshadow-"),
    Path("/etc/ssl/private"),
    *SECRETS,
)


_FIXED: tuple[Step, ...] = (
    *map(Closed, _CLOSED),
    *map(Place, _PLACES),
    *map(Empty, _EMPTY),
    Processes(),
    *(ReadOnly(Path("/proc", name)) for name in _STEERING),
    *(Hidden(Path("/proc", name)) for name in _DESCRIBING),
    Shown(Path("/sys"), Path("/sys"), alone=True),
    *map(Hidden, _MACHINE),
    Empty(Path("/dev/shm"), mode=0o1777),
    # It shows the message queues of the namespace in which it was mounted: the host's.
    Hidden(Path("/dev/mqueue")),
)
"""The steps of every worker that do not depend on the host's files."""


def isolate(request: WorkerRequest) -> None:
    """Change the root of this mount namespace to the attempt's view. Raises OSError, and Unprepared when
    the host lacks a path or device that the checkpoint declared."""
    if not can_restrict():
        print("# this kernel cannot give workers a root of their own; Linux 5.12 can", flush=True)
        return
    limit_processes(request.grants.processes)
    scratch = request.workspace.directory / SCRATCH
    # All users of the attempt may write to parts of it as /tmp, but nobody by its path on the host.
    scratch.mkdir(mode=0o700, exist_ok=True)
    place = scratch / "view"
    place.mkdir()
    with ExitStack() as held:
        steps = [*_system(), *_host(request), *_writable(request, held)]
        steps += [*_checked(request, held), *_own(request)]
        view.enter([*_between(steps), *steps], place)


def hiding(path: Path) -> Path | None:
    """The directory or file that hides a path of the host from every worker, or None."""
    places = (*_EMPTY, *_TEMPORARY, Path("/dev"), Path("/proc"), *_CLOSED, *_PRIVATE)
    real = Path(os.path.normpath(path))
    return next((place for place in places if real.is_relative_to(place)), None)


def confine(grants: Grants, *, network: bool = False, portable: bool = False) -> None:
    """Drop, for this process and its descendants, the privileges that the checkpoint has not declared.
    `network`: it may use the host's network. Raises Unprepared when the kernel cannot filter system calls.
    `portable`: it has no namespaces, so a filter keeps it from the network; on illumos a privilege, if it can
    be dropped."""
    if sys.platform == "sunos5":
        _limit(grants)
        privileges.keep_only(grants.capabilities, network=network)
        return
    leave_session_keyring()
    _limit(grants)
    if portable and not permitted():
        give_up_new_privileges()  # the worker of an ordinary user, without a user namespace
    else:
        # SETPCAP allows dropping further capabilities for the programs of an image.
        keep_only({*grants.capabilities, "SETPCAP"})
    if can_scope_sockets():
        scope_sockets()
    machine = os.uname().machine
    programs = [
        compile_filter(
            machine,
            grants.capabilities,
            trusted=grants.host_code,
            network=network or not portable,
        )
    ]
    if not grants.host_code and (network or grants.named):
        # Abstract sockets of the worker's belong to the network; what the manifest names may hold sockets.
        programs.append(compile_unreachable_filter(machine, unix=not grants.named))
    try:
        for program in filter(None, programs):
            install(program)
    except OSError as error:
        raise Unprepared(
            "the system calls of a worker cannot be filtered",
            str(error),
            "start a kernel with seccomp filters (CONFIG_SECCOMP_FILTER)",
        ) from error


def _limit(grants: Grants) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_NOFILE, grants.open_files)
    if grants.memory_bytes:
        _lower(resource.RLIMIT_DATA, grants.memory_bytes)


def _system() -> Iterator[Step]:
    """The view of every worker."""
    yield from view.software()
    yield from view.all_there(ALL_SETTINGS)
    for text in _LINKED:
        yield from view.links(Path(text))
    yield from _FIXED


def _host(request: WorkerRequest) -> Iterator[Step]:
    """The further view of this worker. Hidden paths come first, so that named paths inside them are
    visible."""
    grants = request.grants
    yield Devices(grants.devices)
    for path in (*_PRIVATE, *(() if request.network else LOGINS), *grants.hidden):
        yield Hidden(path.resolve())
    code = code_places((request.mod_path, *request.allowed))
    for path in (*code, *grants.reads, *grants.secrets):
        yield from if_there(path)


def _writable(request: WorkerRequest, held: ExitStack) -> Iterator[Step]:
    """The paths that the checkpoint declares to write to. Those of code of users may lead over links; the
    others were checked before, and somebody who may write above one may have replaced it since."""
    for path in request.grants.writes:
        if not path.exists():
            raise Unprepared(
                f"{path} does not exist",
                f"{request.checkpoint} declares that it writes there",
                "create it, or correct the manifest",
            )
        if path.is_relative_to("/sys"):
            above = _mount_point(path)
            yield Shown(above, above, alone=True)
        if request.grants.host_code:
            yield from view.shown(path, writable=True)
        else:
            yield Shown(_unchanged(path, f"{path}", held), path, writable=True)


def _checked(request: WorkerRequest, held: ExitStack) -> Iterator[Step]:
    """What was checked before, in directories that others may change since: the captured files, which belong
    to the daemon's user, and the paths that the manifest names. What is shown is what is held open here."""
    for path in request.inputs.values():
        opened = _held(path, held)
        status = opened.stat()
        # A second name of somebody's file has another owner.
        if not stat.S_ISREG(status.st_mode) or status.st_uid != path.parent.stat().st_uid:
            raise OSError(errno.EINVAL, "not a captured file", str(path))
        yield Shown(opened, path.resolve())
    for name, real in request.grants.named.items():
        opened = _unchanged(real, name, held)
        yield from view.links(Path(name))
        yield Shown(opened, real)


def _unchanged(real: Path, name: str, held: ExitStack) -> Path:
    """What is at a path that was without links, held open. Raises OSError, which has the name of it, where
    there is a link now."""
    opened = _held(real, held)
    if stat.S_ISLNK(opened.stat().st_mode) or opened.readlink() != real:
        raise OSError(errno.ELOOP, "the way to it has changed", name)
    return opened


def _held(path: Path, held: ExitStack) -> Path:
    """What is at a path now, itself if it is a link, by a name that only this process has."""
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    held.callback(os.close, descriptor)
    return Path(f"/proc/self/fd/{descriptor}")


def _own(request: WorkerRequest) -> Iterator[Step]:
    """The attempt's own files."""
    workspace = request.workspace
    for target in _TEMPORARY:
        directory = workspace.directory / SCRATCH / "-".join(target.parts[1:])
        directory.mkdir(exist_ok=True)
        directory.chmod(0o1777)
        yield Shown(directory, target.resolve(), writable=True)
    # The end of the attempt reads the layer store's notes, and the tree without the mounts over it.
    yield from view.shown(workspace.directory)
    yield from view.shown(workspace.root, writable=True)
    yield from view.shown(request.evidence, writable=True)
    if request.packages is not None:
        yield from view.shown(request.packages.kept)
        yield from view.shown(request.packages.incoming, writable=True)
    for file in request.resolved:
        yield from view.shown(file)


def _between(steps: Sequence[Step]) -> Iterator[Step]:
    """Directories in memory, in the attempt's own temporary directories, for what is shown further below. On
    the disk each attempt would create and remove all directories on the way there."""
    targets = {os.fspath(step.target) for step in steps}
    for temporary in _TEMPORARY:
        start = f"{temporary.resolve()}/"
        for target in targets:
            if target.startswith(start):
                first, more, _ = target.removeprefix(start).partition("/")
                if more and (between := start + first) not in targets:
                    yield Empty(Path(between), limits=_BETWEEN_LIMITS)


def _mount_point(path: Path) -> Path:
    return path if path.is_mount() else _mount_point(path.parent)


def _lower(limit: int, value: int) -> None:
    _, hard = resource.getrlimit(limit)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(limit, (value, value))
