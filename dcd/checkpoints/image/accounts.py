"""Accounts of an image: users and their groups, made with the image's own tools, and their passwords.

The image's programs get no password (`dcd.checkpoints.image.passwords`). Owners of files are names of the
image, not of the build host.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dcd.checkpoints.image.passwords import set_password
from dcd.manifest.diagnostics import Diagnostic, error
from dcd.manifest.forms import PASSWORD_HASH
from dcd.manifest.objects.configuration import Password, User
from dcd.manifest.values import BadValue
from dcd.platform.chroot import Inside
from dcd.platform.inside import exists, make_directory, may_set_owners, read
from statemachine.errors import CheckpointError

_FIELDS = {"etc/passwd": 7, "etc/group": 4}
"""The fields of a line; lines with fewer, or without a number, are ignored."""


def check_user(user: User) -> Iterator[Diagnostic]:
    """Errors for a password without a value, with several, or with an invalid hash."""
    password = user.get_first_child(class_type=Password)
    if password is None:
        return
    given = [password.text, password.file, password.env]
    count = sum(1 for value in given if value) + password.locked
    if count != 1:
        yield error(
            password.origin,
            f"the password of {user.name} is {'given twice' if count else 'empty'}",
            "",
            "give one of these: its text, file, env, locked",
        )
    if password.hashed and password.text:
        try:
            PASSWORD_HASH.check(password.text)
        except BadValue:
            yield error(
                password.origin,
                f"the password of {user.name} is no crypt(5) hash",
                "",
                "make one with `openssl passwd -6`, or leave out hashed",
            )


def apply_users(inside: Inside, users: Sequence[User], epoch: int) -> None:
    """Create the users that the image does not have, change the others, and set passwords, with the Unix time
    `epoch` as the date of their change."""
    for user in users:
        _require_groups(inside.root, user)
        _apply_user(inside, user)
        password = user.get_first_child(class_type=Password)
        if password is not None and password.locked:
            inside.run(["usermod", "--lock", user.name])
        elif password is not None:
            set_password(inside.root, user, password, epoch)


@dataclass(frozen=True, slots=True)
class Account:
    """An account of the image: numbers and home directory."""

    uid: int
    gid: int
    home: str


def account_of(root: Path, name: str) -> Account | None:
    """The account of that name in the image, or None."""
    fields = _table(root, "etc/passwd").get(name)
    return None if fields is None else Account(int(fields[2]), int(fields[3]), fields[5])


def owner_ids(root: Path, owner: str) -> tuple[int, int]:
    """User and group id of `USER[:GROUP]` (names or numbers) in the image. Without a group, the user's
    own. Raises `CheckpointError` for a name that the image does not have."""
    user, colon, group = owner.partition(":")
    accounts, groups = _table(root, "etc/passwd"), _table(root, "etc/group")
    account = accounts.get(user)
    if user.isdigit():
        account = next((fields for fields in accounts.values() if fields[2] == user), None)
    for kind, name, table in (("user", user, accounts), ("group", group, groups)):
        if name and not name.isdigit() and name not in table:
            raise CheckpointError(
                f"the image has no {kind} {name}",
                f"it is the owner of a file to add: {owner}",
                f"correct the owner, or add the {kind} (or the package that makes it) to the image",
            )
    uid = int(account[2] if account else user)
    if colon:
        return uid, int(group if group.isdigit() else groups[group][2])
    return uid, int(account[3]) if account else uid


def _table(root: Path, path: str) -> dict[str, list[str]]:
    lines = (read(root, path) or "").splitlines()
    least = _FIELDS[path]
    rows = [line.split(":") for line in lines]
    return {row[0]: row for row in rows if len(row) >= least and row[2].isdecimal()}


def _groups(user: User) -> list[str]:
    return user.groups.replace(",", " ").split()


def _require_groups(root: Path, user: User) -> None:
    missing = [name for name in _groups(user) if name not in _table(root, "etc/group")]
    if missing:
        raise CheckpointError(
            f"the image has no group {', '.join(missing)}",
            f"{user.origin or ''} user {user.name} joins it".strip(),
            "correct the name, or add the package that makes the group",
        )


def _apply_user(inside: Inside, user: User) -> None:
    account = _table(inside.root, "etc/passwd").get(user.name)
    options: list[str] = []
    for option, value in (
        ("--comment", user.full_name),
        ("--uid", user.uid),
        ("--home-dir" if account is None else "--home", user.home),
        ("--shell", user.shell),
    ):
        if value is not None:
            options += [option, str(value)]
    if account is not None:
        if user.home is not None and exists(inside.root, account[5]):
            # Its content moves too, unless the new home exists.
            options += [] if exists(inside.root, user.home) else ["--move-home"]
        if groups := _groups(user):
            options += ["--append", "--groups", ",".join(groups)]
        if options:
            inside.run(["usermod", *options, user.name])
        if user.home is not None:
            _make_home(inside.root, user.home, user.uid or int(account[2]), int(account[3]))
        return
    if groups := _groups(user):
        options += ["--groups", ",".join(groups)]
    inside.run(["useradd", "--create-home", *options, user.name])


def _make_home(root: Path, home: str, uid: int, gid: int) -> None:
    """Make the home of an account unless it exists."""
    if exists(root, home):
        return
    directory = make_directory(root, home)
    if may_set_owners():
        os.chown(directory, uid, gid)
