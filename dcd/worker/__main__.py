"""`python -m dcd.worker FD`: a worker that is not forked from a zygote.

It is the first process of a PID namespace; FD is for its messages. See `dcd.worker.first_process`, and
`dcd.worker.supervisor` for workers without one.
"""

import os
import sys
from typing import NoReturn

from dcd.worker.first_process import be_first


def main() -> NoReturn:
    """Run one attempt."""
    if os.getpid() != 1:
        sys.exit("dcd.worker is started by the daemon, as the first process of a PID namespace")
    be_first(int(sys.argv[1]), _carry_out)


def _carry_out(request: bytes, messages: int, answers: int) -> int:
    # Imported here, so that the first process stays small and starts fast.
    from dcd.worker.attempt import carry_out

    return carry_out(request, messages, answers)


if __name__ == "__main__":
    main()
