"""`python -m dcd.worker.shell REQUEST [--image] [COMMAND...]`: a shell in a temporary workspace.

`dcctl shell` starts it as the first process of a PID namespace, in a mount namespace, on the user's
terminal, with the daemon's `ShellRequest` in JSON. It enters the workspace, prepares the image for
chroot(8), runs the command (default: $SHELL) as root with the areas' paths in its environment, and ends
with it; all processes and mounts of the shell end at the same time. The daemon then removes the workspace.
`MARKER` is in its environment from the start, so that the daemon finds leftover processes.

With `--image` the command is one of the image, which others may have made: it runs there with the
capabilities for files, without network and devices, and sees nothing of the caller's environment.
"""

import os
import signal
import stat
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from dcd.platform.chroot import Inside, chroot, enter_image
from dcd.worker.areas import make_areas
from dcd.worker.messages import decode_shell
from dcd.worker.request import ShellRequest
from statemachine.errors import DcdError, PermissionDenied
from store.host.capabilities import FILES
from store.host.kernel_scopes import leave_session_keyring
from store.host.mounts import bind_without_devices
from store.host.system_calls import compile_filter, compile_unreachable_filter, install
from store.host.tools import TOOL_PATH
from store.layers.choose import open_store

CANNOT_RUN = 126
"""Exit status when the command cannot be run, as in shells."""

IN_IMAGE = "--image"
SHELLS = ("/bin/bash", "/bin/sh")
"""Those of an image, in the order in which they are tried."""

_OF_TERMINALS = ("TERM", "LANG", "LC_ALL", "LC_CTYPE", "PS1", "PROMPT_COMMAND")
"""The variables that programs of an image get."""


def main(arguments: Sequence[str]) -> int:
    """Run the shell. Returns its exit status, or 128 plus the number of the signal that ended it."""
    if os.getpid() != 1:
        print("dcd.worker.shell is started by dcctl shell", file=sys.stderr)
        return 1
    request, command = decode_shell(arguments[0]), list(arguments[1:])
    in_image = command[:1] == [IN_IMAGE]
    # Ctrl-C is meant for the command.
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    try:
        _require_workspace(request)
        with ExitStack() as entered:
            store = open_store(request.workspace.backend, request.layers)
            root = entered.enter_context(store.enter(request.workspace))
            make_areas(root)
            image = root / "pkg_image"
            if in_image:
                bind_without_devices(image)
            if in_image or Inside(image).has("/bin/sh"):
                entered.enter_context(chroot(image))
            if in_image:
                return _wait_for(_start(lambda: _become_inside(image, command[1:])))
            return _wait_for(_start(lambda: _become(root, command)))
    except (DcdError, OSError) as error:
        print(f"dcd: {error}", file=sys.stderr)
        return 1


def _require_workspace(request: ShellRequest) -> None:
    """Raise PermissionDenied for what is no workspace of a layer store that only root changes: the request
    comes from a process without rights, and this one has those of root."""
    workspace, layers = request.workspace, request.layers
    place = layers / workspace.backend / ".work" / workspace.name
    paths = (workspace.root, workspace.document, *workspace.parents)
    allowed = (
        ".." not in place.parts
        and workspace.directory == place
        and all(path.is_relative_to(layers) and ".." not in path.parts for path in paths)
        and all(
            _is_roots(each) for each in (layers, layers / workspace.backend, place.parent, place)
        )
    )
    if not allowed:
        raise PermissionDenied(
            f"{workspace.directory} is not a workspace",
            f"a shell is opened in a directory below {layers}, which only root may change",
        )


def _is_roots(directory: Path) -> bool:
    status = directory.lstat()
    closed = not stat.S_IMODE(status.st_mode) & 0o022
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and closed


def _start(become: Callable[[], NoReturn]) -> int:
    child = os.fork()
    if child == 0:
        _take_terminal()
        become()
    return child


def _take_terminal() -> None:
    if os.isatty(0):
        # The terminal's foreground group is outside this namespace, so no shell here could restore it.
        os.setpgid(0, 0)
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        os.tcsetpgrp(0, os.getpgrp())
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTTOU):
        signal.signal(number, signal.SIG_DFL)


def _become(root: Path, command: Sequence[str]) -> NoReturn:
    environment = {
        **os.environ,
        "PATH": TOOL_PATH,
        "PKG_IMAGE_PATH": str(root / "pkg_image"),
        "BOOT_ARCHIVE": str(root / "boot_archive"),
        "MEDIA_DIR": str(root / "media"),
        "TMP_DIR": str(root / "tmp"),
    }
    argv = list(command) or [os.environ.get("SHELL", "/bin/sh")]
    os.chdir(root)
    _run_first([argv], environment)


def _become_inside(image: Path, command: Sequence[str]) -> NoReturn:
    environment = {name: os.environ[name] for name in _OF_TERMINALS if name in os.environ}
    environment |= {"HOME": "/root", "PATH": TOOL_PATH}
    leave_session_keyring()
    enter_image(image)
    machine = os.uname().machine
    for program in (
        compile_filter(machine, FILES, network=False),
        compile_unreachable_filter(machine, unix=False),
    ):
        if program:
            install(program)
    _run_first([list(command)] if command else [[shell] for shell in SHELLS], environment)


def _run_first(commands: Sequence[list[str]], environment: dict[str, str]) -> NoReturn:
    """Become the first of the commands that can be run."""
    reason = ""
    for argv in commands:
        try:
            os.execvpe(argv[0], argv, environment)
        except OSError as error:
            reason = f"dcd: cannot run {argv[0]}: {error.strerror}"
    if len(commands) > 1:
        reason = f"dcd: the image has no shell that runs: {' and '.join(SHELLS)} do not"
    print(reason, file=sys.stderr)
    os._exit(CANNOT_RUN)


def _wait_for(child: int) -> int:
    """Reap all processes, as the first one of a namespace must, until the child ends."""
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
