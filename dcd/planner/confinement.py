"""Giving up root: the view of planners, their user, and their system calls.

`confine` is called once by the process from which planners are forked, which root has started as the
first process of new namespaces. Afterwards it sees, read-only, the system's software, the settings of /etc
that tools need, apt's logins as copies in memory that it may read, dcd's code, the captured files, and the
paths that it was started with; an empty /tmp of its own; its own /proc; and a /dev of the standard devices.
It has no root, no capability, and no way to either. There is no state directory, no socket, no event log.

`confine_planner` then limits one planner, which may have been taken over by the manifest that it reads, to
the captured files of its question and a directory of its own in /tmp. Other planners, which run as the same
user, are out of its reach: it can neither trace nor signal them, nor read their files. This needs Landlock,
Linux 5.19 (6.12 for signals); without it planners are kept from the host, but not from each other.

Standard library and `store.host` only.
"""

import os
import signal
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from dcd.planner.command import Sight, gives_views
from store.host.capabilities import become
from store.host.identity import STARTED_BY_ROOT, Identity, give_up_root
from store.host.kernel_scopes import (
    can_restrict_files,
    close_to_others,
    end_with_parent,
    leave_session_keyring,
    limit_processes,
    restrict_files,
)
from store.host.regular import is_open_to_all
from store.host.secret_files import DIRECTORIES, is_among_secrets
from store.host.system_calls import compile_filter, install
from store.host.system_paths import LOGINS, code_places, settings
from store.host.view import (
    Copied,
    Devices,
    Empty,
    Hidden,
    Link,
    Place,
    Processes,
    Shown,
    Step,
    enter,
    if_there,
    links,
    software,
)

_APT = LOGINS[0].parent
_TEMPORARY = Path("/tmp")
_TEMPORARY_LIMITS = "size=256m,nr_inodes=64k"
_PROCESSES = 1024
_PLACES = ("/root", "/home", "/run", "/srv", "/opt", "/var/tmp", "/var/lib/dpkg")
_FOREIGN_PROGRAMS = Path("/proc/sys/fs/binfmt_misc")
"""Where the kernel says which architectures' programs it runs."""

_DESCRIBING = tuple(
    Path("/proc", name) for name in ("acpi", "asound", "kcore", "keys", "key-users", "kmsg", "scsi")
)


@dataclass(frozen=True, slots=True)
class Reach:
    """What all planners of this process may read, and the paths that lead there: with links, and with those
    that it was asked to show and that do not exist."""

    readable: tuple[Path, ...]
    in_sight: tuple[Path, ...]


def confine(identity: Identity, sight: Sight) -> Reach | None:
    """Enter the view and become the identity, for good. Where the host cannot give a view, only the latter;
    returns None then. Raises OSError."""
    if not gives_views():
        places = (*code_places(), sight.blobs, *sight.configured)
        give_up_root(identity, filter(Path.exists, places))
        return None
    umask = os.umask(0o022)
    leave_session_keyring()
    with ExitStack() as held:
        steps = list(_steps(identity, sight))
        apart = [step.target for step in steps if not isinstance(step, Link | Place)]
        apart += [path.resolve() for path in sight.hidden]
        for path in sight.asked:
            steps += _asked(path, identity, apart, held)
        enter(steps)
    os.umask(umask)
    limit_processes(_PROCESSES)
    os.environ.pop("TMPDIR", None)
    os.environ[STARTED_BY_ROOT] = "1"
    become(identity.uid, identity.gid, identity.groups)
    end_with_parent(signal.SIGKILL)
    close_to_others()
    if program := compile_filter(os.uname().machine):
        install(program)
    blobs = sight.blobs.resolve()
    seen = (step.target for step in steps if isinstance(step, Copied | Processes | Shown))
    readable = tuple(path for path in seen if path != blobs)
    links_ = (step.target for step in steps if isinstance(step, Link))
    return Reach(readable, (*readable, *links_, *sight.asked))


def confine_planner(reach: Reach, captured: Iterable[Path], number: int) -> None:
    """Limit this process and its descendants to the captured files and a new directory in /tmp, which
    becomes its directory for temporary files. Raises OSError."""
    own = own_directory(number)
    own.mkdir(mode=0o700)
    tempfile.tempdir = str(own)
    os.environ["TMPDIR"] = str(own)
    if can_restrict_files():
        restrict_files([*reach.readable, *captured], [own, Path("/dev")])


def own_directory(number: int) -> Path:
    """The directory for temporary files of the planner with that number."""
    return _TEMPORARY / f"planner-{number}"


def _steps(identity: Identity, sight: Sight) -> Iterator[Step]:
    reader = (identity.uid, identity.gid)
    yield from software()
    for path in settings():
        if path == _APT:
            yield Copied(path, reader)
        else:
            yield from if_there(path)
    for name in _PLACES:
        yield Place(Path(name))
    yield Empty(_TEMPORARY, mode=0o1777, limits=_TEMPORARY_LIMITS)
    yield from if_there(Path("/var/lib/dpkg"))
    yield Processes(new=True)
    if _FOREIGN_PROGRAMS.is_mount():
        yield Shown(_FOREIGN_PROGRAMS, _FOREIGN_PROGRAMS)
    for place in _DESCRIBING:
        yield Hidden(place)
    yield Devices()
    hidden = [path.resolve() for path in sight.hidden]
    for path in (*code_places(), *sight.configured):
        yield from links(path)
        yield from _parts(path.resolve(), hidden)
    yield from if_there(sight.blobs)


def _parts(path: Path, hidden: Sequence[Path]) -> Iterator[Step]:
    """The steps that show a path without links. Of a directory that is closed to others, or in which a
    hidden path is or will be, they show the parts: configured paths are seen whatever their modes are, hidden
    ones never."""
    if path in hidden:
        return
    closed = path.is_dir() and not path.stat().st_mode & stat.S_IXOTH
    if closed or any(each.is_relative_to(path) for each in hidden):
        for entry in path.iterdir():
            if entry.is_symlink():
                yield Link(entry, entry.readlink())
            else:
                yield from _parts(entry, hidden)
    elif path.exists():
        yield Shown(path, path)


def _asked(
    path: Path, identity: Identity, apart: Sequence[Path], held: ExitStack
) -> Iterator[Step]:
    """The steps that show a path which a question is about, if it may be shown and has nothing in it that is
    to stay `apart`. Its owner may replace directories on the way by links at any time, so what is checked is
    held open, and then shown."""
    if not path.is_absolute() or ".." in path.parts:
        return
    if _is_secret(path):
        yield from links(path)
        yield Copied(path.resolve(), (identity.uid, identity.gid))
        return
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (OSError, ValueError):
        return
    held.callback(os.close, descriptor)
    opened = Path(f"/proc/self/fd/{descriptor}")
    real = opened.readlink()
    if is_open_to_all(real) and not any(each.is_relative_to(real) for each in apart):
        yield from links(path)
        yield Shown(opened, real)


def _is_secret(path: Path) -> bool:
    """Whether it is a file that manifests may refer to as a secret, by a name below the directories of
    secrets: by that the daemon checks who asks (`require_showable`). Anybody can make a link elsewhere."""
    real = path.resolve()
    named = any(path.is_relative_to(place) for place in DIRECTORIES)
    return named and real.is_file() and is_among_secrets(real)
