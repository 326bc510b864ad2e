"""Resources that can outlive the worker that created them, by kind, with the functions that release them.

A checkpoint calls `Context.claim(kind, name)` before it creates one. The claim is then in the event log, and
the daemon releases the resource by its name at the end of the attempt and after a crash. `RELEASE` functions
block, are idempotent, and raise `DcdError` when they cannot release the resource.
"""

import re
from collections.abc import Callable, Mapping

from dcd.platform.iscsi import AUTHORITY, TARGETS
from statemachine.errors import DcdError

NAME = re.compile(r"[a-z0-9][a-z0-9.:-]{0,222}")
"""The names of resources (RFC 7143 for those of iSCSI targets)."""

_ISCSI = {target.kind for target in TARGETS}

RELEASE: Mapping[str, Callable[[str], None]] = {target.kind: target.release for target in TARGETS}
"""Kind of resource to the function that releases one, given its name."""


def release(kind: str, name: str) -> None:
    """Release a resource. Raises DcdError when that is not possible, or the kind is unknown."""
    if kind not in RELEASE:
        raise DcdError(
            f"{kind} {name} cannot be released",
            "this version of dcd does not know that kind of resource",
            "start the version that created it, or remove it by hand",
        )
    RELEASE[kind](name)


def is_claimed_name(kind: str, name: str) -> bool:
    """Whether an attempt could claim a resource by that name. The iSCSI targets of others have others."""
    own = kind not in _ISCSI or name.startswith(f"{AUTHORITY}:")
    return own and NAME.fullmatch(name) is not None
