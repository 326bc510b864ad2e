"""`python -m dcd.worker FD`: a worker that is not forked from a zygote.

It is the first process of a PID namespace; FD is for its messages. See `dcd.worker.first_process`, and
`dcd.worker.supervisor` for workers without one.
"""

import os
import sys
from typing import NoReturn

from dcd.worker.stream import take_stream


def main() -> NoReturn:
    """Run one attempt."""
    if os.getpid() != 1:
        sys.exit("dcd.worker is started by the daemon, as the first process of a PID namespace")
    stream = take_stream()
    # Imported here: outside of a namespace nothing of it is needed.
    from dcd.worker.first_process import be_first

    be_first(stream, int(sys.argv[1]))


if __name__ == "__main__":
    main()
