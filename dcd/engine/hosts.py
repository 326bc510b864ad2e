"""The members of a farm, as the API shows them. A single machine has none."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dcd.doctor import HostCheck
from statemachine.build import BuildState
from statemachine.errors import UsageError


@dataclass(frozen=True, slots=True)
class Host:
    """A member of the farm. `labels` are those that builds may require of it: granted by the administrator
    and found on the host. `state` is `up`, `draining` (it takes no builds), `lost` (it has been silent too
    long), or `never seen` (it has not been started; `silent_seconds` is None). `builds` are the unfinished
    ones that it owns."""

    host: str
    state: str
    labels: tuple[str, ...]
    builds: tuple[str, ...]
    version: str
    silent_seconds: float | None
    clock_ahead_seconds: float | None = None
    """How far its clock is ahead of the database's; None when it has not said so."""
    warnings: tuple[str, ...] = ()
    """What is wrong with it, for people."""
    working: tuple[str, ...] = ()
    """Those of its builds that work, or that it is about to hand over."""
    slots: int | None = None
    """The number of builds that it drives at once; None when it was never heard."""
    code: str = ""
    """The digest of the code of its checkpoints."""
    not_granted: tuple[str, ...] = ()
    """The labels that it has found on its host, and that the administrator has not granted."""
    not_found: tuple[str, ...] = ()
    """Those that are granted, and that it has not found."""


@dataclass(frozen=True, slots=True)
class Wait:
    """A build that waits for a member: its plain labels, the kind of its obstacle (`labels`, `away` or
    `busy`), and what people read; "" for one that waits for a slot."""

    build: str
    labels: str
    obstacle: str
    reason: str


@dataclass(frozen=True, slots=True)
class Census:
    """The members, by name, and why builds wait, as the database said `age_seconds` ago; ages in `hosts` are
    those of now."""

    hosts: Sequence[Host] = ()
    waits: Sequence[Wait] = ()
    age_seconds: float = 0.0


class Hosts(Protocol):
    """What a member knows of the others. All methods but `problems` block, and raise Unavailable unless they
    say otherwise."""

    def census(self) -> Census:
        """All members, and why builds wait."""

    def last_census(self) -> Census:
        """The same; while the database does not answer, what it said last. Raises nothing."""

    def problems(self) -> list[str]:
        """What is wrong with this member while it can serve, for people."""

    def examine(self) -> list[HostCheck]:
        """The state of the farm for `doctor`. Raises nothing."""

    def drain(self, host: str, *, draining: bool) -> None:
        """Let a member take no more builds and hand over those that it has after their running checkpoints,
        or take builds again. Raises NotFound."""

    def why_waits(self, build: BuildState) -> str:
        """Why no member takes a queued build, or drives one that works, for people; "" when one may."""

    def require_move(self, build: BuildState, to: str) -> None:
        """Raise Refused unless the member `to`, or any other ("") than its own, may drive the build, NotFound
        when there is no such member."""


def in_farm(hosts: Hosts | None) -> Hosts:
    """The members of the farm. Raises UsageError on a single machine."""
    if hosts is None:
        raise UsageError(
            "this daemon is no member of a farm",
            "it builds alone, and has no table [farm] in its configuration",
            "docs/explanation/farm.md says how a farm is made",
        )
    return hosts
