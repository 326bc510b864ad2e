"""Passwords of an image's accounts: hashed on the build host and written into the image's shadow(5).

No program of the image takes part, so none gets to see a password: who submits a manifest brings these
programs, and a password may be one that the server lends. Source: passwd(5), shadow(5).
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
"""Of a line of shadow(5)."""
_AGES = ("0", "99999", "7", "", "", "")
"""Of a new line: what Debian's login.defs has for a new account."""


def set_password(root: Path, user: User, password: Password, epoch: int) -> None:
    """Set the password of an account of the image, changed at the Unix time `epoch`. Raises
    `CheckpointError`, without repeating the password."""
    secret = password_text(password, os.environ)
    if not secret or "\n" in secret:
        raise CheckpointError(
            f"the password of {user.name} is empty or has more than one line",
            f"it was read from {password.file or password.env}",
            "correct it, then resume the build",
        )
    value = _given_hash(user, secret) if password.hashed else _made_hash(user, secret, epoch)
    _require_shadow(root, user.name)
    _write_shadow(root, user.name, value, str(epoch // _DAY_SECONDS))


def _given_hash(user: User, text: str) -> str:
    try:
        PASSWORD_HASH.check(text)
    except BadValue:
        raise CheckpointError(
            f"the password of {user.name} is no crypt(5) hash",
            "it is said to be hashed",
            "make one with `openssl passwd -6`, or leave out hashed",
        ) from None
    return text


def _made_hash(user: User, secret: str, epoch: int) -> str:
    try:
        return hashed(secret, f"{epoch}\0{user.name}")
    except CheckpointError as error:
        raise CheckpointError(
            f"the password of {user.name} could not be set", error.details, error.resolution
        ) from None


def _require_shadow(root: Path, name: str) -> None:
    """Have the account's line of passwd(5) lead to shadow(5)."""
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
        "look at what the image's useradd does",
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
    """Write a file anew, with the mode and owner that it has; those given are for one that is not there."""
    there = resolve(root, path)
    if there.is_file():
        status = there.stat()
        mode, owner = status.st_mode & 0o7777, (status.st_uid, status.st_gid)
    content = text.encode("utf-8", "surrogateescape")
    write(root, str(there.relative_to(root)), content, mode=mode, owner=owner)
