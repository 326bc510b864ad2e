"""The user as which dcd's unprivileged processes run.

The service has the system user `dcd`. A daemon that root starts on a host without that user, for a
test or for one image, takes a number of its own, from a range that nothing else uses; all files of the state
directory keep it. A daemon that another user starts runs as that user.

Source: credentials(7), capabilities(7); systemd's UIDS-GIDS.md for the range.
"""

import os
import pwd
import zlib
from dataclasses import dataclass
from pathlib import Path

USER = "dcd"

STARTED_BY_ROOT = "DCD_STARTED_BY_ROOT"
"""The variable that root sets for its processes without root."""

_FIRST, _COUNT = 0x7000_0000, 0x0FFF_FFFF
"""The numbers that systemd's documentation leaves to nobody."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A user and group by number; `groups` are its further groups. `separate`: it differs from the user who
    starts the daemon."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    separate: bool = True


def service_identity(state_dir: Path) -> Identity:
    """The identity for the unprivileged processes of the daemon of this state directory."""
    if os.geteuid() != 0:
        return Identity(os.geteuid(), os.getegid(), separate=False)
    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        number = _FIRST + zlib.crc32(os.fsencode(state_dir.resolve())) % _COUNT
        return Identity(number, number)
    return Identity(user.pw_uid, user.pw_gid)


def workers_are_root() -> bool:
    """Whether the workers of this process's daemon run as root: because it runs as root itself, or because
    root started it."""
    return os.geteuid() == 0 or STARTED_BY_ROOT in os.environ
