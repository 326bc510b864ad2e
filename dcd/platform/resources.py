"""Resources that could outlive the worker that made them, by kind, and what releases each.

A checkpoint calls `Context.claim(kind, name)` before it makes one. Then it is in the event log, and the
daemon releases it at the end of the attempt and after a crash, by its name alone. `RELEASE` functions block,
are idempotent, and raise `DcdError` when the resource is still there afterwards.
"""

from collections.abc import Callable, Mapping

from dcd.platform.iscsi import TARGETS
from statemachine.errors import DcdError

RELEASE: Mapping[str, Callable[[str], None]] = {target.kind: target.release for target in TARGETS}
"""Kind of resource to the function that releases one, given its name."""


def release(kind: str, name: str) -> None:
    """Release a resource. Raises DcdError when that is not possible, or the kind is not known."""
    if kind not in RELEASE:
        raise DcdError(
            f"{kind} {name} cannot be released",
            "this version of dcd does not know that kind of resource",
            "start the version that made it, or remove it by hand",
        )
    RELEASE[kind](name)
