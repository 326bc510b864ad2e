"""Limits of the kernel beside namespaces: keyrings, the number of processes, and Landlock, which
separates processes of one user. The changes are permanent and apply to this process and its descendants.

Source: session-keyring(7), keyctl_join_session_keyring(3), landlock(7), unix(7), prctl(2).
"""

import ctypes
import errno
import os
import re
import stat
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

from store.host.capabilities import give_up_new_privileges

_KEYCTL = {"x86_64": 250}
_KEYCTL_LATER = 219
"""The number of keyctl(2) on machines with the common numbering."""
_JOIN_SESSION_KEYRING = 1

_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
"""The numbers on every architecture."""
_CREATE_RULESET_VERSION = 1
_SCOPE_ABSTRACT_UNIX_SOCKET, _SCOPE_SIGNAL = 1, 2
_VERSION_WITH_SCOPES = 6
_VERSION_WITH_RENAMES = 2
_RULE_PATH_BENEATH = 1
_WRITE_FILE, _READ_FILE, _READ_DIRECTORY = 1 << 1, 1 << 2, 1 << 3
_CHANGES_OF_DIRECTORIES = sum(1 << bit for bit in range(4, 14))
"""Removing, making and renaming entries: LANDLOCK_ACCESS_FS_REMOVE_DIR to ..._REFER."""
_OF_DIRECTORIES = _READ_DIRECTORY | _CHANGES_OF_DIRECTORIES
_READING = _READ_FILE | _READ_DIRECTORY
_EVERYTHING = _READING | _WRITE_FILE | _CHANGES_OF_DIRECTORIES

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 1, 4, 36

_JUST_NAMING = getattr(os, "O_PATH", os.O_RDONLY | os.O_NONBLOCK)

_libc = ctypes.CDLL(None, use_errno=True)


def leave_session_keyring() -> None:
    """Join a new, empty, unnamed session keyring instead of the inherited one. Does nothing on a kernel
    without keyrings. Raises OSError."""
    number = _KEYCTL.get(os.uname().machine, _KEYCTL_LATER)
    if _libc.syscall(number, _JOIN_SESSION_KEYRING, None) < 0:
        code = ctypes.get_errno()
        # EPERM: the filter of a container, which also makes keys inaccessible.
        if code not in (errno.ENOSYS, errno.EPERM):
            raise OSError(code, f"the session keyring cannot be left: {os.strerror(code)}")


def limit_processes(most: int) -> None:
    """Limit the number of processes in this PID namespace, whose /proc is mounted. Before Linux 6.14 the
    setting was the whole host's, and stays. Raises OSError."""
    version = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if version and (int(version[1]), int(version[2])) >= (6, 14):
        Path("/proc/sys/kernel/pid_max").write_text(str(most))


def end_with_parent(number: int) -> None:
    """Have the kernel send this process a signal when its parent ends. A change of user takes this back.
    Raises OSError."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0))


def adopt_orphans() -> None:
    """On Linux, make this process the parent of all descendants that lose theirs. Elsewhere do nothing.
    Raises OSError."""
    if sys.platform == "linux":
        _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def close_to_others() -> None:
    """Let no process of this user trace this process, or open its memory and files in /proc; its children
    inherit this until they start a program. Raises OSError."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))


def can_scope_sockets() -> bool:
    """Whether the kernel can deny access to abstract sockets of other processes: Linux 6.12 with
    Landlock."""
    return _version() >= _VERSION_WITH_SCOPES


def scope_sockets() -> None:
    """Restrict connections to abstract sockets of this process and its descendants. Needs
    `can_scope_sockets`; from then on no program adds privileges. Raises OSError."""
    _restrict(0, _SCOPE_ABSTRACT_UNIX_SOCKET, {})


def can_restrict_files() -> bool:
    """Whether the kernel can limit a process to some files and still let it rename them: Linux 5.19 with
    Landlock."""
    return _version() >= _VERSION_WITH_RENAMES


def restrict_files(readable: Iterable[Path], writable: Iterable[Path]) -> None:
    """Restrict this process, which has one thread, and its descendants to reading these files and directories
    with all below them, and to changing the writable ones. Programs can be started from everywhere, metadata
    is not hidden. Other processes are out of reach: they cannot be traced and, as of Linux 6.12, neither
    signalled nor reached through abstract sockets. Paths that do not exist are left out. Needs
    `can_restrict_files`; from then on no program adds privileges. Raises OSError."""
    scopes = _SCOPE_ABSTRACT_UNIX_SOCKET | _SCOPE_SIGNAL if can_scope_sockets() else 0
    allowed = dict.fromkeys(readable, _READING) | dict.fromkeys(writable, _EVERYTHING)
    _restrict(_EVERYTHING, scopes, allowed)


def _version() -> int:
    """The version of Landlock; none is negative."""
    if sys.platform != "linux":  # the number belongs to another call there, or to none
        return -1
    return int(_libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION))


def _restrict(handled: int, scopes: int, allowed: dict[Path, int]) -> None:
    # struct landlock_ruleset_attr: handled_access_fs, handled_access_net, scoped. An older kernel takes the
    # longer struct as long as what it does not know is zero.
    wanted = (ctypes.c_uint64 * 3)(handled, 0, scopes)
    ruleset = _libc.syscall(
        _LANDLOCK_CREATE_RULESET, ctypes.byref(wanted), ctypes.sizeof(wanted), 0
    )
    _check(min(ruleset, 0))
    try:
        for path, access in allowed.items():
            _allow(ruleset, path, access)
        give_up_new_privileges()
        _check(_libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, access: int) -> None:
    try:
        descriptor = os.open(path, _JUST_NAMING | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            access &= ~_OF_DIRECTORIES
        # struct landlock_path_beneath_attr, packed: allowed_access, parent_fd.
        rule = struct.pack("=Qi", access, descriptor)
        _check(_libc.syscall(_LANDLOCK_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0))
    finally:
        os.close(descriptor)


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"this process cannot be restricted: {os.strerror(code)}")
