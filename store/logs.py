"""The logs of attempts and their evidence.

    DIRECTORY/BUILD/CHECKPOINT.ATTEMPT.log      output of the attempt's tools
    DIRECTORY/BUILD/CHECKPOINT.ATTEMPT/         evidence: console logs, screenshots

They are kept until the build is removed. Only the process that starts workers may change them; one group
reads them. Blocking.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from statemachine.errors import NotFound
from store.host.durable import reporting_disk_full
from store.host.removal import try_to_remove_tree


@dataclass(frozen=True, slots=True)
class AttemptLogs:
    """The logs below `directory`."""

    directory: Path

    def prepare(self, gid: int = -1) -> None:
        """Create the directory, accessible to its owner and one group (-1: the process's own)."""
        self.directory.mkdir(mode=0o700, exist_ok=True)
        os.chown(self.directory, -1, gid)
        self.directory.chmod(0o750)

    def begin(self, build: str, checkpoint: str, attempt: int, gid: int = -1) -> Path:
        """Create the directories of an attempt, readable by the group. Returns that of its evidence. Raises
        DiskFull."""
        evidence = self.evidence(build, checkpoint, attempt)
        with reporting_disk_full("creating the directory of an attempt's evidence", evidence):
            for directory in (evidence.parent, evidence):
                directory.mkdir(mode=0o700, exist_ok=True)
                os.chown(directory, -1, gid)
                directory.chmod(0o750)
        return evidence

    def path(self, build: str, checkpoint: str, attempt: int) -> Path:
        """The path of an attempt's log, which may not exist. Raises NotFound for a name that no checkpoint
        has: events of another member of a farm may have any."""
        if "/" in checkpoint or "\0" in checkpoint:
            raise NotFound(f"there is no checkpoint {checkpoint!r}")
        return self.directory / build / f"{checkpoint}.{attempt}.log"

    def evidence(self, build: str, checkpoint: str, attempt: int) -> Path:
        """The path of an attempt's evidence directory, which may not exist. Raises NotFound as `path`."""
        return self.path(build, checkpoint, attempt).with_suffix("")

    def recorded(self, log: Path) -> str:
        """A log's path as events record it: relative to the state directory."""
        return str(log.relative_to(self.directory.parent))

    def builds(self) -> set[str]:
        """The builds that have logs."""
        return (
            {path.name for path in self.directory.iterdir()} if self.directory.exists() else set()
        )

    def remove(self, build: str) -> None:
        """Remove all logs of a build. Idempotent."""
        try_to_remove_tree(self.directory / build)
