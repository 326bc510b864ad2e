"""Running a program that is not trusted on the host, with as little as it can do with.

It runs as nobody, with limits on time, memory, files and output; on Linux also without new privileges, and in
mount, process, network and IPC namespaces of its own, so that there is no network, no other process, and
nothing of it left afterwards. It can read what everybody on the host can read, and write nothing of use.
Where the caller is not root, it runs as the caller. `main` is the inner side.

Source: setpriv(1), unshare(1), setrlimit(2).
"""

import os
import pwd
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from dcd.platform.process import run
from dcd.platform.tools import TOOL_PATH
from store.interpreter import module_command, module_environment

OUTPUT_BYTES = 64 * 1024
"""What it may write, to its output or to any other file."""

_NOBODY = "nobody"
_LIMITS = {
    resource.RLIMIT_CPU: 20,
    resource.RLIMIT_AS: 1 << 30,
    resource.RLIMIT_FSIZE: OUTPUT_BYTES,
    resource.RLIMIT_NOFILE: 128,
    resource.RLIMIT_CORE: 0,
}
_ENVIRONMENT = {"PATH": TOOL_PATH, "LC_ALL": "C.UTF-8", "HOME": "/"}
_ALONE = (
    *("setpriv", "--pdeathsig", "SIGKILL", "--no-new-privs"),
    *("unshare", "--mount", "--propagation=slave", "--pid", "--net", "--ipc", "--fork"),
    *("--kill-child=SIGKILL", "--mount-proc"),
)


def run_confined(argv: Sequence[str | Path], directory: Path, timeout_seconds: float) -> str:
    """Run a program in a directory that everybody may enter, and return what it printed. Raises ToolFailed
    when it fails, takes too long, or prints more than `OUTPUT_BYTES`; its output is in the directory's
    file `output` then too."""
    output = directory / "output"
    alone = _ALONE if sys.platform == "linux" and os.geteuid() == 0 else ()
    run(
        [*alone, *module_command("dcd.platform.sandbox"), output, *argv],
        env=module_environment(),
        cwd=directory,
        timeout_seconds=timeout_seconds,
    )
    return printed(directory)


def printed(directory: Path) -> str:
    """What the last program that was run there printed."""
    try:
        return (directory / "output").read_text("utf-8", "replace")
    except FileNotFoundError:
        return ""


def main() -> None:
    """Run the program with nothing to gain, and end as it did: OUTPUT PROGRAM ARGUMENT..."""
    output, *argv = sys.argv[1:]
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    # As the first process of its namespace it would not be ended by signals, such as those of the limits.
    child = os.fork()
    if child == 0:
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)
        _become(argv)
    # With this one the kernel ends all others in the namespace.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    sys.exit(code if code >= 0 else 128 - code)


def _become(argv: list[str]) -> NoReturn:
    for ignored in (signal.SIGXFSZ, signal.SIGPIPE):  # by Python, and so by what it starts
        signal.signal(ignored, signal.SIG_DFL)
    for what, most in _LIMITS.items():
        resource.setrlimit(what, (most, most))
    if os.geteuid() == 0:
        nobody = pwd.getpwnam(_NOBODY)
        os.setgroups([])
        os.setgid(nobody.pw_gid)
        os.setuid(nobody.pw_uid)
    os.umask(0o077)
    os.execve(argv[0], argv, _ENVIRONMENT)


if __name__ == "__main__":
    main()
