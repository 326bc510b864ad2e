"""The system calls of less trusted processes: a filter for seccomp(2).

`RULES` is the table of refused calls, with the error of each and the capability of capabilities(7) that
allows it. In addition, sockets are limited by address family, `clone` and `unshare` cannot create user
namespaces, and system calls newer than this table do not exist. The selection follows the default
profiles of podman(1) and docker, except for the calls that tools of images need, such as mount, which
capabilities control.

An optional call (keyrings, io_uring) fails as on a kernel without it; other refused calls fail with
EPERM. `clone3` does not exist, since a filter cannot check its flags; C libraries then use `clone`.
32-bit programs are filtered in the same way, and cannot create sockets through `socketcall`, whose
arguments a filter cannot check; x32 and other system call interfaces do not exist.

`compile_filter` is pure; `install` loads a program into the kernel, permanently, for this process and
its descendants. A machine that is not in `MACHINES` gets no filter.

Source: seccomp(2), linux/seccomp.h, linux/filter.h, linux/audit.h; the numbers: libseccomp.
"""

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Collection
from dataclasses import dataclass

from store.host.capabilities import give_up_new_privileges

LAST_KNOWN = 469
"""The newest system call that this table covers (file_setattr, Linux 6.17)."""

_PRIVATE_ARM = 0xF0000
"""The first of the few calls that only 32-bit ARM has (set_tls and others)."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Calls that are refused with `answer`, unless the process has `capability`, or is `trusted` with
    such calls because its author may run code on the host."""

    calls: tuple[str, ...]
    answer: int
    capability: str = ""
    trusted: bool = False


RULES = (
    # Keys belong to a user id, and root's keys are the host's.
    Rule(("add_key", "request_key", "keyctl"), errno.ENOSYS),
    # Large interfaces with a history of vulnerabilities; no tool of images needs them.
    Rule(("io_uring_setup", "io_uring_enter", "io_uring_register", "userfaultfd"), errno.ENOSYS),
    Rule(("perf_event_open",), errno.ENOSYS, "PERFMON"),
    Rule(("bpf",), errno.EPERM, "BPF"),
    # A filter cannot check its flags.
    Rule(("clone3",), errno.ENOSYS),
    # Other processes.
    Rule(
        ("ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd"),
        errno.EPERM,
        "SYS_PTRACE",
        trusted=True,
    ),
    # The kernel, and the machine.
    Rule(
        ("init_module", "finit_module", "delete_module", "create_module"), errno.EPERM, "SYS_MODULE"
    ),
    Rule(("kexec_load", "kexec_file_load", "reboot"), errno.EPERM, "SYS_BOOT"),
    Rule(("iopl", "ioperm"), errno.EPERM, "SYS_RAWIO"),
    Rule(("syslog",), errno.EPERM, "SYSLOG"),
    Rule(("swapon", "swapoff", "quotactl", "quotactl_fd", "fanotify_init"), errno.EPERM),
    Rule(("acct",), errno.EPERM, "SYS_PACCT"),
    Rule(("vhangup",), errno.EPERM, "SYS_TTY_CONFIG"),
    Rule(
        (
            *("settimeofday", "stime", "clock_settime", "clock_settime64"),
            *("adjtimex", "clock_adjtime", "clock_adjtime64"),
        ),
        errno.EPERM,
        "SYS_TIME",
    ),
    # Files by handle, past every mount.
    Rule(("open_by_handle_at",), errno.EPERM, "DAC_READ_SEARCH"),
    # Obsolete calls.
    Rule(
        (
            *("query_module", "get_kernel_syms", "lookup_dcookie", "nfsservctl", "uselib"),
            *("ustat", "sysfs", "_sysctl", "vm86", "vm86old"),
        ),
        errno.ENOSYS,
    ),
)

FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
"""The address families of sockets, beside AF_NETLINK for `NETLINK` and, with NET_RAW, AF_PACKET."""

