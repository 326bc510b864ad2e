"""The file of a signing key: an Ed25519 key in PEM (PKCS #8), which only its owner can read.

Only the signer reads it. The checks here see its mode and its owner, not its content. Source: RFC 8410.
"""

import os
import stat
from collections.abc import Iterable
from importlib.util import find_spec
from io import BufferedReader
from pathlib import Path

from statemachine.errors import DcdError, Unprepared
from store.host.regular import open_regular
from store.host.secret_files import DIRECTORIES, is_among_secrets

LIBRARIES = ("securesystemslib", "cryptography")
"""The modules of the extra `dcd[sign]`."""

INSTALL = "install dcd with its extra: pip install 'dcd[sign]'"


class BadKey(DcdError):
    """A file that cannot be a signing key: missing, readable by others, of another owner, no key."""

    problem = "bad-key"


def require_library() -> None:
    """Raise Unprepared without the library that signs."""
    if not can_sign():
        missing = ", ".join(name for name in LIBRARIES if find_spec(name) is None)
        raise Unprepared(
            "products cannot be signed here", f"the Python package {missing} is missing", INSTALL
        )


def can_sign() -> bool:
    """Whether the library that signs is installed."""
    return all(find_spec(name) is not None for name in LIBRARIES)


def open_key(path: Path) -> BufferedReader:
    """The key's file, open, unless somebody else could have read or replaced it. Raises BadKey."""
    if not path.is_absolute():
        raise BadKey(
            f"{path} is not the path of a signing key",
            "the setting signing_key must be an absolute path",
            "write the path from the root directory",
        )
    try:
        file = open_regular(path)
    except OSError as error:
        raise BadKey(
            f"the signing key {path} cannot be opened",
            error.strerror or str(error),
            f"make one as root: dcd key new {path}",
        ) from None
    status = os.fstat(file.fileno())
    mode = stat.S_IMODE(status.st_mode)
    wrong = ""
    if status.st_uid not in (0, os.geteuid()):
        wrong, remedy = (f"it belongs to the user number {status.st_uid}", f"chown root {path}")
    elif mode & 0o177:
        wrong, remedy = f"its mode is {mode:04o}, so others may have read it", f"chmod 0600 {path}"
    if wrong:
        file.close()
        raise BadKey(
            f"the signing key {path} is not safe",
            wrong,
            f"{remedy}; if somebody may have read it, make a new one: dcd key new FILE",
        )
    return file


def check_key(path: Path, shown: Iterable[Path] = ()) -> None:
    """Raise BadKey for a file that cannot be a signing key, or that a manifest can refer to: as a secret, or
    below one of the paths `shown` to workers."""
    open_key(path).close()
    real = path.resolve()
    if is_among_secrets(real):
        raise BadKey(
            f"the signing key {path} is among the secrets that manifests use",
            f"manifests can name files below {', '.join(map(str, DIRECTORIES))}",
            "move it to another directory, such as /etc/dcd",
        )
    for place in shown:
        if real.is_relative_to(place.resolve()):
            raise BadKey(
                f"the signing key {path} is shown to checkpoints",
                f"it is below {place} of the setting worker_paths",
                "move it to another directory, such as /etc/dcd",
            )
