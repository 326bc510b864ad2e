"""Running an untrusted program on the host with the fewest privileges.

It has no new privileges, a filter of its system calls, and limits on time, memory, files and output. If the
caller is root on Linux, it runs as an unprivileged user in its own mount, process, IPC and (unless it may use
the network) network namespaces, so that it sees no other process and leaves nothing behind. With `seen` it
then has its own root, with the system's software, its directory, and the named paths.

If the caller is not root (in a planner, or in the daemon of an ordinary user), it runs as the caller, in
the caller's namespaces: without the network the filter leaves it Unix sockets only, and with `seen`
Landlock limits it to the same files. Without `seen`, and on kernels that have neither, it can read what its
user can read. It can write only to its directory. `main` runs inside the sandbox.

Source: setpriv(1), unshare(1), setrlimit(2), landlock(7).
"""

import os
import pwd
import resource
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import msgspec

from store.host import tools
from store.host.capabilities import NUMBERS, become, permitted
from store.host.interpreter import module_command, module_environment
from store.host.kernel_scopes import can_restrict_files, leave_session_keyring, restrict_files
from store.host.mounts import can_restrict
from store.host.process import run
from store.host.system_calls import compile_filter, install
from store.host.system_paths import SETTINGS, SOFTWARE
from store.host.system_paths import code_places as all_code_places
from store.host.tools import TOOL_PATH
from store.host.view import Devices, Empty, Processes, Step, enter, if_there, shown, software

OUTPUT_BYTES = 64 * 1024
"""Default size limit of its output and of each file that it writes."""

NOBODY = "nobody"

MODULE = "-m"
"""Instead of a program: run the `main` of the module of this project whose name follows."""

_NAMESPACE_TOOLS = ("setpriv", "unshare")

_LIMITS = {
    resource.RLIMIT_CPU: 20,
    resource.RLIMIT_AS: 1 << 30,
    resource.RLIMIT_NOFILE: 128,
    resource.RLIMIT_CORE: 0,
}
_ENVIRONMENT = {"PATH": TOOL_PATH, "LC_ALL": "C.UTF-8", "HOME": "/"}


@dataclass(frozen=True, slots=True)
class Allowed:
    """The permissions of a confined program beyond the minimum.

    `network` gives it the host's network. `file_bytes` limits the size of its output and of each other file.
    `seen` are the only visible paths of the host, besides the system's software (None: all that its user can
    read). `user` is its user if the caller is root. `environment` is added to its few variables.
    """

    network: bool = False
    file_bytes: int = OUTPUT_BYTES
    seen: tuple[str, ...] | None = None
    user: str = NOBODY
    environment: Mapping[str, str] = field(default_factory=dict)


LEAST = Allowed()


def run_confined(
    argv: Sequence[str | Path],
    directory: Path,
    timeout_seconds: float,
    allowed: Allowed = LEAST,
    stdin: bytes | None = None,
) -> str:
    """Run a program in a directory that its user may enter, and return its output. Raises ToolFailed when it
    fails, takes too long, or prints too much; the output is in the directory's file `output` in any case."""
    settings = msgspec.json.encode(allowed).decode()
    inner: tuple[str | Path, ...] = (*module_command("dcd.platform.sandbox"), settings, directory)
    run(
        [*_in_own_namespaces(allowed.network), *inner, *argv],
        env=module_environment(),
        cwd=Path("/"),
        stdin=stdin,
        timeout_seconds=timeout_seconds,
    )
    return printed(directory)


def printed(directory: Path) -> str:
    """The output of the last program that ran there."""
    try:
        return (directory / "output").read_text("utf-8", "replace")
    except FileNotFoundError:
        return ""


def is_apart() -> bool:
    """Whether this process may give a confined program its own namespaces and root."""
    return (
        sys.platform == "linux"
        and os.geteuid() == 0
        and bool(permitted() >> NUMBERS["SYS_ADMIN"] & 1)
        and not tools.missing(_NAMESPACE_TOOLS)
    )


