"""The part of the host that a planner sees, for code that opens files which a manifest names.

A planner has a root directory with listed contents. When a question is about another path of the host (a
repository in a directory, a keyring, a key to log in with), `require_shown` raises `Unseen`, and the daemon
asks again in a process that was shown it, if it may be shown. Other processes see the host without limits.
"""

from collections.abc import Iterable
from pathlib import Path

from statemachine.errors import DcdError


class Unseen(DcdError):
    """The process has not been shown these paths of the host."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self.paths = tuple(paths)
        names = ", ".join(map(str, self.paths))
        super().__init__(
            "the manifest names files of this host that were not shown to its planner",
            names,
            "open them to everybody",
        )


_in_sight: tuple[Path, ...] | None = None


def limit(in_sight: Iterable[Path]) -> None:
    """Set, once for this process, the paths that it sees, with all below them; among them those that it was
    started for and that do not exist."""
    global _in_sight
    _in_sight = tuple(in_sight)


def is_limited() -> bool:
    """Whether this process sees only a part of the host."""
    return _in_sight is not None


def require_shown(paths: Iterable[Path]) -> None:
    """Raise Unseen for those that this process does not see because it was not asked to be shown them."""
    if _in_sight is None:
        return
    unseen = [path for path in paths if not any(map(path.is_relative_to, _in_sight))]
    if unseen:
        raise Unseen(unseen)
