"""The filter of system calls as a program, for machines that a test cannot run on; and its numbers."""

import ctypes
import ctypes.util
import errno
import socket

import pytest

from store.host.system_calls import (
    LAST_KNOWN,
    MACHINES,
    NUMBERS,
    RULES,
    Instruction,
    compile_filter,
    compile_unreachable_filter,
)

ALLOWED = 0x7FFF0000
ARCHITECTURES = {0: 0xC000003E, 1: 0x40000003, 2: 0xC00000B7, 3: 0x40000028}
"""By column of the numbers, what the kernel and libseccomp call it."""

INTERFACES = [
    (machine, arch, column) for machine, known in MACHINES.items() for arch, column in known
]


def answer(program: list[Instruction], arch: int, number: int, *arguments: int) -> int:
    """What the kernel answers, by the instructions of bpf(4): an errno, or 0 when the call passes."""
    given = {0: number, 4: arch, **{16 + 8 * n: value for n, value in enumerate(arguments)}}
    at = accumulator = 0
    while True:
        code, true, false, constant = program[at]
        at += 1
        match code:
            case 0x20:
                accumulator = given.get(constant, 0)
            case 0x05:
                at += constant
            case 0x06:
                return 0 if constant == ALLOWED else constant & 0xFFFF
            case _:
                test = {
                    0x15: accumulator == constant,
                    0x25: accumulator > constant,
                    0x35: accumulator >= constant,
                    0x45: bool(accumulator & constant),
                }[code]
                at += true if test else false


@pytest.mark.parametrize(("machine", "arch", "column"), INTERFACES)
def test_every_rule_holds_on_every_machine(machine: str, arch: int, column: int) -> None:
    program = compile_filter(machine)
    for rule in RULES:
        for name in rule.calls:
            if (number := NUMBERS[name][column]) is not None:
                assert answer(program, arch, number) == rule.answer, name
                if rule.capability:
                    left = compile_filter(machine, [rule.capability])
                    assert answer(left, arch, number) == 0, name


@pytest.mark.parametrize(("machine", "arch", "column"), INTERFACES)
def test_arguments_decide_about_sockets_namespaces_and_terminals(
    machine: str, arch: int, column: int
) -> None:
    program, trusted = compile_filter(machine), compile_filter(machine, trusted=True)

    def of(name: str, *arguments: int) -> int:
        number = NUMBERS[name][column]
        assert number is not None
        return answer(program, arch, number, *arguments)

    for name in ("socket", "socketpair"):
        for family in range(46):
            expected = 0 if family in (1, 2, 10, 16) else errno.EAFNOSUPPORT
            assert of(name, family, 1, 0) == expected
        assert of(name, socket.AF_NETLINK, 3, 9) == errno.EPROTONOSUPPORT
    for name in ("clone", "unshare"):
        number = NUMBERS[name][column]
        assert of(name, 0x10000000) == errno.EPERM
        assert of(name, 0x10020011) == errno.EPERM
        assert of(name, 0x00020011) == 0
        assert number is not None
        assert answer(trusted, arch, number, 0x10000000) == 0
    assert of("ioctl", 0, 0x5412) == errno.EPERM
    assert of("ioctl", 0, 0x5413) == 0
    if NUMBERS["socketcall"][column] is not None:
        assert [of("socketcall", call) for call in range(1, 9)] == [
            errno.EAFNOSUPPORT,
            *[0] * 6,
            errno.EAFNOSUPPORT,
        ]


@pytest.mark.parametrize(("machine", "arch", "column"), INTERFACES)
def test_without_the_network_there_are_unix_sockets_only(
    machine: str, arch: int, column: int
) -> None:
    program = compile_filter(machine, ["NET_RAW"], network=False)
    for name in ("socket", "socketpair"):
        number = NUMBERS[name][column]
        assert number is not None
        allowed = [family for family in range(46) if answer(program, arch, number, family) == 0]
        assert allowed == [socket.AF_UNIX]
        assert answer(program, arch, number, socket.AF_INET) == errno.EAFNOSUPPORT


@pytest.mark.parametrize(("machine", "arch", "column"), INTERFACES)
def test_other_calls_pass_and_newer_ones_are_not_there(
    machine: str, arch: int, column: int
) -> None:
    program = compile_filter(machine)
    refused = {columns[column] for columns in NUMBERS.values()}
    assert {answer(program, arch, n) for n in range(LAST_KNOWN + 1) if n not in refused} == {0}
    assert answer(program, arch, LAST_KNOWN + 1) == errno.ENOSYS
    assert answer(program, arch, 0xF0005) == 0  # set_tls of ARM


@pytest.mark.parametrize("machine", MACHINES)
def test_other_interfaces_are_not_there(machine: str) -> None:
    known = {arch for arch, _ in MACHINES[machine]}
    for arch in {0, 1, *ARCHITECTURES.values()} - known:
        assert answer(compile_filter(machine), arch, 0) == errno.ENOSYS


def test_x32_is_not_there() -> None:
    assert answer(compile_filter("x86_64"), 0xC000003E, 0x40000000) == errno.ENOSYS


def test_a_machine_that_is_not_known_gets_no_filter() -> None:
    assert compile_filter("pdp11") == []


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_those_of_libseccomp(name: str) -> None:
    if (library := ctypes.util.find_library("seccomp")) is None:
        pytest.skip("libseccomp2 is not installed")
    resolve = ctypes.CDLL(library).seccomp_syscall_resolve_name_arch
    resolve.argtypes = (ctypes.c_uint32, ctypes.c_char_p)
    for column, arch in ARCHITECTURES.items():
        number = resolve(arch, name.encode())
        if name in ("socket", "socketpair", "listen") and column == 1:
            continue  # libseccomp answers with socketcall's
        assert NUMBERS[name][column] == (number if number >= 0 else None), arch


@pytest.mark.parametrize("unix", [True, False])
@pytest.mark.parametrize(("machine", "arch", "column"), INTERFACES)
def test_what_is_unreachable_cannot_listen_and_has_unix_sockets_that_connect(
    machine: str, arch: int, column: int, unix: bool
) -> None:
    program = compile_unreachable_filter(machine, unix=unix)

    def of(name: str, *arguments: int) -> int:
        number = NUMBERS[name][column]
        assert number is not None
        return answer(program, arch, number, *arguments)

    assert of("listen", 3, 1) == errno.EPERM
    for flags in (0, socket.SOCK_CLOEXEC, socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC):
        for kind in range(6):
            connects = unix and kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
            assert of("socket", socket.AF_UNIX, kind | flags) == (
                0 if connects else errno.EAFNOSUPPORT
            )
            assert of("socket", socket.AF_INET, kind | flags) == 0
            assert of("socketpair", socket.AF_UNIX, kind | flags) == 0
    if NUMBERS["socketcall"][column] is not None:
        assert of("socketcall", 4) == errno.EPERM
        assert of("socketcall", 3) == 0
