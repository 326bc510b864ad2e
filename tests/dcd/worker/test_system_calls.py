"""What the filter of system calls and the scopes of the kernel refuse, asked for inside a worker, for real;
and that the same call gets further where the table leaves it to a process."""

import ctypes
import errno
import os
import platform
import shlex
import signal
import socket
import subprocess
import sys

import pytest

from dcd.worker.launch import Completed
from dcd.worker.request import Grants
from store.host.capabilities import FILES, MOUNTS
from store.host.kernel_scopes import can_scope_sockets, leave_session_keyring
from store.host.system_calls import LAST_KNOWN, MACHINES, NUMBERS, RULES
from tests.dcd.worker.conftest import MOUNTING, Bench, said
from tests.user_namespaces import need_user_namespaces

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() not in MACHINES, reason="no filter for this machine"),
]

HOST_CODE = Grants(host_code=True)
COLUMN = MACHINES.get(platform.machine(), ((0, 0),))[0][1]

CALLS = {
    name: (rule, number)
    for rule in RULES
    for name in rule.calls
    if (number := NUMBERS[name][COLUMN]) is not None
}
"""Every call of the table that this machine has."""

LEFT = {name: call for name, call in CALLS.items() if call[0].capability}

MAKE = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
for name, number in {calls}:
    # No call takes these arguments for good ones: where it is let through, it says so.
    ctypes.set_errno(0)
    made = libc.syscall(number, *[ctypes.c_long(-1)] * 6)
    print(name, errno.errorcode.get(ctypes.get_errno(), "-"), flush=True)
"""

INT_80 = """
import ctypes, mmap, os
libc = ctypes.CDLL(None)
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
# push rbx; mov eax, edi; mov ebx, esi; mov ecx, edx; int 0x80; pop rbx; ret
page.write(bytes.fromhex("53 89f8 89f3 89d1 cd80 5b c3".replace(" ", "")))
call = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int)(
    ctypes.addressof(ctypes.c_char.from_buffer(page))
)
for name, number, first, second in {calls}:
    print(name, -call(number, first, second), flush=True)
"""

SOCKETS = """
import socket
for family, kind, protocol in {wanted}:
    try:
        socket.socket(family, kind, protocol).close()
        print("made")
    except OSError as error:
        print(error.errno)
