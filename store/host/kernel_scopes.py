"""Kernel interfaces that namespaces do not isolate: keyrings, and abstract sockets with a shared
network. The changes are permanent and apply to this process and its descendants.

Source: session-keyring(7), keyctl_join_session_keyring(3), landlock(7), unix(7).
"""

import ctypes
import errno
import os

from store.host.capabilities import give_up_new_privileges

_KEYCTL = {"x86_64": 250}
_KEYCTL_LATER = 219
"""The number of keyctl(2) on machines with the common numbering."""
_JOIN_SESSION_KEYRING = 1

_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446  # the numbers on every architecture
_CREATE_RULESET_VERSION = 1
_SCOPE_ABSTRACT_UNIX_SOCKET = 1
_VERSION_WITH_SCOPES = 6

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


def can_scope_sockets() -> bool:
    """Whether the kernel can deny access to abstract sockets of other processes: Linux 6.12 with
    Landlock."""
    version = _libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    return int(version) >= _VERSION_WITH_SCOPES


def scope_sockets() -> None:
    """Restrict connections to abstract sockets of this process and its descendants. Needs
    `can_scope_sockets`; from then on no program adds privileges. Raises OSError."""
    # struct landlock_ruleset_attr: handled_access_fs, handled_access_net, scoped.
    wanted = (ctypes.c_uint64 * 3)(0, 0, _SCOPE_ABSTRACT_UNIX_SOCKET)
    ruleset = _libc.syscall(
        _LANDLOCK_CREATE_RULESET, ctypes.byref(wanted), ctypes.sizeof(wanted), 0
    )
    if ruleset < 0:
        raise _failed()
    try:
        give_up_new_privileges()
        if _libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0) != 0:
            raise _failed()
    finally:
        os.close(ruleset)


def _failed() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"abstract sockets cannot be scoped: {os.strerror(code)}")
