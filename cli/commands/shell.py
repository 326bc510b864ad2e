"""`dcctl shell`: open a shell in a build.

Open a shell, or run a command, as root in a throw-away copy of a workspace: in the state in which
the failed attempt left it, which is kept until the build is resumed or ends; for other builds, or
with --at, after a completed checkpoint. Changes in the copy never affect the build. The
shell is one of the host, and its prompt begins with `(copy of BUILD)`; its environment has
PKG_IMAGE_PATH, BOOT_ARCHIVE, MEDIA_DIR and TMP_DIR. With --chroot it is a shell of the image, in the
image, with the prompt `(image of BUILD)`. Others may have made the image, so its programs have rights to
files only, no network, and none of your environment. The exit code is that of the command. Needs the role
administer, and root.
"""

import argparse
import json
import os
import re
import signal
import sys
from collections.abc import Sequence

from cli.client import ClientError, Json, build_path, exchange
from cli.commands.options import add_build
from cli.text import is_terminal, printable

NAMESPACES = (
    *("setpriv", "--pdeathsig", "SIGKILL"),
    *("unshare", "--mount", "--propagation", "slave", "--pid", "--fork"),
    *("--kill-child=SIGKILL", "--mount-proc"),
)
"""Runs the command in its own mount and PID namespace; all its processes end with dcctl."""

MARKER = "DCD_ATTEMPT"
"""The variable by which the daemon finds the processes of a shell after dcctl was killed."""


def configure(parser: argparse.ArgumentParser) -> None:
    add_build(parser)
    parser.add_argument(
        "--at", metavar="CHECKPOINT", help="the state after this completed checkpoint"
    )
    parser.add_argument("--chroot", action="store_true", help="in the image, with its own programs")
    parser.add_argument(
        "command",
        nargs="*",
        metavar="COMMAND",
        help="after `--`: the command to run instead of a shell",
    )
    parser.command_after_dashes = True  # type: ignore[attr-defined]


def run(args: argparse.Namespace) -> int:
    """Keep the connection open while the shell runs; the workspace is removed when it closes."""
    path = build_path(args.build, "shell")
    content = json.dumps({"at": args.at}).encode()
    headers = {"Content-Type": "application/json"}
    with exchange(args.socket, "POST", path, content=content, headers=headers) as answer:
        workspace = json.loads(answer.readline())
        if is_terminal(sys.stderr) and not args.command:
            _explain(workspace, args.chroot)
        command = [*(["--image"] if args.chroot else []), *args.command]
        return _run_in(workspace, command, "image" if args.chroot else "copy")


def _explain(workspace: Json, in_image: bool) -> None:
    where = printable(f"{workspace['build']} {workspace['place']}, in {workspace['root']}")
    if in_image:
        print(
            f"The image in a throw-away copy of build {where}\n"
            "Its programs have rights to files only, and no network.\n"
            "Exit removes the copy; changes do not affect the build.",
            file=sys.stderr,
        )
        return
    print(
        f"A throw-away copy of build {where}\n"
        "Into the image: dcctl shell --chroot. A chroot typed here gives the programs of the image, which "
        "others may have made, all rights of root.\n"
        "Also set: BOOT_ARCHIVE, MEDIA_DIR, TMP_DIR. Exit removes the copy; changes do not affect the build.",
        file=sys.stderr,
    )


def _prompt(build: str, place: str) -> dict[str, str]:
    """Variables that make shells mark their prompt with the place, `copy` or `image`: PS1 for shells
    without a startup file that sets it, and PROMPT_COMMAND of bash, which runs after its startup files. They
    also apply inside the image."""
    mark = f"({place} of {re.sub('[^a-z0-9]', '', build)})"
    command = f'case $PS1 in *"{mark}"*) ;; *) PS1="{mark} $PS1" ;; esac'
    given = os.environ.get("PROMPT_COMMAND")
    return {"PS1": f"{mark} # ", "PROMPT_COMMAND": f"{given}; {command}" if given else command}


def _run_in(workspace: Json, command: Sequence[str], place: str) -> int:
    request = json.dumps(workspace["request"])
    argv = [*NAMESPACES, sys.executable, "-I", "-m", "dcd.worker.shell", request, *command]
    signals = (signal.SIGINT, signal.SIGQUIT, signal.SIGTTOU)
    before = [signal.signal(number, signal.SIG_IGN) for number in signals]  # for the command only
    in_front = os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp()
    try:
        environment = {
            **os.environ,
            **_prompt(workspace["build"], place),
            MARKER: workspace["marker"],
        }
        child = os.posix_spawnp(argv[0], argv, environment, setsigdef=signals)
        _, status = os.waitpid(child, 0)
        if in_front:  # the shell had taken the terminal
            os.tcsetpgrp(0, os.getpgrp())
    except OSError as error:
        raise ClientError(
            "unprepared",
            f"cannot run {argv[0]}",
            error.strerror or str(error),
            "install util-linux"
            if sys.platform == "linux"
            else "a shell needs Linux namespaces: use one on a Linux host",
        ) from None
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
