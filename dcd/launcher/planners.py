"""The process from which planners are forked: started by root, since it makes a view of the host of its own.

It then gives up root (`dcd.planner.confinement`). It ends when the daemon closes the socket that it was
started with, and is killed when the conversation that asked for it ends. Like a worker's, its parent-death
signal needs the thread that started it.
"""

import os
import select
import socket
import subprocess
from pathlib import Path

from dcd.launcher.orders import Setup
from dcd.launcher.processes import Chain, exit_of
from dcd.planner.command import Sight, command, environment
from store.host.conversation import send
from store.host.forking import end, patiently
from store.host.identity import Identity

END_SECONDS = 5.0
"""The time for the process to end by itself."""


def run_planners(
    conversation: socket.socket, setup: Setup, configured: tuple[Path, ...], asked: tuple[Path, ...],
    control: int,
) -> None:  # fmt: skip
    """Run the process to its end. `control` is its end of the daemon's socket, which this closes;
    `configured` and `asked` are as in `dcd.planner.command.Sight`. Sends an empty result when it has started.
    Raises OSError."""
    identity = Identity(setup.uid, setup.gid, separate=setup.separate)
    sight = Sight(
        blobs=setup.state_dir / "blobs",
        hidden=(setup.state_dir, setup.socket),
        configured=configured,
        asked=asked,
    )
    try:
        process = patiently(
            lambda: Chain(
                command(control, identity, sight),
                env=environment(),
                stdin=subprocess.DEVNULL,
                pass_fds=(control,),
                cwd="/",
                start_new_session=True,
            )
        )
    finally:
        # Else the daemon would not see that the process has ended.
        os.close(control)
    try:
        send(conversation, {"result": None})
        with exit_of(process) as ended:
            # The conversation is readable when the daemon closes it, or has ended.
            awaited = [conversation.fileno(), *([] if ended is None else [ended])]
            select.select(awaited, [], [])
    finally:
        end(process, END_SECONDS)
