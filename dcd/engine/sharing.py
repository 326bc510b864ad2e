"""What other build servers share with this one, through a registry (`dcd.farm.sharing`): layers, and in a
farm captured files and outputs.

The engine asks for a layer before it makes it. What has come is in the layer store afterwards, checked.
Nothing here fails a build, or delays it beyond the bounds of the implementation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from statemachine.plan import Locked


@dataclass(frozen=True, slots=True)
class SharingState:
    """How sharing goes, for people: `summary` counts, `trouble` is the last failure ("" when all is well),
    and `remedy` what to do about it."""

    summary: str
    trouble: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class SharedOutput:
    """A file of an attempt that has ended on another member, the `host`; `name` is "" for the log, and
    `changed_at` a Unix time."""

    name: str
    digest: str
    size_bytes: int
    changed_at: int
    host: str


class Sharing(Protocol):
    """See the module."""

    async def bring(self, build: str, key: str) -> bool:
        """Have the layer `key` here, with those below it, if another build server has shared it. Returns
        whether it has come."""

    async def offer(self, digests: Sequence[str], locked: Locked | None) -> bool:
        """Have captured files, by their sha256, and what a locked build takes from the package store, where
        every member of the farm can get them. Returns whether they are there."""

    async def fetch(self, digests: Sequence[str], locked: Locked | None) -> bool:
        """Have here what another member has offered. Returns False when the registry does not work, so that
        it may come later."""

    def give_up(self, build: str) -> None:
        """End what is under way for a build."""

    def outputs(self, build: str, checkpoint: str, attempt: int) -> Sequence[SharedOutput]:
        """What another member has sent of an attempt that has ended; nothing while the registry does not
        work. Blocking."""

    def has(self, digest: str) -> bool:
        """Whether the registry has what has this digest (sha256:...). Blocking."""

    def read(self, digest: str, size_bytes: int) -> Iterator[bytes]:
        """The content with this digest, the last piece once it is right. Blocking; raises CheckpointError."""

    def state(self) -> SharingState | None:
        """How sharing goes; None when nothing is shared."""

    def examine(self) -> SharingState | None:
        """The same, after a question to the registry. Blocking; raises nothing."""

    async def collect(self) -> int:
        """Remove what this log's builds have shared and no build names any more. Returns how many layers."""


class NotShared:
    """Nothing is shared. Implements Sharing."""

    async def bring(self, build: str, key: str) -> bool:
        return False

    async def offer(self, digests: Sequence[str], locked: Locked | None) -> bool:
        return False

    async def fetch(self, digests: Sequence[str], locked: Locked | None) -> bool:
        return True

    def give_up(self, build: str) -> None:
        pass

    def outputs(self, build: str, checkpoint: str, attempt: int) -> Sequence[SharedOutput]:
        return ()

    def has(self, digest: str) -> bool:
        return False

    def read(self, digest: str, size_bytes: int) -> Iterator[bytes]:
        return iter(())

    def state(self) -> SharingState | None:
        return None

    def examine(self) -> SharingState | None:
        return None

    async def collect(self) -> int:
        return 0


NOT_SHARED = NotShared()
