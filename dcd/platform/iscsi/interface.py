"""The contract of an iSCSI target.

`Target.export` serves one plain file for the duration of a context: to one initiator, at a portal of the
loopback interface, behind CHAP with a name and a secret that are created for this export and never logged.
The target is always withdrawn at the end. Its name follows from the attempt, so the daemon can release a
target that a dead worker left.
Source: RFC 7143 (iSCSI; names in section 4.2.7), RFC 1994 (CHAP).
"""

import hashlib
import re
import secrets
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

ADDRESS = "127.0.0.1"
PORT = 3260
LUN = 1

AUTHORITY = "iqn.2026-11.invalid.dcd"
"""Not a registered name: only this host sees the targets (RFC 2606)."""
_LONGEST_NAME = 200
"""Less than the maximum of 223, so that the initiator's name fits too."""
_SECRET_BYTES = 12
"""16 characters in base64: the maximum of some initiators."""


@dataclass(frozen=True, slots=True)
class Chap:
    """The credentials of the one initiator."""

    user: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Export:
    """A served file: the target's name and logical unit, its portal, and the name and credentials of the
    initiator."""

    target: str
    initiator: str
    chap: Chap
    address: str = ADDRESS
    port: int = PORT
    lun: int = LUN


class Target(Protocol):
    """A way to serve files on this host. Constructed with a private directory for its own files."""

    kind: ClassVar[str]
    """The kind of resource under which it is claimed; see `dcd.platform.resources`."""

    tools: ClassVar[tuple[str, ...]]
    """The tools that it needs, as named in `store.host.tools`."""

    def __init__(self, directory: Path) -> None: ...

    def export(self, file: Path, name: str) -> AbstractContextManager[Export]:
        """Serve `file`, for reading and writing, as the target `name`. Raises `Unprepared` when the host
        lacks a requirement or the port is in use, `CheckpointError` when the file cannot be served."""
        ...

    @staticmethod
    def release(name: str) -> None:
        """Withdraw the target of that name, if it exists. Raises `DcdError` when it cannot be withdrawn."""
        ...


def target_name(attempt: str) -> str:
    """The iSCSI name of an attempt's target, unique for the attempt (STATE:BUILD:CHECKPOINT:N)."""
    name = f"{AUTHORITY}:{re.sub(r'[^a-z0-9.:-]', '-', attempt.lower())}"
    if name == f"{AUTHORITY}:{attempt}" and len(name) <= _LONGEST_NAME:
        return name
    # Some characters are not allowed in a name, and its length is limited.
    digest = hashlib.sha256(attempt.encode()).hexdigest()[:16]
    return f"{name[: _LONGEST_NAME - 17]}.{digest}"


def initiator_name(target: str) -> str:
    """The name of the one initiator that a target serves."""
    return f"{target}:initiator"


def new_export(name: str) -> Export:
    """An export of that name with fresh credentials."""
    chap = Chap(f"dcd-{secrets.token_hex(4)}", secrets.token_urlsafe(_SECRET_BYTES))
    return Export(name, initiator_name(name), chap)