NETLINK = (0, 4, 12, 15, 16)
"""The protocols of AF_NETLINK that belong to a network namespace: route, sock_diag, netfilter, uevents and
generic. Source: linux/netlink.h."""

NUMBERS: dict[str, tuple[int | None, int | None, int | None, int | None]] = {
    "add_key": (248, 286, 217, 309),
    "request_key": (249, 287, 218, 310),
    "keyctl": (250, 288, 219, 311),
    "io_uring_setup": (425, 425, 425, 425),
    "io_uring_enter": (426, 426, 426, 426),
    "io_uring_register": (427, 427, 427, 427),
    "userfaultfd": (323, 374, 282, 388),
    "perf_event_open": (298, 336, 241, 364),
    "bpf": (321, 357, 280, 386),
    "clone3": (435, 435, 435, 435),
    "ptrace": (101, 26, 117, 26),
    "process_vm_readv": (310, 347, 270, 376),
    "process_vm_writev": (311, 348, 271, 377),
    "kcmp": (312, 349, 272, 378),
    "pidfd_getfd": (438, 438, 438, 438),
    "init_module": (175, 128, 105, 128),
    "finit_module": (313, 350, 273, 379),
    "delete_module": (176, 129, 106, 129),
    "create_module": (174, 127, None, None),
    "kexec_load": (246, 283, 104, 347),
    "kexec_file_load": (320, None, 294, 401),
    "reboot": (169, 88, 142, 88),
    "iopl": (172, 110, None, None),
    "ioperm": (173, 101, None, None),
    "syslog": (103, 103, 116, 103),
    "swapon": (167, 87, 224, 87),
    "swapoff": (168, 115, 225, 115),
    "quotactl": (179, 131, 60, 131),
    "quotactl_fd": (443, 443, 443, 443),
    "fanotify_init": (300, 338, 262, 367),
    "acct": (163, 51, 89, 51),
    "vhangup": (153, 111, 58, 111),
    "settimeofday": (164, 79, 170, 79),
    "stime": (None, 25, None, None),
    "clock_settime": (227, 264, 112, 262),
    "clock_settime64": (None, 404, None, 404),
    "adjtimex": (159, 124, 171, 124),
    "clock_adjtime": (305, 343, 266, 372),
    "clock_adjtime64": (None, 405, None, 405),
    "open_by_handle_at": (304, 342, 265, 371),
    "query_module": (178, 167, None, None),
    "get_kernel_syms": (177, 130, None, None),
    "lookup_dcookie": (212, 253, 18, 249),
    "nfsservctl": (180, 169, 42, 169),
    "uselib": (134, 86, None, 86),
    "ustat": (136, 62, None, 62),
    "sysfs": (139, 135, None, 135),
    "_sysctl": (156, 149, None, 149),
    "vm86": (None, 166, None, None),
    "vm86old": (None, 113, None, None),
    "socket": (41, 359, 198, 281),
    "socketpair": (53, 360, 199, 288),
    "socketcall": (None, 102, None, None),
    "listen": (50, 363, 201, 284),
    "clone": (56, 120, 220, 120),
    "unshare": (272, 310, 97, 337),
    "ioctl": (16, 54, 29, 54),
}
"""Name to the number on x86_64, i386, arm64 and arm; None: the call does not exist."""

_X86_64, _I386, _AARCH64, _ARM = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028
_RISCV64, _LOONGARCH64 = 0xC00000F3, 0xC0000102

MACHINES: dict[str, tuple[tuple[int, int], ...]] = {
    "x86_64": ((_X86_64, 0), (_I386, 1)),
    "aarch64": ((_AARCH64, 2), (_ARM, 3)),
    "riscv64": ((_RISCV64, 2),),
    "loongarch64": ((_LOONGARCH64, 2),),
}
"""Machine, as in uname(2), to its system call interfaces: the AUDIT_ARCH number and the column of
`NUMBERS`."""

