"""Accounts of an image of illumos, in its passwd(5) and shadow(5): no program of the image runs.

Source: passwd(5), shadow(5), user_attr(5) of illumos; the original's use of pkg's PasswordFile.
"""

import os
import re
from pathlib import Path

from dcd.manifest.objects.configuration import Password, User
from dcd.manifest.secrets import password_text
from dcd.platform.inside import make_directory, may_set_owners, read, resolve, write
from dcd.platform.password_hash import hashed
from statemachine.errors import CheckpointError

_PASSWD, _SHADOW = "etc/passwd", "etc/shadow"
_STAFF = 10
"""The group `staff`, the first one of users."""
_FIRST_UID = 100
_LOCKED = "*LK*"
_LOGIN_NOT_POSSIBLE = "NP"
"""No password opens the account, but it can be used, unlike a locked one."""


def set_root_password(image: Path, password: str, *, is_hash: bool, epoch: int) -> None:
    """Set the password of root. Raises `CheckpointError` for an image without root."""
    value = password if is_hash else hashed(password, f"{epoch}\0root")
    _set_field(image, "root", value)


def apply_user(image: Path, user: User, epoch: int) -> None:
    """Make an account, or change the existing one."""
    lines = (read(image, _PASSWD) or "").splitlines()
    if not any(line.split(":")[0] == user.name for line in lines):
        _add(image, lines, user)
    password = user.get_first_child(class_type=Password)
    if password is not None:
        _set_field(image, user.name, _password_value(user.name, password, epoch))


def _add(image: Path, lines: list[str], user: User) -> None:
    taken = {int(fields[2]) for line in lines if _is_entry(fields := line.split(":"))}
    free = next(number for number in range(_FIRST_UID, 1 << 31) if number not in taken)
    uid = free if user.uid is None else user.uid
    home, shell = user.home or f"/export/home/{user.name}", user.shell or "/usr/bin/bash"
    full_name = user.full_name or ""
    lines.append(f"{user.name}:x:{uid}:{_STAFF}:{full_name}:{home}:{shell}")
    _replace(image, _PASSWD, lines, 0o644)
    shadow = (read(image, _SHADOW) or "").splitlines()
    _replace(image, _SHADOW, [*shadow, f"{user.name}:{_LOGIN_NOT_POSSIBLE}:::::::"], 0o400)
    directory = make_directory(image, home)
    if may_set_owners():
        os.chown(directory, uid, _STAFF)


def _is_entry(fields: list[str]) -> bool:
    return len(fields) == 7 and re.fullmatch("[0-9]{1,10}", fields[2]) is not None


def _password_value(name: str, password: Password, epoch: int) -> str:
    if password.locked:
        return _LOCKED
    secret = password_text(password, os.environ)
    return secret if password.hashed else hashed(secret, f"{epoch}\0{name}")


def _set_field(image: Path, name: str, value: str) -> None:
    """Set the password field of shadow(5); the others stay."""
    lines = (read(image, _SHADOW) or "").splitlines()
    for number, line in enumerate(lines):
        fields = line.split(":")
        if fields[0] == name and len(fields) > 1:
            lines[number] = ":".join((name, value, *fields[2:]))
            _replace(image, _SHADOW, lines, 0o400)
            return
    raise CheckpointError(
        f"the image has no account {name}",
        f"it is not in /{_SHADOW}",
        "add the package with the accounts of the system to the transfer (system/core-os, SUNWcs)",
    )


def _replace(image: Path, path: str, lines: list[str], mode: int) -> None:
    """Write a file again with its own mode and owner; `mode` is for a new file."""
    owner = (0, 3)
    file = resolve(image, path)
    if file.is_file():
        status = file.stat()
        mode, owner = status.st_mode & 0o7777, (status.st_uid, status.st_gid)
    content = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
    write(image, path, content, mode=mode, owner=owner)
