"""The logs of attempts, and the evidence beside them.

    DIRECTORY/BUILD/CHECKPOINT.ATTEMPT.log      what the tools of the attempt printed
    DIRECTORY/BUILD/CHECKPOINT.ATTEMPT/         files that show how it went: consoles, screens

They stay until the build is removed. Blocking.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class AttemptLogs:
    """The logs below `directory`."""

    directory: Path

    def prepare(self) -> None:
        """Make the directory, which is closed to other users."""
        self.directory.mkdir(mode=0o700, exist_ok=True)

    def path(self, build: str, checkpoint: str, attempt: int) -> Path:
        """The log of an attempt, whether it is there or not."""
        return self.directory / build / f"{checkpoint}.{attempt}.log"

    def evidence(self, build: str, checkpoint: str, attempt: int) -> Path:
        """The directory of an attempt's evidence, whether it is there or not."""
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