_X32_BIT = 0x40000000
_CLONE_NEWUSER = 0x10000000
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_SOCKETCALL_SOCKET, _SOCKETCALL_LISTEN, _SOCKETCALL_SOCKETPAIR = 1, 4, 8  # linux/net.h

_LD_ABS = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JA, _JEQ, _JGT, _JGE, _JSET = 0x05, 0x15, 0x25, 0x35, 0x45  # BPF_JMP | ... | BPF_K
_RET = 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000  # SECCOMP_RET_...
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # in struct seccomp_data; of an argument, the low half

_SECCOMP_SET_MODE_FILTER = 1
_SECCOMP = {"x86_64": 317}
_SECCOMP_LATER = 277
"""The number of seccomp(2) on machines with the common numbering."""

Instruction = tuple[int, int, int, int]
"""Code, jumps if true and if false, and the constant: struct sock_filter."""


def compile_filter(
    machine: str,
    capabilities: Collection[str] = (),
    *,
    trusted: bool = False,
    network: bool = True,
) -> list[Instruction]:
    """The program for a process with these capabilities on a machine; empty for an unknown machine.
    `trusted` allows user namespaces and the calls of rules for trusted processes; without `network`
    there are only Unix sockets."""
    program = []
    for arch, column in MACHINES.get(machine, ()):
        block = _interface(column, capabilities, trusted, network)
        program += [(_LD_ABS, 0, 0, _ARCH), (_JEQ, 1, 0, arch), (_JA, 0, 0, len(block)), *block]
    return [*program, _refuse(errno.ENOSYS)] if program else []


def compile_unreachable_filter(machine: str, *, unix: bool = True) -> list[Instruction]:
    """A further program, for a process that shares a network namespace or directories with others of the
    host: none of these hands it an open directory, by which root would leave its view. It cannot listen, and
    of Unix sockets it has those that connect; without `unix` none but pairs. Empty for an unknown machine."""
    flags = (
        0,
        socket.SOCK_NONBLOCK,
        socket.SOCK_CLOEXEC,
        socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
    )
    kinds = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET) if unix else ()
    types = [kind | flag for kind in kinds for flag in flags]
    unix_sockets = [
        (_LD_ABS, 0, 0, _ARGUMENTS),
        (_JEQ, 1, 0, socket.AF_UNIX),
        (_RET, 0, 0, _ALLOW),
        (_LD_ABS, 0, 0, _ARGUMENTS + 8),
        *((_JEQ, len(types) - n, 0, each) for n, each in enumerate(types)),
        _refuse(errno.EAFNOSUPPORT),
        (_RET, 0, 0, _ALLOW),
    ]
    program = []
    for arch, column in MACHINES.get(machine, ()):
        block = [
            (_LD_ABS, 0, 0, _NUMBER),
            *_on("listen", column, [_refuse(errno.EPERM)]),
            *_on("socket", column, unix_sockets),
            *_on("socketcall", column, _argument(0, _JEQ, (_SOCKETCALL_LISTEN,), errno.EPERM)),
            (_RET, 0, 0, _ALLOW),
        ]
        program += [(_LD_ABS, 0, 0, _ARCH), (_JEQ, 1, 0, arch), (_JA, 0, 0, len(block)), *block]
    return [*program, _refuse(errno.ENOSYS)] if program else []


