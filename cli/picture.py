"""The state of a followed build: a fold of its events and progress, with a line to print for each.

Pure; the caller passes the clock. `cli.follow` feeds it, `cli.draw` draws it.
"""

from typing import NamedTuple

from cli.client import Json
from cli.text import count, duration, short_path, timestamp


class Line(NamedTuple):
    """A line to print. `mark` is `completed`, `reused`, `failed` or `note` for lines that stay on the
    screen above the status lines, `started` and `progress` for lines that the status lines already
    cover. `subject` is the checkpoint or the build; `text` is for the first three marks only a duration
    or the id of the build whose result is reused. `at` is Unix time, None for now."""

    mark: str
    subject: str
    text: str
    at: float | None = None


class Running(NamedTuple):
    """The running checkpoint. `started` is Unix time, `fraction` 0..1 or None when unknown."""

    checkpoint: str
    started: float
    estimate_seconds: float
    fraction: float | None = None
    message: str = ""


class Picture:
    """The build after the messages so far."""

    def __init__(self, build: str) -> None:
        self.build = build
        self.name = build
        self.state = "queued"
        self.estimates: dict[str, float] = {}
        """Estimated seconds by checkpoint, in the order of the plan."""
        self.done: list[str] = []
        self.running: Running | None = None
        self.fraction = 0.0
        self.started: float | None = None
        """Unix time when the build last started or resumed."""
        self.expected_seconds: float | None = None
        """The estimate for all remaining checkpoints at that time."""

    def progress(self, data: Json) -> Line | None:
        """Apply a progress message."""
        if self.running is None or self.running.checkpoint != data["checkpoint"]:
            return None  # from an attempt that has ended since
        self.fraction = data["build_fraction"]
        self.running = self.running._replace(
            fraction=data["fraction"],
            message=data["message"],
            estimate_seconds=data["estimate_seconds"],
        )
        percent = "" if data["fraction"] is None else f"{data['fraction']:.0%}"
        text = ", ".join(part for part in (percent, data["message"]) if part)
        return Line("progress", data["checkpoint"], text or "running")

    def event(self, event: Json) -> Line | None:
        """Apply an event. Types unknown to this version are ignored."""
        data, at = event["data"], timestamp(event["time"])
        line = self._fold(event["type"], data, at)
        return None if line is None else line._replace(at=at)

    def _fold(self, kind: str, data: Json, at: float) -> Line | None:
        match kind:
            case "BuildSubmitted":
                self.name = data["name"]
                self._plan(data["plan"])
                return Line(
                    "started", self.name, f"queued, {count(len(self.estimates), 'checkpoint')}"
                )
            case "BuildStarted":
                self.state, self.started = "running", at
                left = (name for name in self.estimates if name not in self.done)
                self.expected_seconds = sum(self.estimates[name] for name in left)
                return Line("started", self.name, "started")
            case "CheckpointStarted":
                name = data["checkpoint"]
                self.running = Running(name, at, self.estimates[name])
                again = f" again (attempt {data['attempt']})" if data["attempt"] > 1 else ""
                expected = duration(self.estimates[name])
                return Line("started", name, f"started{again}, about {expected}")
            case "CheckpointCompleted":
                self._complete(data["checkpoint"])
                return Line("completed", data["checkpoint"], duration(data["seconds"]))
            case "CheckpointReused":
                self._complete(data["checkpoint"])
                return Line("reused", data["checkpoint"], data["reused_from"])
            case "CheckpointFailed":
                self.running = None
                return Line("failed", data["checkpoint"], duration(data["seconds"]))
            case "CheckpointInterrupted":
                self.running = None
                return Line("note", data["checkpoint"], f"interrupted: {data['cause']}")
            case "PauseRequested":
                if data["before"] is None:
                    self.state = "pausing"
                    return Line("note", self.name, "pausing after the running checkpoint")
                return Line("note", self.name, f"will pause before {data['before']}")
            case "PauseWithdrawn":
                self.state = "running" if self.state == "pausing" else self.state
                return Line("note", self.name, "the requested pause is withdrawn")
            case "BuildPaused":
                self.state, self.running = "paused", None
            case "BuildResumed" if self.state == "pausing":
                self.state = "running"
                return Line("note", self.name, "pause withdrawn")
            case "BuildResumed":
                self.state, self.running = "queued", None
                if data["plan"] is not None:
                    self._plan(data["plan"], keep=data["kept"] or 0)
                other = data.get("manifest_path")
                return Line(
                    "note", self.name, f"resumed with {short_path(other)}" if other else "resumed"
                )
            case "BuildRewound":
                before = list(self.estimates)
                before = before[: before.index(data["checkpoint"])]
                self.done = [name for name in self.done if name in before]
                self.fraction = self._fraction()
                return Line("note", self.name, f"rewound; continues with {data['checkpoint']}")
            case "CancelRequested":
                self.state = "cancelling"
                return Line("note", self.name, "cancelling")
            case "BuildCancelled":
                self.state, self.running = "cancelled", None
            case "BuildFailed":
                self.state, self.running = "failed", None
            case "BuildCompleted":
                self.state, self.fraction = "completed", 1.0
                return Line("completed", self.name, duration(data["seconds"]))
        return None

    def _plan(self, plan: Json, keep: int = 0) -> None:
        self.estimates = {item["name"]: item["estimate_seconds"] for item in plan["checkpoints"]}
        self.done = list(self.estimates)[:keep]
        self.fraction = self._fraction()

    def _complete(self, checkpoint: str) -> None:
        self.done.append(checkpoint)
        self.running = None
        self.fraction = self._fraction()

    def _fraction(self) -> float:
        total = sum(self.estimates.values())
        return sum(self.estimates[name] for name in self.done) / total if total else 0.0
