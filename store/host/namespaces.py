"""Forking a process into new namespaces (clone(2)).

`fork_beside` makes the first process of new namespaces, a child of this process's parent and not of this one:
the parent waits for it, and its parent-death signal (`store.host.kernel_scopes.end_with_parent`) comes from
the thread of the parent that has started this process. `settle` is for that first process.

For a process with one thread: others do not exist after a fork. Source: clone(2), namespaces(7),
user_namespaces(7), unshare(1); PyOS_AfterFork_Child in Python's C API.
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

_libc = ctypes.PyDLL(None, use_errno=True)
"""Keeps Python's lock during a call, so that the new process has it."""
_libc.syscall.restype = ctypes.c_long


def fork_beside(*, network: bool) -> int:
    """fork(2) into new mount, PID, IPC and UTS namespaces, without `network` (the host's) also a network
    namespace, and for an ordinary user a user namespace. The new process is a sibling of this one. Returns
    its pid here, and 0 there. Raises OSError."""
    flags = _CLONE_PARENT | _CLONE_NEWNS | _CLONE_NEWUTS | _CLONE_NEWIPC | _CLONE_NEWPID
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


def settle(uid: int, gid: int) -> None:
    """Be root of these namespaces, which the user with these numbers has made; let unmounting on the host
    reach this mount namespace, but no mount here the host; and show the processes of this PID namespace at
    /proc. Raises OSError."""
    if uid != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    receive_mounts()
    mount("proc", Path("/proc"), "", NO_SUID | NO_DEVICES | NO_PROGRAMS)
