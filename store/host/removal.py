"""Removing directories that less trusted processes have filled.

A program can nest directories so deep that no path leads to the last one, and that a recursive function comes
to an end of its stack or of its descriptors. rm(1) removes them in any case.
"""

import errno
import shutil
from contextlib import suppress
from pathlib import Path

from statemachine.errors import Unprepared
from store.host.filesystem_tools import run_tool

_TOO_DEEP = (errno.ENAMETOOLONG, errno.EMFILE)


def remove_tree(directory: Path) -> None:
    """Remove a directory with all that is in it, which may change meanwhile; links are not followed. Raises
    OSError, and Unprepared when rm(1) fails."""
    try:
        shutil.rmtree(directory)
    except RecursionError:
        _remove_deep(directory)
    except OSError as error:
        if error.errno not in _TOO_DEEP:
            raise
        _remove_deep(directory)


def try_to_remove_tree(directory: Path) -> None:
    """The same as far as possible, without an error."""
    try:
        shutil.rmtree(directory, ignore_errors=True)
    except RecursionError:
        with suppress(Unprepared):
            _remove_deep(directory)


def _remove_deep(directory: Path) -> None:
    run_tool("removing a directory", "rm", "-rf", "--", directory)
