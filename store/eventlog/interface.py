"""The event log as the rest of dcd sees it, whatever database it is in.

The append-only record of all builds. `append` may be called from any thread and returns at once; when
its future has a result, the events are on disk. All other methods read, block, may be called from any
thread, and see all events committed before the call. Followers only need `read(after=...)`; `on_commit`
signals new events. The cost does not depend on the number of ended builds, except for `verify_all`.

Positions are 1, 2, 3, ... in the order of commits: a follower that has read up to a position misses
nothing. A build belongs to one member of a farm at a time: `take` gives it the next *epoch*, and facts
appended under an earlier one raise Fenced. A log in SQLite has one member, always in epoch 1.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from typing import Protocol, Self

from statemachine.build import BuildState, Lifecycle
from statemachine.errors import DcdError
from statemachine.events import Actor, Event, Payload
from store.eventlog.projection import BuildSummary

OnCommit = Callable[[int, float | None], None]
"""Called after each commit with the last position and the duration in seconds (None: another member's
commit), on a thread of the log: it must return at once (`loop.call_soon_threadsafe`)."""

May = Callable[[BuildState], bool]
"""Whether a member may take a build in this state."""


def whatever(state: BuildState) -> bool:
    """Any build may be taken."""
    return True


class EventLog(Protocol):
    """See the module."""

    @property
    def path(self) -> Path:
        """The log's file; for a log elsewhere, the directory of what this host keeps of it."""

    @property
    def directory(self) -> Path:
        """The directory on this host for what belongs to the log, such as the cursors of webhooks."""

    @property
    def restoring(self) -> str:
        """How a person gets lost events back: an instruction without a full stop."""

    @property
    def lost(self) -> int:
        """The number of committed events that were missing when the log was opened."""

    @property
    def position(self) -> int:
        """Position of the last event on disk, as far as this member knows; 0 for an empty log."""

    @property
    def trouble(self) -> DcdError | None:
        """The reason why appends fail or soon will: LogFailed, LogFull, Unavailable; None when healthy."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def close(self) -> None:
        """Write all queued events, then close the log. Idempotent."""

    def size_bytes(self) -> int:
        """The size of the log on this host's disks; 0 for a log elsewhere."""

    def take(self, build: str, host: str, may: May = whatever) -> int:
        """Make `host`, this member, the owner of a build. Returns the build's new epoch. Blocks.

        Appends BuildPlaced in the same transaction, if `may` allows it for the build as it is then. Raises
        NotFound, Refused (the build has ended, this member lacks a label that it requires, or `may` does not
        allow it), Conflict (another member took it at the same time), Unavailable. In SQLite: always 1, and
        no event.
        """

    def append(
        self,
        build: str,
        expected_sequence: int,
        payloads: Sequence[Payload],
        actor: Actor,
        time: datetime,
        epoch: int | None = None,
    ) -> "Future[list[Event]]":
        """Append the payloads to the build, together or not at all.

        `expected_sequence` is the sequence of the last event that the caller has seen (0: the build is
        new), `time` is aware. `epoch` is the one in which the caller owns the build; None for commands of
        people, which need no owner. In a farm facts of a running build need an epoch.

        The future returns the events once they are on disk, or raises Conflict (the build has changed),
        Fenced (the epoch is over), DuplicateSubmission (the idempotency key is taken), LogFull, LogFailed,
        Unavailable, or DcdError for payloads that cannot follow. On an error nothing is appended, except
        that after LogFailed this is unknown. A future cancelled before its commit appends nothing.
        """

    def append_together(
        self, first: Mapping[str, Sequence[Payload]], actor: Actor, time: datetime
    ) -> "Future[list[Event]]":
        """Append the first payloads of several new builds, by their ids: all of them or nothing. As
        `append`."""

    def read(self, build: str | None = None, after: int = 0, limit: int = 1000) -> list[Event]:
        """Up to `limit` events with a position greater than `after`, in order, of one build or all; only when
        there are none, there are no more. Raises DcdError for one that cannot be read. In a farm, where any
        member may have written it, reading all passes over it: it stops its own build, and no follower."""

    def read_build(self, build: str) -> list[Event]:
        """All events of a build, verified. Raises NotFound, LogDamaged."""

    def completed(self, build: str) -> list[Event]:
        """The events CheckpointCompleted of a build, in order; none when there is no such build."""

    def verify(self, build: str) -> list[str]:
        """The problems with the events of a build: gaps, altered events, missing last events, a
        different count in the list of builds. Empty when there are none. Raises NotFound."""

    def verify_all(self) -> list[str]:
        """The problems with the events of all builds and with the projections. Reads every event."""

    def verify_projection(self) -> list[str]:
        """The differences between the projections and the events. Reads every event."""

    def list_builds(
        self,
        states: Collection[str] | None = None,
        limit: int = 100,
        before: int | None = None,
        name: str | None = None,
        group: str | None = None,
    ) -> list[BuildSummary]:
        """Builds that are not removed, newest first, in these states, of that name and of the group that a
        unique prefix names, if given; `before` is the `submitted_position` of the last build on the previous
        page. Raises NotFound for a prefix of no group, or of several."""

    def newest_completed(self, names: Collection[str]) -> dict[tuple[str, str], tuple[int, str]]:
        """The newest completed build, not removed, of each of these names and of each cell of a group, which
        the end of an id stands for: `submitted_position` and id."""

    def unfinished(self) -> list[BuildSummary]:
        """Builds that have not ended, oldest first. A daemon loads these when it starts."""

    def ended_counts(self) -> dict[Lifecycle, int]:
        """The number of ended builds by state, including removed ones. Reads an index only."""

    def summary(self, build: str) -> BuildSummary:
        """The summary of a build, even a removed one. Raises NotFound."""

    def resolve_prefix(self, prefix: str) -> str:
        """The id of the build that a unique prefix names. Raises NotFound for none or several."""

    def resolve_group(self, prefix: str) -> str:
        """The group that a unique prefix names. Raises NotFound for none or several."""

    def group(self, prefix: str) -> tuple[str, list[tuple[BuildSummary, dict[str, str]]]]:
        """The group that a unique prefix names, and its builds, also removed ones, in the order of the
        submit, each with its cell. Raises NotFound for none or several."""

    def by_idempotency_key(self, uid: int | None, key: str) -> str | None:
        """The id of the build that this user submitted with this key."""

    def known_builds(self, among: Collection[str]) -> set[str]:
        """The ids in `among` that are builds, including removed ones."""

    def removed_among(self, names: Collection[str]) -> set[str]:
        """The ids in `names` that are removed builds."""

    def known_keys(self, among: Collection[str]) -> set[str]:
        """The layer keys in `among` that an event of a build that is not removed names."""

    def resolved_lists(self, without: Collection[str] = ()) -> set[str]:
        """The lists of packages (CheckpointCompleted.resolved) of all builds that are neither removed nor
        cancelled, and those that builds which have not ended are locked to (BuildSubmitted.locked); not of
        the builds `without`."""

    def locked_builds_of_others(self, users: Collection[int]) -> set[str]:
        """The ids of builds, removed ones included, that users other than these have locked to lists of
        packages from the package store: they may have brought the lists themselves."""

    def inputs(self) -> set[str]:
        """The digests of the captured inputs of all builds that are neither removed nor cancelled, and of
        the uploaded content manifests that rebuilds among them are compared with."""

    def backup(self, target: Path) -> None:
        """Write a consistent copy to the new file `target`, while builds continue. Raises Unavailable,
        Refused (the database has its own backups)."""
