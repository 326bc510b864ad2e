"""Secrets by reference: a manifest names where the daemon finds a secret, and never holds it.

`<password file="/etc/dcd/secrets/live"/>` names a file, `<password env="DCD_SECRET_LIVE"/>` a variable of the
daemon's environment. Only the reference is stored and logged; the worker reads the value just before its use.
Keys have a digest of it that only the daemon can make (`dcd.engine.secret_digests`). A manifest must not make
root read any file of the host: files must be below `DIRECTORIES`, and variables begin with `PREFIX`.

The owner of a secret's file may use it, and the members of its group if the group may read it. The setting
`secret_users` lends files and variables to others. Root may use all. `Borrower.may_use` decides before
anything opens a secret.
"""

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dcd.manifest.objects import Password
from statemachine.errors import DcdError, InvalidManifest, PermissionDenied, Unprepared
from store.host.secret_files import DIRECTORIES, MAX_BYTES, PREFIX, secret_file, unreadable


@dataclass(frozen=True, slots=True)
class Borrower:
    """A user of this host whose manifest names secrets, with the ids and names of its groups. `lent` are
    entries of `secret_users`: `SECRET=USER` and `SECRET=@GROUP`."""

    uid: int
    user: str
    gids: tuple[int, ...] = ()
    groups: tuple[str, ...] = ()
    lent: tuple[str, ...] = ()

    def may_use(self, name: str, directories: Sequence[Path] = DIRECTORIES) -> bool:
        """Whether this user may use the secret, a file or a variable. Opens nothing. A link elsewhere on the
        host gives nothing, nor does a name in a directory that others than root change: after this they could
        lead it to another secret."""
        names = {self.user, *(f"@{group}" for group in self.groups)}
        if any(f"{name}={who}" in self.lent for who in names):
            return True
        path = Path(name)
        place = next((each for each in directories if path.is_relative_to(each)), None)
        if place is None or ".." in path.parts:
            return False
        try:
            real = secret_file(path, directories)
            status, places = real.stat(), (place, place.resolve())
            above = {*path.parents, *real.parents}
            inside = [each for each in above if any(map(each.is_relative_to, places))]
            if any(map(_others_change, inside)):
                return False
        except (DcdError, OSError):
            return False
        group_reads = bool(status.st_mode & stat.S_IRGRP)
        return status.st_uid == self.uid or (group_reads and status.st_gid in self.gids)


def _others_change(directory: Path) -> bool:
    """Whether others than root, or the user of a daemon without root, may change a directory."""
    status = directory.stat()
    return status.st_uid not in (0, os.geteuid()) or bool(status.st_mode & 0o022)


def require_use(borrower: Borrower | None, secrets: Iterable[str]) -> None:
    """Raise PermissionDenied for a secret that the borrower may not use (None: root, who may use all),
    whether it exists or not."""
    for name in secrets:
        if borrower is not None and not borrower.may_use(name):
            raise PermissionDenied(
                f"{borrower.user} may not use the secret {name}",
                "A secret may be used by root, the owner of its file, the members of the file's group if the "
                "group may read it, and the users in the setting `secret_users`.",
                "ask an administrator to give the file a group that you are in (chgrp GROUP, chmod 0640), "
                f'or to add "{name}={borrower.user}" to `secret_users` and reload the daemon',
            )


class Reference(Protocol):
    """An element that refers to a secret."""

    @property
    def file(self) -> str | None:
        """The file with it."""

    @property
    def env(self) -> str | None:
        """The variable with it."""


def references(elements: Iterable[Reference]) -> tuple[str, ...]:
    """The files and variables that elements refer to, as `Needs.secrets` names them."""
    return tuple(name for each in elements if (name := each.file or each.env))


def password_text(
    password: Password,
    environment: Mapping[str, str],
    directories: Sequence[Path] = DIRECTORIES,
) -> str:
    """The password, or its hash, as text. Raises as `reference_text`."""
    if password.file is None and password.env is None:
        return password.text
    return reference_text(password, environment, directories)


def reference_text(
    reference: Reference,
    environment: Mapping[str, str],
    directories: Sequence[Path] = DIRECTORIES,
) -> str:
    """The secret as text, without the newline at a file's end. Raises InvalidManifest for a reference that is
    not allowed, Unprepared for a secret that cannot be read."""
    if reference.file is not None:
        return secret_text(Path(reference.file), directories)
    name = reference.env or ""
    if not name.startswith(PREFIX):
        raise InvalidManifest(
            f"the variable {name!r} may not be read for a secret",
            "",
            f"name one that begins with {PREFIX}",
        )
    if name not in environment:
        raise Unprepared(
            f"the daemon's environment has no variable {name!r}",
            "The manifest refers to it for a secret.",
            "set it for the service, for example by EnvironmentFile=",
        )
    return environment[name]


def secret_text(path: Path, directories: Sequence[Path] = DIRECTORIES) -> str:
    """The text of a file that holds a secret, without the newline at its end. Raises as `password_text`."""
    real = secret_file(path, directories)
    try:
        with os.fdopen(os.open(real, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as failure:
        raise unreadable(path, failure, directories) from None
    if len(content) > MAX_BYTES:
        raise Unprepared(f"the secret {path} is too big", f"At most {MAX_BYTES} bytes are read.")
    try:
        return content.decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise Unprepared(f"the secret {path} is not text in UTF-8") from None
