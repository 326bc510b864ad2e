"""The members of a farm, as the API shows them. A single machine has none."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Host:
    """A member of the farm. `labels` are those that builds may require of it: granted by the administrator
    and found on the host. `state` is `up`, `draining` (it takes no builds), or `lost` (it has been silent too
    long; `silent_seconds` is None for one that was never heard). `builds` are the unfinished ones that it
    owns."""

    host: str
    state: str
    labels: tuple[str, ...]
    builds: tuple[str, ...]
    version: str
    silent_seconds: float | None


class Hosts(Protocol):
    """What a member knows of the others. All methods block, and raise Unavailable."""

    def hosts(self) -> list[Host]:
        """All members, by name."""

    def drain(self, host: str, *, draining: bool) -> None:
        """Let a member take no more builds and hand over those that it has after their running checkpoints,
        or take builds again. Raises NotFound."""

    def why_waits(self, requires: Collection[str]) -> str:
        """Why no member takes a queued build, for people; "" when one may."""
