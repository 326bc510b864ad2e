"""What an iSCSI target promises.

`Target.export` serves one plain file for the duration of a context: to one initiator, at a portal of the
loopback interface, behind CHAP with a name and a secret that are made for this export and are never
logged. Whatever happens inside, the target is withdrawn at its end. A target has a name that follows from the
attempt, so what a dead worker left of it can be released by whoever knows the attempt.
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

_AUTHORITY = "iqn.2026-11.invalid.dcd"
"""No registered name: targets are seen by this host alone (RFC 2606)."""
_LONGEST_NAME = 200
"""Of 223, so that the initiator's name fits too."""
_SECRET_BYTES = 12
"""16 characters when written down: some initiators take no more, all take these."""


@dataclass(frozen=True, slots=True)
class Chap:
    """The credentials of the one initiator."""

    user: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Export:
    """A file that is being served: the target's name and logical unit, its portal, and the name and
    credentials by which the initiator is known."""

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
    """What it needs, as named in `store.host.tools`."""

    def __init__(self, directory: Path) -> None: ...

    def export(self, file: Path, name: str) -> AbstractContextManager[Export]:
        """Serve `file`, for reading and writing, as the target `name`. Raises `Unprepared` when the host
        lacks something or the port is in use, `CheckpointError` when it cannot be served."""
        ...

    @staticmethod
    def release(name: str) -> None:
        """Withdraw the target of that name, if there is one. Raises `DcdError` when it stays."""
        ...


def target_name(attempt: str) -> str:
    """The iSCSI name of an attempt's target: the same for the same attempt (STATE:BUILD:CHECKPOINT:N),
    another for any other."""
    name = f"{_AUTHORITY}:{re.sub(r'[^a-z0-9.:-]', '-', attempt.lower())}"
    if name == f"{_AUTHORITY}:{attempt}" and len(name) <= _LONGEST_NAME:
        return name
    # Some letters cannot be in a name, and not all of a long one.
    digest = hashlib.sha256(attempt.encode()).hexdigest()[:16]
    return f"{name[: _LONGEST_NAME - 17]}.{digest}"


def initiator_name(target: str) -> str:
    """The name of the one initiator that a target serves."""
    return f"{target}:initiator"


def new_export(name: str) -> Export:
    """An export of that name with fresh credentials."""
    chap = Chap(f"dcd-{secrets.token_hex(4)}", secrets.token_urlsafe(_SECRET_BYTES))
    return Export(name, initiator_name(name), chap)
