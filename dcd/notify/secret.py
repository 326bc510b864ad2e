"""The file of a webhook's key: mode 0600, of root or of the daemon's user.

A key of root is read before the daemon gives up root, and kept in memory; its later change needs a restart.
"""

import os
import stat
from pathlib import Path

from dcd.configuration import Configuration
from dcd.notify.message import key_of
from statemachine.errors import DcdError, Unprepared
from store.host.regular import open_regular
from store.host.secret_files import DIRECTORIES, is_among_secrets

LEAST_BYTES = 16
MOST_BYTES = 4096

MAKE = "openssl rand -base64 32 | install -m 0600 /dev/stdin FILE"


def read_key(path: Path) -> bytes:
    """The key in a file that only its owner can read. Raises Unprepared."""
    try:
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise _bad(path, f"cannot be read: {error.strerror or error}") from None
    if status.st_uid not in (0, os.geteuid()):
        raise _bad(path, f"belongs to the user number {status.st_uid}")
    if stat.S_IMODE(status.st_mode) & 0o177:
        raise _bad(
            path, f"has the mode {stat.S_IMODE(status.st_mode):04o}, so others may have read it"
        )
    if is_among_secrets(path.resolve()):
        raise _bad(path, f"is below {DIRECTORIES[0]}, whose files manifests may name")
    try:
        key = key_of(content)
    except ValueError:
        raise _bad(path, "has something other than Base64 after whsec_") from None
    if not LEAST_BYTES <= len(key) <= MOST_BYTES:
        raise _bad(path, f"has a key of {len(key)} bytes; at least {LEAST_BYTES} are needed")
    return key


def read_keys(settings: Configuration) -> dict[Path, bytes]:
    """The keys of all webhooks by their files, without those that cannot be used."""
    found = {}
    for path in dict.fromkeys(hook.secret for hook in settings.notify):
        try:
            found[path] = read_key(path)
        except DcdError:
            continue  # reported when the hook starts
    return found


def files_of_hooks(settings: Configuration) -> list[Path]:
    """The files that webhooks need: keys and certificates."""
    named = [path for hook in settings.notify for path in (hook.secret, hook.ca)]
    return list(dict.fromkeys(filter(None, named)))


def _bad(path: Path, what: str) -> Unprepared:
    return Unprepared(
        f"the secret {path} {what}",
        "it signs the deliveries of a webhook",
        f"make one: {MAKE}; give it to the daemon's user, or restart the daemon, which reads it as root",
    )
