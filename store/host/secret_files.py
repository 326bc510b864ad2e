"""The files and variables of the host that may hold secrets, and where they are."""

from collections.abc import Sequence
from pathlib import Path

from statemachine.errors import InvalidManifest, Unprepared
from store.host.system_paths import SECRETS

DIRECTORIES = SECRETS
PREFIX = "DCD_SECRET_"
"""The beginning of the names of variables of the daemon's environment that hold secrets."""

MAX_BYTES = 64 * 1024


def secret_file(path: Path, directories: Sequence[Path] = DIRECTORIES) -> Path:
    """The real path of a file that holds a secret, such as a key. Raises InvalidManifest for one that is
    not below the directories, Unprepared for one that does not exist."""
    try:
        real = path.resolve(strict=True)
    except OSError as failure:
        raise unreadable(path, failure, directories) from None
    if not is_among_secrets(real, directories):
        raise InvalidManifest(
            f"the file {path} may not be read for a secret",
            f"Secrets are read from below {', '.join(map(str, directories))}.",
            "put the secret into a file there",
        )
    return real


def is_among_secrets(real: Path, directories: Sequence[Path] = DIRECTORIES) -> bool:
    """Whether a path without links is below one of the directories."""
    return any(real.is_relative_to(directory.resolve()) for directory in directories)


def unreadable(path: Path, failure: OSError, directories: Sequence[Path]) -> Unprepared:
    """The error for a secret that cannot be read."""
    return Unprepared(
        f"the secret {path} cannot be read: {failure.strerror}",
        "The manifest refers to it.",
        f"create it below {', '.join(map(str, directories))}, readable by the daemon only",
    )
