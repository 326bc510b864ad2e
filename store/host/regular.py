"""Opening files that somebody else made or named: only regular ones, without waiting, up to a size.

A name in a workspace, in what came out of one, or in a manifest can be a link to a file of the host, a FIFO
that keeps whoever opens it, or a device that has no end or does something when it is opened. So nothing is
read before it is known to be a regular file, and nothing beyond the limit.

Source: open(2), O_NOFOLLOW and O_NONBLOCK; fstat(2).
"""

import errno
import hashlib
import os
import stat
from io import BufferedReader
from pathlib import Path

_CHUNK_BYTES = 1024 * 1024


def open_regular(path: Path, *, follow: bool = False) -> BufferedReader:
    """The regular file at `path`, open for reading. Links on the way to the last name are followed, so the
    directory has to be one that is trusted; with `follow` also one in the last place. Raises OSError, also
    for what is no regular file (`EINVAL`)."""
    links = 0 if follow else os.O_NOFOLLOW
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | links
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        # A link, a socket, a device without a driver.
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.ENODEV):
            raise _not_regular(path) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_regular(path)
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, most_bytes: int, *, follow: bool = False) -> bytes:
    """The content of a regular file. Raises OSError as `open_regular`, and (`EFBIG`) for one of more than
    `most_bytes`."""
    with open_regular(path, follow=follow) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise _too_large(path, most_bytes)
    return content


def digest_regular(path: Path, most_bytes: int, *, follow: bool = False) -> str:
    """sha256 (hex) of a regular file, read in pieces. Raises as `read_regular`."""
    digest = hashlib.sha256()
    left = most_bytes
    with open_regular(path, follow=follow) as file:
        if os.fstat(file.fileno()).st_size > most_bytes:
            raise _too_large(path, most_bytes)
        while chunk := file.read(_CHUNK_BYTES):
            left -= len(chunk)
            if left < 0:
                raise _too_large(path, most_bytes)
            digest.update(chunk)
    return digest.hexdigest()


def _not_regular(path: Path) -> OSError:
    return OSError(errno.EINVAL, "not a regular file", str(path))


def _too_large(path: Path, most_bytes: int) -> OSError:
    return OSError(errno.EFBIG, f"larger than {most_bytes} bytes", str(path))
