"""Privileges of illumos: what a worker keeps of root's, by the capabilities that its checkpoint declares.

illumos lets only a process with every privilege of the zone make a set-uid file of root, or keep that bit
when such a file is written or given away. So a checkpoint that declares FSETID, as all do that make the files
of an image, keeps them all, `net_access` too, and nothing keeps it from the network. The others keep the
basic ones and those of `FOR`, and without the network not `net_access`. What is dropped is dropped from
every set, for all descendants.

Written from the manual pages; it has not run on illumos.

Source: privileges(7), setppriv(2), priv_str_to_set(3C); illumos, policy.c (`HAS_ALLZONEPRIVS`).
"""

import ctypes
import os
from collections.abc import Collection

FOR = {
    "CHOWN": ("file_chown",),
    "DAC_OVERRIDE": ("file_dac_read", "file_dac_write", "file_dac_search", "file_dac_execute"),
    "FOWNER": ("file_owner",),
    "FSETID": ("file_setid",),
    "KILL": ("proc_owner",),
    "MKNOD": ("sys_devices",),
    "SETGID": ("proc_setid",),
    "SETUID": ("proc_setid",),
    "SYS_ADMIN": ("sys_mount", "sys_config"),
    "SYS_CHROOT": ("proc_chroot",),
}
"""Capability of Linux to the privileges for the same."""

NEEDS_ALL = "FSETID"
"""The capability for which illumos requires every privilege of the zone."""

NETWORK = "net_access"

_SETS = ("Inheritable", "Effective", "Permitted", "Limit")
_SET = 2
"""PRIV_SET of sys/priv.h."""


def kept(capabilities: Collection[str], *, network: bool) -> str:
    """The privileges that a worker of root with these capabilities keeps, as priv_str_to_set(3C) reads them:
    `zone` stands for all of the zone, `basic` for those of every user."""
    if NEEDS_ALL in capabilities:
        return "zone"
    names = {name for each in capabilities for name in FOR.get(each, ())}
    found = ["basic", *sorted(names)]
    return ",".join(found if network else [*found, f"!{NETWORK}"])


def keep_only(capabilities: Collection[str], *, network: bool) -> None:
    """Drop all other privileges of this process, as `kept` has them. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.priv_str_to_set.restype = ctypes.c_void_p
    expression = kept(capabilities if os.geteuid() == 0 else (), network=network)
    wanted = libc.priv_str_to_set(expression.encode(), b",", None)
    _check(wanted is not None)
    for name in _SETS:
        _check(libc.setppriv(_SET, name.encode(), ctypes.c_void_p(wanted)) == 0)


def _check(done: bool) -> None:
    if not done:
        number = ctypes.get_errno()
        raise OSError(number, f"privileges cannot be dropped: {os.strerror(number)}")