"""


def script(text: str, **values: object) -> str:
    """A command that runs a text in Python."""
    return f"python3 -c {shlex.quote(text.format(**values))}"


def answers(bench: Bench, names: list[str], grants: Grants) -> dict[str, str]:
    calls = [(name, CALLS[name][1]) for name in names]
    output = said(bench, script(MAKE, calls=calls), grants=grants)
    return dict(line.split() for line in output.splitlines())


def test_every_call_of_the_table_is_refused_as_it_says(bench: Bench) -> None:
    found = answers(bench, list(CALLS), MOUNTING)
    assert found == {name: errno.errorcode[rule.answer] for name, (rule, _) in CALLS.items()}


def test_a_call_is_left_to_whom_the_capability_was_granted(bench: Bench) -> None:
    every = tuple({rule.capability for rule, _ in LEFT.values()})
    found = answers(bench, list(LEFT), Grants(capabilities=(*MOUNTS, *every)))
    # ENOSYS: this kernel has no such call.
    refused = {name for name, (rule, _) in LEFT.items() if found[name] == "EPERM"}
    assert refused == set(), found
    assert {found[name] for name in ("reboot", "settimeofday")} == {"EINVAL", "EFAULT"}


def test_code_of_those_who_may_run_it_on_the_host_traces_its_own_processes(bench: Bench) -> None:
    names = [name for name, (rule, _) in CALLS.items() if rule.trusted]
    assert "ptrace" in names
    assert set(answers(bench, names, Grants()).values()) == {"EPERM"}
    assert "EPERM" not in answers(bench, ["ptrace"], HOST_CODE).values()


def test_a_call_newer_than_the_table_is_not_there(bench: Bench) -> None:
    newer = f"print(libc.syscall({LAST_KNOWN + 1}, -1, -1, -1), ctypes.get_errno())"
    output = said(bench, script(MAKE + newer, calls=[]))
    assert output == f"-1 {errno.ENOSYS}\n"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x32 is of x86-64")
def test_x32_is_not_there(bench: Bench) -> None:
    getpid = "print(libc.syscall(0x40000000 | 39), ctypes.get_errno())"
    assert said(bench, script(MAKE + getpid, calls=[])) == f"-1 {errno.ENOSYS}\n"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the interface of i386 is of x86")
def test_programs_of_32_bits_work_and_are_refused_the_same(bench: Bench) -> None:
    getpid, unshare, socketcall, tmpfs = 20, 310, 102, 1 << 17
    calls = [
        ("getpid", getpid, 0, 0),
        *(
            (name, number, -1, -1)
            for name, columns in NUMBERS.items()
            if name in {each for rule in RULES for each in rule.calls}
            and (number := columns[1]) is not None
        ),
        ("unshare-user", unshare, 0x10000000, 0),
        ("unshare-mount", unshare, tmpfs, 0),
        ("socketcall-socket", socketcall, 1, 0),
        ("socketcall-bind", socketcall, 2, 0),
        ("vsock", 359, 40, 1),
    ]
    text = script(INT_80, calls=calls)
    outside = subprocess.run(["sh", "-c", script(INT_80, calls=calls[:1])], capture_output=True)
    if outside.returncode in (128 + signal.SIGSEGV, -signal.SIGSEGV):
        pytest.skip("this host's kernel runs no programs of 32 bits")
    found = {line.split()[0]: int(line.split()[1]) for line in said(bench, text).splitlines()}
    assert found.pop("getpid") < 0  # a number, not an error
    assert found.pop("unshare-user") == errno.EPERM
    assert found.pop("socketcall-socket") == errno.EAFNOSUPPORT
    assert found.pop("socketcall-bind") == errno.EFAULT
    assert found.pop("vsock") == errno.EAFNOSUPPORT
    assert found.pop("unshare-mount") == errno.EPERM  # for want of SYS_ADMIN
    expected = {name: rule.answer for rule in RULES for name in rule.calls if name in found}
    assert found == expected


class TestUserNamespaces:
    UNSHARE = "unshare --user --map-root-user --mount id -u && echo made"
    CLONE = "print(libc.syscall({clone}, 0x10000011, 0, 0, 0, 0), ctypes.get_errno())"

    @pytest.mark.parametrize("granted", [Grants(), MOUNTING], ids=["files", "mounts"])
    def test_are_not_made(self, bench: Bench, granted: Grants) -> None:
        output = said(bench, self.UNSHARE, grants=granted)
        assert "made" not in output
        assert "Operation not permitted" in output

    def test_are_not_made_by_clone(self, bench: Bench) -> None:
        line = self.CLONE.format(clone=NUMBERS["clone"][COLUMN])
        assert said(bench, script(MAKE + line, calls=[])) == f"-1 {errno.EPERM}\n"

    def test_are_not_made_inside_an_image(self, bench: Bench) -> None:
        output = said(bench, self.UNSHARE, probe="Enters", grants=MOUNTING)
        assert "made" not in output

    def test_are_made_by_code_of_those_who_may_run_it_on_the_host(self, bench: Bench) -> None:
        need_user_namespaces()
        assert "made" in said(bench, self.UNSHARE, grants=HOST_CODE)

    def test_other_namespaces_and_threads_are_made(self, bench: Bench) -> None:
        command = (
            "unshare --mount true && python3 -c 'import threading as t; "
            'x = t.Thread(target=print, args=["from a thread"]); x.start(); x.join()\''
        )
        assert said(bench, command, grants=MOUNTING) == "from a thread\n"


class TestSockets:
    REFUSED = (
        (getattr(socket, "AF_VSOCK", 40), socket.SOCK_STREAM, 0),
        (socket.AF_PACKET, socket.SOCK_RAW, 0),
        (getattr(socket, "AF_ALG", 38), socket.SOCK_SEQPACKET, 0),
        (44, socket.SOCK_RAW, 0),  # AF_XDP
    )

    @pytest.mark.parametrize("network", [False, True])
    @pytest.mark.parametrize("granted", [Grants(), MOUNTING, HOST_CODE])
    def test_of_other_families_are_refused(
        self, bench: Bench, network: bool, granted: Grants
    ) -> None:
        text = script(SOCKETS, wanted=[tuple(map(int, one)) for one in self.REFUSED])
        output = said(bench, text, network=network, grants=granted)
        assert output.split() == [str(errno.EAFNOSUPPORT)] * len(self.REFUSED)

    def test_of_packets_are_for_those_with_the_capability(self, bench: Bench) -> None:
        text = script(SOCKETS, wanted=[(int(socket.AF_PACKET), int(socket.SOCK_RAW), 0)])
        raw = Grants(capabilities=(*FILES, "NET_RAW"))
        assert said(bench, text, grants=raw) == "made\n"

    def test_of_the_audit_system_and_iscsi_are_refused(self, bench: Bench) -> None:
        audit, iscsi = 9, 8
        netlink, raw = int(socket.AF_NETLINK), int(socket.SOCK_RAW)
        text = script(SOCKETS, wanted=[(netlink, raw, audit), (netlink, raw, iscsi)])
        assert said(bench, text).split() == [str(errno.EPROTONOSUPPORT)] * 2

    def test_that_tools_need_are_made(self, bench: Bench) -> None:
        families = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
        wanted = [(int(family), int(socket.SOCK_STREAM), 0) for family in families]
        wanted.append((int(socket.AF_NETLINK), int(socket.SOCK_RAW), 0))
        assert said(bench, script(SOCKETS, wanted=wanted)).split() == ["made"] * 4

    CONNECT = "python3 -c 'import socket; socket.socket(socket.AF_UNIX).connect(\"\\0{name}\")'"

    def test_abstract_ones_of_the_host_are_out_of_reach(self, bench: Bench) -> None:
        name = f"dcd-test-{os.getpid()}"
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(f"\0{name}")
            listening.listen()
            connect = f"{self.CONNECT.format(name=name)} && echo connected"
            assert "refused" in said(bench, connect)
            if not can_scope_sockets():
                pytest.skip("with the network: this host's kernel is older than Linux 6.12")
            for granted in (Grants(), MOUNTING, HOST_CODE):
                output = said(bench, connect, network=True, grants=granted)
                assert "Operation not permitted" in output
                assert "connected" not in output.splitlines()

    def test_abstract_ones_of_its_own_are_in_reach(self, bench: Bench) -> None:
        text = (
            "import os, socket\nlistening = socket.socket(socket.AF_UNIX)\n"
            'listening.bind("\\0dcd-test-own")\nlistening.listen()\n'
            'socket.socket(socket.AF_UNIX).connect("\\0dcd-test-own")\nprint("connected")'
        )
        assert said(bench, script(text)) == "connected\n"
        assert said(bench, script(text), network=True, grants=HOST_CODE) == "connected\n"


UNREACHABLE = """
import socket
def tries(what, make):
    try:
        make()
        print(what, "works")
    except OSError as error:
        print(what, error.strerror)
