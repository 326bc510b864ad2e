"""Running an untrusted program on the host with the fewest privileges.

It runs as an unprivileged user, with limits on time, memory, files and output. On Linux it also gets no new
privileges, a filter of its system calls, and its own mount, process, IPC and (unless it may use the network)
network namespaces, so that it sees no other process and leaves nothing behind. With `seen` it has its own
root, with the system's software, its directory, and the named paths; otherwise, and before Linux 5.12, it can
read all world-readable files of the host. It can write only to its directory. If the caller is not root, it
runs as the caller; if the caller may not mount (inside a worker), in the caller's namespaces. `main` runs
inside the sandbox.

Source: setpriv(1), unshare(1), setrlimit(2), chroot(2).
"""

import os
import pwd
import resource
import signal
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import msgspec

from store.host.capabilities import NUMBERS, keep_only, permitted
from store.host.devices import mount_devices
from store.host.interpreter import module_command, module_environment
from store.host.kernel_scopes import leave_session_keyring
from store.host.mounts import (
    NO_DEVICES,
    NO_SUID,
    READ_ONLY,
    attach,
    bind,
    can_restrict,
    copy_of,
    mount,
    restrict,
)
from store.host.process import run
from store.host.system_calls import compile_filter, install
from store.host.tools import TOOL_PATH

OUTPUT_BYTES = 64 * 1024
"""Default size limit of its output and of each file that it writes."""

NOBODY = "nobody"

MODULE = "-m"
"""Instead of a program: run the `main` of the module of this project whose name follows."""

_CODE = ("dcd", "statemachine", "store", "msgspec")

SOFTWARE = ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr")
"""The directories of the system's software."""

SETTINGS = (
    *("alternatives", "ca-certificates", "gai.conf", "group", "host.conf", "hosts", "ld.so.cache"),
    *("localtime", "nsswitch.conf", "os-release", "passwd", "pki/tls", "protocols", "resolv.conf"),
    *("services", "ssl/certs", "ssl/openssl.cnf", "xml"),
)
"""The files of /etc that programs need to find libraries, users, hosts and certificates."""

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
    `seen` are the only visible paths of the host, besides the system's software (None: all world-readable
    ones). `user` is its user if the caller is root; "" keeps root's number without any capability, to read
    root's own settings. `environment` is added to its few variables.
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
        [*_alone(allowed.network), *inner, *argv],
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
    )


def has_own_root() -> bool:
    """Whether a confined program gets its own root with selected paths. Its /tmp is then in memory and
    disappears with it."""
    return is_apart() and can_restrict()


def code_places() -> tuple[str, ...]:
    """The paths of the host that a Python program of this project needs, besides the system's software."""
    places = [Path(sys.prefix), Path(sys.base_prefix)]
    for package in _CODE:
        if (spec := find_spec(package)) is not None:
            places += map(Path, spec.submodule_search_locations or filter(None, [spec.origin]))
    both = [place for path in places for place in (path.absolute(), path.resolve())]
    return tuple(dict.fromkeys(map(str, both)))


def _alone(network: bool) -> Iterable[str]:
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
    if allowed.seen is not None and has_own_root():
        _enter_own_root(Path(place), allowed.seen)
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


def _enter_own_root(place: Path, seen: Iterable[str]) -> None:
    """Change the root to a new one with only the paths that the program may see."""
    os.umask(0o022)
    # The root is mounted over `place`, which then appears inside it again.
    own = copy_of(place)
    mount("tmpfs", place, "mode=755,size=64m", NO_SUID | NO_DEVICES)
    for name, mode in (("proc", 0o755), ("dev", 0o755), ("tmp", 0o1777)):
        (place / name).mkdir()
        (place / name).chmod(mode)
    show = partial(_show, place)
    for name in SOFTWARE:
        entry = Path("/", name)
        if entry.is_symlink():
            (place / name).symlink_to(entry.readlink())
        elif entry.exists():
            show(entry, entry)
    for path in (*(Path("/etc", name) for name in SETTINGS), *map(Path, seen)):
        if path.exists() and not path.is_relative_to("/usr"):
            show(path.resolve(), path)
    shown = place / place.relative_to("/")
    shown.mkdir(parents=True, exist_ok=True)
    attach(own, shown)
    os.close(own)
    bind(Path("/proc"), place / "proc")
    mount_devices(place / "dev")
    os.chroot(place)


def _show(root: Path, source: Path, path: Path) -> None:
    target = root / path.relative_to("/")
    if target.exists() and not target.is_dir():
        return
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    bind(source, target)
    restrict(target, READ_ONLY | NO_SUID | NO_DEVICES)


def _become(argv: list[str], allowed: Allowed) -> NoReturn:
    for ignored in (
        signal.SIGXFSZ,
        signal.SIGPIPE,
    ):  # Python ignores them, and so would its children.
        signal.signal(ignored, signal.SIG_DFL)
    for what, most in (*_LIMITS.items(), (resource.RLIMIT_FSIZE, allowed.file_bytes)):
        _, hard = resource.getrlimit(what)
        if hard != resource.RLIM_INFINITY:  # The caller's own limit may be lower.
            most = min(most, hard)
        resource.setrlimit(what, (most, most))
    if os.geteuid() == 0:
        if sys.platform == "linux":
            leave_session_keyring()
        if allowed.user:
            user = pwd.getpwnam(allowed.user)
            os.setgroups([])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
        else:
            keep_only(())
    if sys.platform == "linux" and (program := compile_filter(os.uname().machine)):
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
