"""The logs of attempts and their evidence.

    DIRECTORY/BUILD/CHECKPOINT.ATTEMPT.log      output of the attempt's tools
    DIRECTORY/BUILD/CHECKPOINT.ATTEMPT/         evidence: console logs, screenshots

They are kept until the build is removed. Blocking.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class AttemptLogs:
    """The logs below `directory`."""

    directory: Path

    def prepare(self) -> None:
        """Create the directory, inaccessible to other users."""
        self.directory.mkdir(mode=0o700, exist_ok=True)

    def path(self, build: str, checkpoint: str, attempt: int) -> Path:
        """The path of an attempt's log, which may not exist."""
        return self.directory / build / f"{checkpoint}.{attempt}.log"

    def evidence(self, build: str, checkpoint: str, attempt: int) -> Path:
        """The path of an attempt's evidence directory, which may not exist."""
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
        shutil.rmtree(self.directory / build, ignore_errors=True)
