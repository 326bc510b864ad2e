"""What a follower shows of a build: the newest view that the stream has sent, and a line for each event.

Pure; the caller passes the clock. `cli.follow` feeds it, `cli.draw` draws it.
"""

from collections import deque
from typing import NamedTuple

from cli.client import Json
from cli.text import count, duration, short_path, timestamp

DONE = ("completed", "reused")

TAIL_LINES = 8
"""How many lines of a log are shown below the status lines."""


class Line(NamedTuple):
    """A line to print. `mark` is `completed`, `reused`, `failed` or `note` for lines that stay on the
    screen above the status lines, `started` and `progress` for lines that the status lines already
    cover, `log` for a line of the running checkpoint's log, which is shown below them. `subject` is the
    checkpoint or the build; `text` is for the first three marks only a duration or the id of the build
    whose result is reused. `at` is Unix time, None for now."""

    mark: str
    subject: str
    text: str
    at: float | None = None


class Picture:
    """A build as the API describes it, with what only the messages between its views say."""

    def __init__(self, view: Json) -> None:
        self.view = view
        self.started: float | None = None
        """Unix time when the build last started."""
        self.attempt_started = 0.0
        """Unix time when the running checkpoint started."""
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        """The last lines of the running checkpoint's log."""
        self._progress: Json = {}

    @property
    def estimates(self) -> dict[str, float]:
        """Estimated seconds by checkpoint, in the order of the plan."""
        return {item["name"]: item["estimate_seconds"] for item in self.view["checkpoints"]}

    @property
    def done(self) -> list[str]:
        """The checkpoints whose results exist."""
        return [item["name"] for item in self.view["checkpoints"] if item["state"] in DONE]

    @property
    def running(self) -> str | None:
        """The running checkpoint."""
        running = (item["name"] for item in self.view["checkpoints"] if item["state"] == "running")
        return next(running, None)

    def log_of(self, event: Json) -> tuple[str, int] | None:
        """The attempt that an event has started, if it runs by the newest view."""
        if event["type"] != "CheckpointStarted":
            return None
        name, number = event["data"]["checkpoint"], event["data"]["attempt"]
        attempts = {item["name"]: item["attempts"] for item in self.view["checkpoints"]}
        return (name, number) if (self.running, attempts.get(name)) == (name, number) else None

    @property
    def progress(self) -> Json:
        """The newest progress of the running checkpoint; empty when it has sent none."""
        return self._progress if self._progress.get("checkpoint") == self.running else {}

    @property
    def fraction(self) -> float:
        """The completed part of the build, 0..1."""
        if "build_fraction" in self.progress:
            return float(self.progress["build_fraction"])
        total = sum(self.estimates.values())
        return sum(self.estimates[name] for name in self.done) / total if total else 0.0

    def expected_seconds(self, now: float) -> float | None:
        """The whole time from `started` to the end of the build, as estimated at Unix time `now`."""
        if self.started is None:
            return None
        left = {name: each for name, each in self.estimates.items() if name not in self.done}
        if self.running:
            left[self.running] = max(left[self.running] - (now - self.attempt_started), 0.0)
        return now - self.started + sum(left.values())

    def report(self, data: Json) -> Line | None:
        """The line for a progress message; None if its attempt has ended since."""
        if data["checkpoint"] != self.running:
            return None
        self._progress = data
        percent = "" if data["fraction"] is None else f"{data['fraction']:.0%}"
        text = ", ".join(part for part in (percent, data["message"]) if part)
        return Line("progress", data["checkpoint"], text or "running")

    def event(self, event: Json) -> Line | None:
        """The line for an event; None for one that needs none or that this version does not know."""
        data, at, name = event["data"], timestamp(event["time"]), self.view["name"]
        match event["type"]:
            case "BuildSubmitted":
                checkpoints = count(len(data["plan"]["checkpoints"]), "checkpoint")
                return Line("started", name, f"queued, {checkpoints}", at)
            case "BuildStarted":
                self.started = at
                return Line("started", name, "started", at)
            case "CheckpointStarted":
                self.attempt_started = at
                self.tail.clear()
                again = f" again (attempt {data['attempt']})" if data["attempt"] > 1 else ""
                expected = duration(self.estimates.get(data["checkpoint"]))
                text = f"started{again}" + (f", about {expected}" if expected else "")
                return Line("started", data["checkpoint"], text, at)
            case "CheckpointCompleted":
                return Line("completed", data["checkpoint"], duration(data["seconds"]), at)
            case "CheckpointReused":
                return Line("reused", data["checkpoint"], data["reused_from"], at)
            case "CheckpointFailed":
                return Line("failed", data["checkpoint"], duration(data["seconds"]), at)
            case "CheckpointInterrupted":
                return Line("note", data["checkpoint"], f"interrupted: {data['cause']}", at)
            case "LayerDamaged":
                text = f"the layer of {data['made_by']} is damaged: {data['damage']}"
                return Line("note", data["checkpoint"], text, at)
            case "BuildCompleted":
                return Line("completed", name, duration(data["seconds"]), at)
        text = _note(event["type"], data)
        return Line("note", name, text, at) if text else None


def _note(kind: str, data: Json) -> str:
    """The text for an event of the build that no status line shows."""
    match kind:
        case "BuildPlaced":
            return f"taken by {data['host']}"
        case "MoveRequested":
            return f"moves to {data['to'] or 'another member'}"
        case "PauseRequested" if data["before"] is None:
            return "pausing after the running checkpoint"
        case "PauseRequested":
            return f"will pause before {data['before']}"
        case "PauseWithdrawn":
            return "the requested pause is withdrawn"
        case "BuildResumed":
            other = data.get("manifest_path")
            return f"resumed with {short_path(other)}" if other else "resumed"
        case "BuildRewound":
            return f"rewound; continues with {data['checkpoint']}"
        case "CancelRequested":
            return "cancelling"
    return ""
