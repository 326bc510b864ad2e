"""A program that runs beside its caller: started, and killed when its context ends."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from store.host import tools

DIES_WITH_CALLER = ("setpriv", "--pdeathsig", "KILL")
"""Prefix of a command: the kernel kills the program when the thread that started it ends (Linux)."""


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