def listens(family, address):
    with socket.socket(family) as made:
        made.bind(address)
        made.listen()
tries("abstract", lambda: listens(socket.AF_UNIX, "\\0dcd-test"))
tries("port", lambda: listens(socket.AF_INET, ("127.0.0.1", 0)))
tries("datagrams", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
tries("pair", socket.socketpair)
"""


@pytest.mark.parametrize("network", [False, True])
def test_nobody_on_the_host_hands_an_open_directory_to_root(bench: Bench, network: bool) -> None:
    """Abstract sockets belong to the network namespace; a descriptor that comes over one ignores the view."""
    text = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(UNREACHABLE)}"
    output = said(bench, text, network=network)
    refused = ("Operation not permitted", "Address family not supported by protocol")
    listening, datagrams = refused if network else ("works", "works")
    assert output == (
        f"abstract {listening}\nport {listening}\ndatagrams {datagrams}\npair works\n"
    )


def test_nothing_is_typed_into_a_terminal(bench: Bench) -> None:
    text = (
        "import fcntl, os\nmaster, slave = os.openpty()\n"
        "for request in (0x5412, 0x541C):\n"
        "    try:\n        fcntl.ioctl(slave, request, b'x')\n"
        "    except OSError as error:\n        print(error.errno)"
    )
    assert said(bench, script(text)).split() == [str(errno.EPERM)] * 2


@pytest.mark.parametrize("probe", ["Runs", "Enters"])
def test_the_filter_holds_for_all_that_is_started(bench: Bench, probe: str) -> None:
    output = said(bench, "grep Seccomp: /proc/self/status", probe=probe, grants=MOUNTING)
    assert output.split() == ["Seccomp:", "2"]


def test_an_inherited_keyring_is_left() -> None:
    add_key, keyctl = NUMBERS["add_key"][COLUMN], NUMBERS["keyctl"][COLUMN]
    session, search = -3, 10
    libc = ctypes.CDLL(None, use_errno=True)

    def found() -> bool:
        return bool(libc.syscall(keyctl, search, session, b"user", b"dcd-test", 0) > 0)

    child = os.fork()
    if child == 0:
        leave_session_keyring()
        if libc.syscall(add_key, b"user", b"dcd-test", b"secret", 6, session) < 0:
            os._exit(77)
        before = found()
        leave_session_keyring()
        os._exit(0 if before and not found() else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == 77:
        pytest.skip("this host's kernel has no keyrings")
    assert status == 0


def test_a_command_of_another_interpreter_runs_under_the_filter(bench: Bench) -> None:
    request = bench.request("Runs", f"{sys.executable} -c 'import ssl, lxml; print(1)'")
    assert isinstance(bench.run(request), Completed), bench.log(request).read_text()
