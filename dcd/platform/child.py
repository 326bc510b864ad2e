"""A program that runs beside its caller: started, and killed when its context ends.

A program that would outlive a killed caller dies with it: on Linux by the kernel's signal, elsewhere with the
other processes of the attempt (`dcd.worker.supervisor`).
"""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from store.host import tools


def dies_with_caller() -> tuple[str, ...]:
    """The prefix of a command: the kernel kills the program when the thread that started it ends. Empty
    without setpriv(1), as on illumos."""
    return ("setpriv", "--pdeathsig", "KILL") if not tools.missing(["setpriv"]) else ()


@contextmanager
def running(argv: Sequence[str | Path], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program for the duration of the context; `options` as for `subprocess.Popen`. Raises Unprepared
    when it cannot be started."""
    try:
        process = subprocess.Popen(argv, **options)
    except OSError as error:
        raise tools.cannot_start(error) from error
    try:
        yield process
    finally:
        process.kill()
        process.wait()
