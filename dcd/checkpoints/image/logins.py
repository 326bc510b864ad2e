"""Ssh keys and sudo of an image's users.

Keys are added to those that an account has; `.ssh` has mode 0700 and authorized_keys 0600, both owned by the
user, as sshd(8) requires. Rights of sudo are a file in sudoers.d(5) for each user.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dcd.checkpoints.areas import captured_file
from dcd.checkpoints.image.accounts import account_of
from dcd.manifest.diagnostics import Diagnostic, error, warning
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.forms import SSH_KEY
from dcd.manifest.objects.configuration import Configuration, SshKey, Sudo, User
from dcd.manifest.objects.software import Software
from dcd.manifest.values import BadValue
from dcd.platform.inside import exists, make_directory, may_set_owners, read, write
from statemachine.errors import CheckpointError

_SERVERS = r"openssh-server|dropbear(-bin)?|tinysshd|task-ssh-server"
_SUDO = r"sudo(-ldap)?"


def check_logins(doc: DataObjectCache, configuration: Configuration) -> Iterator[Diagnostic]:
    """Errors for keys that are given twice or not at all; warnings where no listed package could use them."""
    packages = {
        re.split(r"[:=/]", name)[0]
        for software in doc.volatile.get_descendants(class_type=Software)
        if software.type == "DEB"
        for name in software.names()
    }
    for user in configuration.get_children(class_type=User):
        keys = user.get_children(class_type=SshKey)
        for key in keys:
            if bool(key.source) == bool(key.text):
                yield error(
                    key.origin,
                    f"this ssh key of {user.name} is {'given twice' if key.source else 'empty'}",
                    "A key is given by its text or by a file.",
                    '<ssh_key source="id_ed25519.pub"/>',
                )
        for found, what, names, package in (
            (keys[:1], "an ssh key", _SERVERS, "openssh-server"),
            (user.get_children(class_type=Sudo), "sudo", _SUDO, "sudo"),
        ):
            if found and packages and not any(re.fullmatch(names, name) for name in packages):
                yield warning(
                    found[0].origin,
                    f"{user.name} has {what}, but no listed package uses it",
                    "Unless another package depends on one that does, it has no effect.",
                    f"<name>{package}</name>",
                )


def apply_logins(root: Path, users: Sequence[User], inputs: Mapping[str, Path]) -> None:
    """Give the users, who exist in the image, their keys and rights. Raises `CheckpointError`."""
    for user in users:
        lines = [
            line for key in user.get_children(class_type=SshKey) for line in key_lines(key, inputs)
        ]
        if lines:
            _authorize(root, user, lines)
        for sudo in user.get_children(class_type=Sudo):
            _allow(root, user, sudo)


def key_lines(key: SshKey, inputs: Mapping[str, Path]) -> list[str]:
    """The keys, a line each. Raises `CheckpointError`."""
    if not key.source:
        return [key.text]
    content = captured_file(inputs, key.source).read_text("utf-8", "replace")
    lines = [line.strip() for line in content.splitlines()]
    found = [line for line in lines if line and not line.startswith("#")]
    for line in found:
        try:
            SSH_KEY.check(line)
        except BadValue as bad:
            raise _no_key(key, f"line {lines.index(line) + 1} is not {bad.expected}") from None
    if not found:
        raise _no_key(key, "the file is empty")
    return found


def _no_key(key: SshKey, why: str) -> CheckpointError:
    return CheckpointError(
        f"{key.source} has no public key for ssh",
        f"{key.origin or ''} {why}".strip(),
        "name a file as ssh-keygen makes it, id_ed25519.pub",
    )


def _authorize(root: Path, user: User, lines: Sequence[str]) -> None:
    account = account_of(root, user.name)
    if account is None:
        raise CheckpointError(f"the image has no user {user.name}", str(user.origin or ""))
    directory = f"{account.home}/.ssh"
    path = f"{directory}/authorized_keys"
    owner = (account.uid, account.gid)
    made = make_directory(root, directory)
    if may_set_owners():
        os.chown(made, *owner)
    made.chmod(0o700)
    present = (read(root, path) or "").splitlines()
    text = "".join(f"{line}\n" for line in dict.fromkeys([*present, *lines]))
    write(root, path, text.encode("utf-8", "surrogateescape"), mode=0o600, owner=owner)


def _allow(root: Path, user: User, sudo: Sudo) -> None:
    if not exists(root, "usr/bin/sudo"):
        raise CheckpointError(
            "the image has no sudo",
            f"{sudo.origin or ''} {user.name} may use it".strip(),
            "add <name>sudo</name> to the packages of the transfer",
        )
    command = "NOPASSWD: ALL" if sudo.nopasswd else "ALL"
    # Source: sudoers(5): names with a dot or ~ are skipped, and an account's name has neither.
    path = f"etc/sudoers.d/dcd-{user.name}"
    write(root, path, f"{user.name} ALL=(ALL:ALL) {command}\n", mode=0o440)
