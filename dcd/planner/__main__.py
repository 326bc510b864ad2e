"""`python -m dcd.planner FD [CONFINEMENT]`: the process from which planners are forked.

FD is its end of a socket shared with the daemon. With CONFINEMENT (see `dcd.planner.command`) it is root, and
gives that up before it imports anything but the standard library and `store.host`.
"""

import os
import socket
import sys
from importlib import import_module

from dcd.planner import confinement
from dcd.planner.command import parse


def main() -> None:
    """Give up root, and serve until the daemon ends."""
    descriptor, *confined = sys.argv[1:]
    control = socket.socket(fileno=int(descriptor))
    reach = confinement.confine(*parse(confined[0])) if confined else None
    import_module("dcd.planner.forker").serve(control, reach)
    os._exit(0)  # nothing is to be tidied up, and the daemon waits


if __name__ == "__main__":
    main()
