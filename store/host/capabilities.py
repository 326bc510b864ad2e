"""Linux capabilities: keeping some and dropping the others permanently.

`keep_only` is for a process that is about to run less trusted code: the process and all its
descendants, root or not, keep only the named capabilities, and no program can add others.
Names are those of capabilities(7) without CAP_. Safe between fork and exec: it takes no lock.

Three capabilities are deliberately in no set, since each defeats a worker's isolation: DAC_READ_SEARCH
opens files by handle, past every mount (open_by_handle_at(2)); SYS_PTRACE controls processes with more
capabilities; SYS_MODULE loads kernel modules.
"""

import ctypes
import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

_ALL = (
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID"),
    *("KILL", "SETGID", "SETUID", "SETPCAP", "LINUX_IMMUTABLE"),
    *("NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK"),
    *("IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE"),
    *("SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE"),
    *("SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE"),
    *("AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG"),
    *("WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF"),
    *("CHECKPOINT_RESTORE",),
)

NUMBERS = {name: number for number, name in enumerate(_ALL)}
"""Name to the kernel's number. Source: linux/capability.h."""

FILES = (
    *("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD", "SETFCAP"),
    # To switch users, to end processes of other users, and to audit accounts created in the image.
    *("SETGID", "SETUID", "KILL", "AUDIT_WRITE"),
)
"""For creating the files of an image with any owner, and for the programs of an image."""

CHROOT = (*FILES, "SYS_CHROOT")
"""The same, for tools that chroot into the image themselves."""

MOUNTS = (*CHROOT, "SYS_ADMIN")
"""The same, for a checkpoint that mounts, or runs programs inside the image."""

NEEDS_ROOT = "submit it to the service (dcctl without --socket), or start the daemon as root"
"""The remedy when a daemon that does not run as root lacks privileges."""

NEEDS_NAMESPACES = (
    "containers take CAP_SYS_ADMIN from root: run the daemon outside of them, or give it to the "
    "container (--privileged)"
)
"""The remedy when root makes no namespaces, or mounts nothing in them."""

_ALL_USERS = ["0", "0", str(2**32 - 1)]
"""/proc/self/uid_map outside every user namespace: user_namespaces(7)."""

_VERSION_3 = 0x20080522
_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 23, 24, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4

_libc = ctypes.CDLL(None, use_errno=True)


def in_user_namespace() -> bool:
    """Whether root here is a different user outside, so that files cannot be given to other users."""
    try:
        return Path("/proc/self/uid_map").read_text().split() != _ALL_USERS
    except OSError:
        return False


def give_up_new_privileges() -> None:
    """Let no program that this process and its descendants start have more rights than they. Raises OSError.
    Source: prctl(2), PR_SET_NO_NEW_PRIVS."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def keep_only(names: Collection[str]) -> None:
    """Drop all other capabilities, for this process and all its descendants, without gaining any. Needs
    SETPCAP. Raises OSError, and KeyError for an unknown name."""
    kept = sum(1 << NUMBERS[name] for name in set(names))
    _bound(kept)
    _keep(kept & permitted())


def become(uid: int, gid: int, groups: Sequence[int] = ()) -> None:
    """Become a user and group by number, for good: without any capability, and with none to get. For a
    process of root with one thread. Raises OSError."""
    _bound(0)
    os.setgroups(groups)
    # For root these change all ids, the saved ones too; illumos has no setresuid.
    os.setgid(gid)
    os.setuid(uid)
    _keep(0)


def _bound(kept: int) -> None:
    if sys.platform != "linux":  # elsewhere root's privileges go with its number
        return
    give_up_new_privileges()
    _check(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    number = 0
    while _libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) >= 0:  # EINVAL beyond the last one
        if not kept >> number & 1:
            _check(_libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0))
        number += 1


def _keep(kept: int) -> None:
    if sys.platform != "linux":
        return
    low, high = kept & 0xFFFFFFFF, kept >> 32
    _check(_libc.capset(_header(), (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)))


def permitted() -> int:
    """The permitted set of this process, one bit per capability."""
    data = (ctypes.c_uint32 * 6)()
    _check(_libc.capget(_header(), data))
    return int(data[1]) | int(data[4]) << 32


def _header() -> ctypes.Array[ctypes.c_uint32]:
    """struct __user_cap_header_struct: version, and 0 for this process (capset(2))."""
    return (ctypes.c_uint32 * 2)(_VERSION_3, 0)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"capabilities cannot be dropped: {os.strerror(number)}")
