"""Opening untrusted files: only regular ones, without blocking, up to a size.

A name in a workspace, in its results, or in a manifest can be a link to a file of the host, a FIFO that
blocks on open, or a device with endless content or side effects on open. So a file is read only after
it is known to be regular, and never beyond the limit.

Source: open(2), O_NOFOLLOW and O_NONBLOCK; fstat(2).
"""

import errno
import hashlib
import os
import stat
from io import BufferedReader
from pathlib import Path

_OF_THE_KERNEL = tuple(map(Path, ("/dev", "/proc", "/run", "/sys")))

_CHUNK_BYTES = 1024 * 1024


def open_regular(path: Path, *, follow: bool = False) -> BufferedReader:
    """The regular file at `path`, open for reading. Links in the parent directories are followed, so
    these have to be trusted; with `follow` also a link in the last component. Raises OSError, with
    `EINVAL` for a file that is not regular."""
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
    """The content of a regular file. Raises OSError as `open_regular`, and with `EFBIG` for a file
    larger than `most_bytes`."""
    with open_regular(path, follow=follow) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise _too_large(path, most_bytes)
    return content


def digest_regular(path: Path, most_bytes: int, *, follow: bool = False) -> str:
    """sha256 (hex) of a regular file, read in chunks. Raises as `read_regular`."""
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


def is_open_to_all(path: Path) -> bool:
    """Whether everybody on this host may read the file, or list the directory, at an absolute path without
    `..`, and enter all directories above it. The root directory and what the kernel shows do not count."""
    try:
        real = path.resolve(strict=True)
        return (
            ".." not in path.parts
            and real != Path("/")
            and not any(real.is_relative_to(place) for place in _OF_THE_KERNEL)
            and all(each.stat().st_mode & stat.S_IXOTH for each in real.parents)
            and bool(real.stat().st_mode & stat.S_IROTH)
        )
    except OSError:
        return False


def _not_regular(path: Path) -> OSError:
    return OSError(errno.EINVAL, "not a regular file", str(path))


def _too_large(path: Path, most_bytes: int) -> OSError:
    return OSError(errno.EFBIG, f"larger than {most_bytes} bytes", str(path))
