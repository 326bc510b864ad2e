"""Extended attributes, on systems whose Python has functions for them: Linux. Elsewhere a file has none here.

Source: xattr(7); Python's os.listxattr.
"""

import errno
import os


def names_of_attributes(path: str | os.PathLike[str]) -> list[str]:
    """The names of the attributes of an entry itself; none where the system or the file system has none.
    Raises OSError."""
    if not hasattr(os, "listxattr"):
        return []
    try:
        return os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
            return []
        raise


def attributes_of(path: str | os.PathLike[str]) -> dict[str, bytes]:
    """The attributes of an entry itself. Raises OSError."""
    return {
        name: os.getxattr(path, name, follow_symlinks=False) for name in names_of_attributes(path)
    }
