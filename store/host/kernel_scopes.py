"""Interfaces of the kernel that namespaces do not divide: keyrings, and abstract sockets where the network is
shared. What is done here holds for this process and all that it starts, for good.

Source: session-keyring(7), keyctl_join_session_keyring(3), landlock(7), unix(7).
"""

import ctypes
import errno
import os

_KEYCTL = {"x86_64": 250}
_KEYCTL_LATER = 219
"""The number of keyctl(2) where numbers are the same for all."""
_JOIN_SESSION_KEYRING = 1

_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446  # the numbers on every architecture
_CREATE_RULESET_VERSION = 1
_SCOPE_ABSTRACT_UNIX_SOCKET = 1
_VERSION_WITH_SCOPES = 6
_PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)


def leave_session_keyring() -> None:
    """Take part in a new session keyring, empty and without a name, instead of the one that was inherited. A
    kernel without keyrings has none to leave. Raises OSError."""
    number = _KEYCTL.get(os.uname().machine, _KEYCTL_LATER)
    if _libc.syscall(number, _JOIN_SESSION_KEYRING, None) < 0:
        code = ctypes.get_errno()
        # EPERM: a container's own filter, which keeps keys out of reach as well.
        if code not in (errno.ENOSYS, errno.EPERM):
            raise OSError(code, f"the session keyring cannot be left: {os.strerror(code)}")


def can_scope_sockets() -> bool:
    """Whether the kernel keeps abstract sockets of others out of reach: Linux 6.12 with Landlock."""
    version = _libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    return int(version) >= _VERSION_WITH_SCOPES


def scope_sockets() -> None:
    """Connect to abstract sockets only of processes that come from this one. Needs `can_scope_sockets`; no
    program gives new rights from then on. Raises OSError."""
    # struct landlock_ruleset_attr: handled_access_fs, handled_access_net, scoped.
    wanted = (ctypes.c_uint64 * 3)(0, 0, _SCOPE_ABSTRACT_UNIX_SOCKET)
    ruleset = _libc.syscall(
        _LANDLOCK_CREATE_RULESET, ctypes.byref(wanted), ctypes.sizeof(wanted), 0
    )
    if ruleset < 0:
        raise _failed()
    try:
        if (
            _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            or _libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0) != 0
        ):
            raise _failed()
    finally:
        os.close(ruleset)


def _failed() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"abstract sockets cannot be scoped: {os.strerror(code)}")
