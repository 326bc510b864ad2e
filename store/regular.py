"""Opening files that somebody else made: only regular ones, through no link, without waiting.

A name in a workspace, or in what came out of one, can be a link to a file of the host, or a FIFO or
device that keeps whoever opens it. Source: open(2), O_NOFOLLOW and O_NONBLOCK.
"""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path


def open_regular(path: Path) -> BufferedReader:
    """The regular file at `path`, open for reading. Links on the way to the last name are followed, so the
    directory has to be one that is trusted. Raises OSError, also for what is no regular file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        # A link, a socket, a device without a driver.
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.ENODEV):
            raise _not_regular(path) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_regular(path)
    return os.fdopen(descriptor, "rb")


def _not_regular(path: Path) -> OSError:
    return OSError(errno.EINVAL, "not a regular file", str(path))