def has_own_root() -> bool:
    """Whether a confined program gets its own root with selected paths. Its /tmp is then in memory and
    disappears with it."""
    return is_apart() and can_restrict()


def code_places() -> tuple[str, ...]:
    """The paths of the host that a Python program of this project needs, besides the system's software."""
    return tuple(dict.fromkeys(map(str, all_code_places(["msgspec"]))))


def _in_own_namespaces(network: bool) -> Iterable[str]:
    if not is_apart():
        return ()
    return (
        *("setpriv", "--pdeathsig", "SIGKILL", "--no-new-privs"),
        *("unshare", "--mount", "--propagation=slave", "--pid", "--ipc", "--fork"),
        *(() if network else ("--net",)),
        *("--kill-child=SIGKILL", "--mount-proc"),
    )


def main() -> None:
    """Run the program confined, and exit with its status: ALLOWED DIRECTORY PROGRAM ARGUMENT..."""
    settings, place, *argv = sys.argv[1:]
    allowed = msgspec.json.decode(settings, type=Allowed)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    descriptor = os.open(Path(place, "output"), flags, 0o600)
    if allowed.seen is not None:
        if has_own_root():
            os.umask(0o022)
            enter(_own_root(Path(place), allowed.seen))
        elif can_restrict_files():
            _limit_files(Path(place), allowed.seen)
    os.chdir(place)
    # The first process of a namespace ignores signals without a handler, such as those of the limits.
    child = os.fork()
    if child == 0:
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)
        _become(argv, allowed)
    # When this process ends, the kernel kills all others of the namespace.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    sys.exit(code if code >= 0 else 128 - code)


def _own_root(place: Path, seen: Iterable[str]) -> Iterator[Step]:
    """The steps of a root with only the paths that the program may see."""
    yield from software()
    for path in (*(Path("/etc", name) for name in SETTINGS), *map(Path, seen)):
        yield from if_there(path)
    yield Processes()
    yield Devices()
    yield Empty(Path("/tmp"), mode=0o1777, limits="size=64m")
    yield from shown(place, writable=True)


def _limit_files(place: Path, seen: Iterable[str]) -> None:
    """The same for a program in the caller's root."""
    system = [*(Path("/", name) for name in SOFTWARE), *(Path("/etc", name) for name in SETTINGS)]
    restrict_files([*system, Path("/proc"), *map(Path, seen)], [place, Path("/dev")])


def _become(argv: list[str], allowed: Allowed) -> NoReturn:
    # Python ignores these signals, and so would its children.
    for ignored in (signal.SIGXFSZ, signal.SIGPIPE):
        signal.signal(ignored, signal.SIG_DFL)
    for what, most in (*_LIMITS.items(), (resource.RLIMIT_FSIZE, allowed.file_bytes)):
        _, hard = resource.getrlimit(what)
        if hard != resource.RLIM_INFINITY:  # The caller's own limit may be lower.
            most = min(most, hard)
        resource.setrlimit(what, (most, most))
    apart = is_apart()
    if os.geteuid() == 0:
        user = pwd.getpwnam(allowed.user)
        if sys.platform == "linux":
            leave_session_keyring()
            become(user.pw_uid, user.pw_gid)
        else:
            os.setgroups([])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
    if sys.platform == "linux" and (
        program := compile_filter(os.uname().machine, network=allowed.network or apart)
    ):
        install(program)
    os.umask(0o077)
    environment = {**_ENVIRONMENT, **allowed.environment}
    if argv[0] == MODULE:
        _run_module(argv[1], environment)
    os.execve(argv[0], argv, environment)


def _run_module(name: str, environment: Mapping[str, str]) -> NoReturn:
    """Run a module's `main` in this interpreter: starting another would take longer than the work."""
    status = 1
    try:
        os.environ.clear()
        os.environ.update(environment)
        import_module(name).main()
        status = 0
    except BaseException:  # noqa: BLE001 - the process ends with the error in its output
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
