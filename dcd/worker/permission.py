"""Whether this host lets the daemon's user make the namespaces of workers, and what to change where it does
not.

Root needs CAP_SYS_ADMIN, which containers take away. Other users need a user namespace, which the kernel
refuses them in a chroot, and many hosts everywhere.

Standard library and `store.host` only, for the launcher. Source: namespaces(7), user_namespaces(7),
unshare(1); Debian's release notes for kernel.unprivileged_userns_clone, Ubuntu's for AppArmor's restriction.
"""

import os
import subprocess
from pathlib import Path

from statemachine.errors import Unprepared
from store.host import tools
from store.host.capabilities import NEEDS_NAMESPACES
from store.host.forking import patiently
from store.host.tools import TOOL_PATH

_KERNEL = Path("/proc/sys")

_REFUSING = {
    "user.max_user_namespaces": ("0", "15000"),
    "kernel.unprivileged_userns_clone": ("0", "1"),
    "kernel.apparmor_restrict_unprivileged_userns": ("1", "0"),
}
"""Settings of the kernel, each with the value that refuses user namespaces and one that allows them."""


def require_namespaces() -> None:
    """Make the namespaces of a worker for a moment. Blocking. Raises Unprepared when that is not possible,
    and OSError when no process can be started."""
    root = os.geteuid() == 0
    command = ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--mount-proc"]
    command += ["true"] if root else ["--user", "--map-root-user", "true"]
    try:
        tried = patiently(lambda: _run(command))
    except FileNotFoundError as error:
        raise tools.cannot_start(error) from error
    if tried.returncode == 0:
        return
    said = tried.stderr.strip()
    if root:
        raise Unprepared(
            "this host lets root make no namespaces",
            f"checkpoints run in them; {said}",
            NEEDS_NAMESPACES,
        )
    refusing = refusing_settings()
    found = ", ".join(f"{name} is {_REFUSING[name][0]}" for name in refusing)
    allowing = " ".join(f"{name}={_REFUSING[name][1]}" for name in refusing)
    raise Unprepared(
        "this host lets ordinary users make no user namespaces",
        f"a daemon that is not root runs checkpoints in them; {found or said}",
        (
            f"as root: sysctl -w {allowing} (and in /etc/sysctl.d, to keep it)"
            if refusing
            else "in a chroot and in many containers none can be made: run the daemon outside of them"
        )
        + "; or run the daemon as root",
    )


def refusing_settings(kernel: Path = _KERNEL) -> list[str]:
    """The settings of the kernel, below this directory, that refuse user namespaces to ordinary users."""
    return [
        name
        for name, (refusing, _) in _REFUSING.items()
        if (file := kernel / name.replace(".", "/")).exists()
        and file.read_text().strip() == refusing
    ]


def _run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command,
        env={"PATH": TOOL_PATH, "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