def install(program: list[Instruction]) -> None:
    """Filter the system calls of this process, which has one thread, and of its descendants, by a
    program that is not empty. From then on no program adds privileges. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    packed = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    instructions = ctypes.create_string_buffer(packed, len(packed))
    described = _Program(len(program), ctypes.addressof(instructions))
    number = _SECCOMP.get(os.uname().machine, _SECCOMP_LATER)
    give_up_new_privileges()
    if libc.syscall(number, _SECCOMP_SET_MODE_FILTER, 0, ctypes.byref(described)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"system calls cannot be filtered: {os.strerror(code)}")


def number_of(name: str) -> int:
    """The number of a call in `NUMBERS` on this machine. Raises OSError when it is not known."""
    machine = os.uname().machine
    interface, *_ = MACHINES.get(machine, (None,))
    number = None if interface is None else NUMBERS[name][interface[1]]
    if number is None:
        raise OSError(errno.ENOSYS, f"the number of {name}(2) on {machine} is not known")
    return number


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _interface(
    column: int, capabilities: Collection[str], trusted: bool, network: bool
) -> list[Instruction]:
    """The part for one system call interface, with a decision for every call."""
    block: list[Instruction] = [(_LD_ABS, 0, 0, _NUMBER)]
    if column == 0:
        block += [(_JSET, 0, 1, _X32_BIT), _refuse(errno.ENOSYS)]
    block += [
        (_JGT, 0, 2, LAST_KNOWN),
        (_JGE, 1, 0, _PRIVATE_ARM),
        _refuse(errno.ENOSYS),
    ]
    for rule in RULES:
        if rule.capability in capabilities or (trusted and rule.trusted):
            continue
        for name in rule.calls:
            block += _on(name, column, [_refuse(rule.answer)])
    packet = (socket.AF_PACKET,) if "NET_RAW" in capabilities else ()
    families = _families((*FAMILIES, *packet)) if network else _only_unix()
    for name in ("socket", "socketpair"):
        block += _on(name, column, families)
    if not trusted:
        for name in ("clone", "unshare"):
            block += _on(name, column, _argument(0, _JSET, (_CLONE_NEWUSER,), errno.EPERM))
    block += _on("ioctl", column, _argument(1, _JEQ, (_TIOCSTI, _TIOCLINUX), errno.EPERM))
    calls = (_SOCKETCALL_SOCKET, _SOCKETCALL_SOCKETPAIR)
    block += _on("socketcall", column, _argument(0, _JEQ, calls, errno.EAFNOSUPPORT))
    return [*block, (_RET, 0, 0, _ALLOW)]


def _on(name: str, column: int, decision: list[Instruction]) -> list[Instruction]:
    """The instructions for one call, if the interface has it."""
    number = NUMBERS[name][column]
    return [] if number is None else [(_JEQ, 0, len(decision), number), *decision]


def _argument(index: int, test: int, values: tuple[int, ...], answer: int) -> list[Instruction]:
    """Refuse a call whose argument matches one of the values in the test; allow it otherwise."""
    tests = [(test, len(values) - place, 0, value) for place, value in enumerate(values)]
    return [
        (_LD_ABS, 0, 0, _ARGUMENTS + 8 * index),
        *tests,
        (_RET, 0, 0, _ALLOW),
        _refuse(answer),
    ]


def _families(families: tuple[int, ...]) -> list[Instruction]:
    """Allow sockets of these families, and of AF_NETLINK for some protocols. For programs, a refused
    family or protocol looks unsupported by the kernel."""
    by_family = [(_JEQ, len(families) - n, 0, family) for n, family in enumerate(families)]
    by_protocol = [(_JEQ, len(NETLINK) - n, 0, protocol) for n, protocol in enumerate(NETLINK)]
    return [
        (_LD_ABS, 0, 0, _ARGUMENTS),
        *by_family,
        # No match: netlink follows the two returns.
        (_JEQ, 2, 1, socket.AF_NETLINK),
        (_RET, 0, 0, _ALLOW),
        _refuse(errno.EAFNOSUPPORT),
        (_LD_ABS, 0, 0, _ARGUMENTS + 16),
        *by_protocol,
        _refuse(errno.EPROTONOSUPPORT),
        (_RET, 0, 0, _ALLOW),
    ]


def _only_unix() -> list[Instruction]:
    return [
        (_LD_ABS, 0, 0, _ARGUMENTS),
        (_JEQ, 0, 1, socket.AF_UNIX),
        (_RET, 0, 0, _ALLOW),
        _refuse(errno.EAFNOSUPPORT),
    ]


def _refuse(answer: int) -> Instruction:
    return (_RET, 0, 0, _ERRNO | answer)
