"""Passwords of an image's accounts: hashed on the build host and written into the image's shadow(5).

No program of the image takes part and sees a password: the author of a manifest chooses these programs, and
the password may be a secret of the server. Source: passwd(5), shadow(5).
"""

import os
from pathlib import Path

from dcd.manifest.forms import PASSWORD_HASH
from dcd.manifest.objects.configuration import Password, User
from dcd.manifest.secrets import password_text
from dcd.manifest.values import BadValue
from dcd.platform.inside import read, resolve, write
from dcd.platform.password_hash import hashed
from statemachine.errors import CheckpointError

_SHADOW, _PASSWD, _GROUP = "etc/shadow", "etc/passwd", "etc/group"
_DAY_SECONDS = 86400
_FIELDS = 9
"""The number of fields of a line of shadow(5)."""
_AGES = ("0", "99999", "7", "", "", "")
"""The other fields of a new line, as in Debian's login.defs."""


def password_hash(user: User, password: Password, epoch: int) -> str:
    """The crypt(5) hash of the password of an account: the password itself if it is declared as hashed, else
    made with a salt from the Unix time `epoch`. Raises `CheckpointError`, without repeating the password."""
    secret = password_text(password, os.environ)
    if not secret or "\n" in secret:
        raise CheckpointError(
            f"the password of {user.name} is empty or has more than one line",
            f"it was read from {password.file or password.env}",
            "correct it, then resume the build",
        )
    try:
        if not password.hashed:
            return hashed(secret, f"{epoch}\0{user.name}")
        PASSWORD_HASH.check(secret)
    except BadValue:
        raise CheckpointError(
            f"the password of {user.name} is no crypt(5) hash",
            "the manifest declares it as hashed",
            "make one with `openssl passwd -6`, or leave out hashed",
        ) from None
    except CheckpointError as error:
        brief = f"the password of {user.name} could not be set"
        raise CheckpointError(brief, error.details, error.resolution) from None
    return secret


def set_password(root: Path, user: User, password: Password, epoch: int) -> None:
    """Set the password of an account of the image, changed at the Unix time `epoch`. Raises
    `CheckpointError`, without repeating the password."""
    value = password_hash(user, password, epoch)
    _require_shadow(root, user.name)
    _write_shadow(root, user.name, value, str(epoch // _DAY_SECONDS))


def _require_shadow(root: Path, name: str) -> None:
    """Make the account's line of passwd(5) refer to shadow(5)."""
    lines = (read(root, _PASSWD) or "").split("\n")
    for number, line in enumerate(lines):
        fields = line.split(":")
        if fields[0] == name and len(fields) > 1:
            if fields[1] != "x":
                lines[number] = ":".join([name, "x", *fields[2:]])
                _replace(root, _PASSWD, "\n".join(lines), 0o644, (0, 0))
            return
    raise CheckpointError(
        f"the image has no account {name}",
        "it is not in /etc/passwd, although useradd has made it",
        "check the image's useradd",
    )


def _write_shadow(root: Path, name: str, value: str, day: str) -> None:
    lines = [line for line in (read(root, _SHADOW) or "").split("\n") if line]
    for number, line in enumerate(lines):
        fields = line.split(":")
        if fields[0] == name:
            rest = (*fields[3:], *("" for _ in range(_FIELDS - max(3, len(fields)))))
            lines[number] = ":".join((name, value, day, *rest))
            break
    else:
        lines.append(":".join((name, value, day, *_AGES)))
    _replace(root, _SHADOW, "\n".join(lines) + "\n", 0o640, (0, _shadow_group(root)))


def _shadow_group(root: Path) -> int:
    """The id of the image's group `shadow`, else root's."""
    for line in (read(root, _GROUP) or "").splitlines():
        fields = line.split(":")
        if fields[0] == "shadow" and len(fields) > 2 and fields[2].isdecimal():
            return int(fields[2])
    return 0


def _replace(root: Path, path: str, text: str, mode: int, owner: tuple[int, int]) -> None:
    """Write a file again with its own mode and owner; those given are for a new file."""
    file = resolve(root, path)
    if file.is_file():
        status = file.stat()
        mode, owner = status.st_mode & 0o7777, (status.st_uid, status.st_gid)
    content = text.encode("utf-8", "surrogateescape")
    write(root, str(file.relative_to(root)), content, mode=mode, owner=owner)
