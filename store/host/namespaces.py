"""Forking a process into new namespaces (clone(2)).

`fork_beside` makes the first process of new namespaces, a child of this process's parent and not of this one:
the parent waits for it, and its parent-death signal (`store.host.kernel_scopes.end_with_parent`) comes from
the thread of the parent that has started this process. `become_root` and `be_apart` are for that first
process.

For a process with one thread: others do not exist after a fork. Source: clone(2), namespaces(7),
user_namespaces(7), setns(2), unshare(1); PyOS_AfterFork_Child in Python's C API.
"""

import ctypes
import os
import signal
from pathlib import Path

from store.host.mounts import NO_DEVICES, NO_PROGRAMS, NO_SUID, mount, receive_mounts
from store.host.system_calls import number_of

_CLONE_PARENT = 0x0000_8000
_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC = 0x0002_0000, 0x0400_0000, 0x0800_0000
_CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x1000_0000, 0x2000_0000, 0x4000_0000

_APART = {"mnt": _CLONE_NEWNS, "uts": _CLONE_NEWUTS}

_libc = ctypes.PyDLL(None, use_errno=True)
"""Keeps Python's lock during a call, so that the new process has it."""
_libc.syscall.restype = ctypes.c_long


def fork_beside(*, network: bool) -> int:
    """fork(2) into new PID and IPC namespaces, without `network` (the host's) also a network
    namespace, and for an ordinary user a user namespace. The new process is a sibling of this one. Returns
    its pid here, and 0 there. Raises OSError."""
    flags = _CLONE_PARENT | _CLONE_NEWIPC | _CLONE_NEWPID
    flags |= 0 if network else _CLONE_NEWNET
    flags |= 0 if os.geteuid() == 0 else _CLONE_NEWUSER
    ctypes.pythonapi.PyOS_BeforeFork()
    result = _libc.syscall(number_of("clone"), ctypes.c_ulong(flags | signal.SIGCHLD), 0, 0, 0, 0)
    if result == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0
    number = ctypes.get_errno()
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if result < 0:
        raise OSError(number, f"no process can be forked: {os.strerror(number)}")
    return int(result)


def become_root(uid: int, gid: int) -> None:
    """Be root of these namespaces, which the user with these numbers has made. Raises OSError."""
    if uid != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def be_apart() -> None:
    """Have a mount and a UTS namespace, with the mounts and the name that the host has now. Unmounting on the
    host reaches this process, but no mount here the host; /proc shows the processes of this PID namespace.
    Raises OSError."""
    _check(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWUTS))
    receive_mounts()
    mount("proc", Path("/proc"), "", NO_SUID | NO_DEVICES | NO_PROGRAMS)


def own_place() -> list[int]:
    """Descriptors of this process's root and of the namespaces that `be_apart` has made."""
    names = ("root", *(f"ns/{kind}" for kind in _APART))
    return [os.open(f"/proc/self/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in names]


def enter_place(root: int, *namespaces: int) -> None:
    """Enter them in another process of the same PID namespace. Raises OSError."""
    for namespace, kind in zip(namespaces, _APART.values(), strict=True):
        _check(_libc.setns(namespace, kind))
    # The root of the mount namespace is another one where the daemon's own root is that of a chroot(2).
    os.fchdir(root)
    os.chroot(".")


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"a namespace cannot be made or entered: {os.strerror(number)}")
