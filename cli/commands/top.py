"""`dcctl top`: show all builds and the log of the chosen one, live.

Show the newest builds, each with a strip of its checkpoints, how much is done, and how long it has
worked and is expected to take; below, the end of the newest log of the chosen build. Keys: j and k
choose a build, Enter shows its checkpoints, l its log, in all of the screen when pressed again; p
pauses it after the running checkpoint, r resumes it, c cancels it after a question; q quits. Without
a terminal, the same as `dcctl list`.
"""

import argparse
import sys

from cli.client import request
from cli.commands import list as listing
from cli.text import is_terminal


def run(args: argparse.Namespace) -> int | None:
    """Show the screen, or list."""
    if args.json or not (is_terminal(sys.stdout) and sys.stdin.isatty()):
        parser = argparse.ArgumentParser()
        listing.configure(parser)
        listing.run(parser.parse_args([], args))
        return None
    request(args.socket, "GET", "/v1/version")  # an error belongs on the ordinary screen
    from cli.top import show  # imports rich, which is needed only for drawing

    return show(args.socket)
