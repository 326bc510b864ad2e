"""What must be true of any history: an independent witness of what people were told and what then happened.

It knows what people asked for and reads events only as facts in their order; it uses neither the fold nor
the machine. Each command has an actor of its own, so every event names the command that it comes from.
`Broken` says which promise does not hold.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from simulated_daemon import World
from simulated_parts import Attempt

from statemachine.build import BuildState
from statemachine.events import Actor, Event

Manifest = tuple[tuple[str, str], ...]
"""Checkpoints: name and what they do. Of one whose name begins with `mirror` the key covers more."""

PLACED = ("running", "pausing", "cancelling")
ENDED = ("cancelled", "completed")

LEGAL = {
    "BuildStarted": ("queued",),
    "CheckpointStarted": ("running",),
    "CheckpointReused": ("running",),
    "CheckpointCompleted": PLACED,
    "CheckpointFailed": PLACED,
    "CheckpointInterrupted": PLACED,
    "PauseWithdrawn": ("queued", "running", "pausing", "failed"),
    "BuildPaused": ("running", "pausing", "paused"),
    "BuildResumed": ("pausing", "paused", "failed"),
    "BuildRewound": ("paused", "failed", "running"),
    "CancelRequested": ("queued", "running", "pausing", "paused", "failed"),
    "BuildCancelled": ("cancelling",),
    "ArtifactPublished": ("running", "pausing"),
    "BuildCompleted": ("running",),
    "BuildFailed": ("running", "pausing"),
    "BuildRemoved": ENDED,
}

ASKED_FOR = {
    "BuildSubmitted": ("submit",),
    "PauseRequested": ("pause",),
    "PauseWithdrawn": ("withdraw",),
    "BuildResumed": ("resume", "retry"),
    "BuildRewound": ("resume",),
    "CancelRequested": ("cancel",),
    "BuildRemoved": ("rm",),
}


class Broken(AssertionError):
    """A promise that does not hold."""


def expect(holds: object, promise: str, *about: object) -> None:
    if not holds:
        raise Broken(f"{promise}: {' | '.join(map(_short, about))}")


def _short(about: object) -> str:
    if isinstance(about, Event):
        return f"{about.build} {about.sequence} {about.type} of {about.actor.user}"
    if isinstance(about, Build):
        return f"{replace(about, events=[])} {[event.type for event in about.events]}"
    return str(about)


@dataclass(frozen=True)
class Wish:
    """A command that a person sent."""

    kind: str
    build: str = ""
    start: str | None = None
    before: str | None = None
    manifest: Manifest | None = None
    key: str | None = None
    priority: int = 0
    fresh: bool = False


@dataclass
class Build:
    """What is known of a build."""

    id: str
    manifest: Manifest
    rank: tuple[int, int]
    before: str | None
    state: str = "queued"
    results: dict[str, str] = field(default_factory=dict)
    """Completed checkpoints in order, and their keys."""
    open: tuple[str, int, str] | None = None
    boot: str = ""
    held: bool = False
    """A person wants it to stand still."""
    cause: str = ""
    kept: str | None = None
    """The workspace that the failed attempt left."""
    declined: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    """Keys of its results whose layers were taken away from outside, also when another build has made one of
    them again since: this one may have looked before."""
    wanted: str | None = None
    """A checkpoint that a person wants to run, not to be reused."""
    attempts: set[tuple[str, int]] = field(default_factory=set)
    events: list[Event] = field(default_factory=list)
    removed: bool = False

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def next(self) -> str | None:
        done = len(self.results)
        return self.manifest[done][0] if done < len(self.manifest) else None

    def rewind(self, count: int) -> None:
        self.results = dict(list(self.results.items())[:count])


class Expectations:
    """The witness of one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.builds: dict[str, Build] = {}
        self.wishes: dict[str, Wish] = {}
        self.position = 0
        self.hashes: list[str] = []
        """Of all events, as first seen."""
        self.lost: set[str] = set()
        """Keys of layers that were taken away from outside."""
        self.waiting: set[str] = set()
        """Builds that have been queued since the daemon last had nothing to do."""
        self.deaths = 0

    def wish(self, wish: Wish) -> Actor:
        """Note a command before it is sent; the actor to send it as."""
        actor = Actor(uid=1000, gid=1000, pid=1, user=f"command {len(self.wishes)}")
        self.wishes[actor.user] = wish
        return actor

    # Acknowledged commands

    def acknowledged(self, wish: Wish, state: BuildState) -> None:
        """The answer to a command came."""
        self.observe()
        build = self.builds.get(state.id)
        expect(build, "an acknowledged submit is in the log", state.id)
        assert build is not None
        expect(
            len(build.events) >= state.sequence
            and build.events[state.sequence - 1].hash == state.hash,
            "what was acknowledged is in the log",
            wish,
            state.sequence,
        )
        match wish.kind:
            case "submit":
                known = {b.id for b in self.builds.values() if self._key(b) == wish.key}
                expect(state.id in known, "a submit returns the build of its key", wish, known)
            case "withdraw":
                expect(state.pause_before is None, "a pause is withdrawn", wish)
            case "pause" if wish.before is None:
                expect(
                    state.lifecycle in ("pausing", "paused"),
                    "a pause is one",
                    wish,
                    state.lifecycle,
                )
                later = build.events[state.sequence :]
                on = ("BuildResumed", "PauseWithdrawn")
                if not any(e.type in on and self._by(e) for e in later):
                    expect(
                        all(e.type not in (*on, "CheckpointStarted") for e in later),
                        "a paused build stands until a person resumes it",
                        wish,
                    )
                    build.held = True
            case "pause" | "resume" if wish.before is not None:
                expect(state.pause_before == wish.before, "a wish to pause is kept", wish)
            case "cancel":
                expect(state.lifecycle in ("cancelling", "cancelled"), "a cancel is one", wish)
            case "rm":
                expect(state.removed, "what is removed is", wish)

    # What happened

    def observe(self) -> None:
        """Read what is new in the log."""
        if self.world.log.position == self.position:
            return
        for event in self.world.log.read(after=self.position):
            expect(event.position == self.position + 1, "positions have no gaps", event.position)
            self.position = event.position
            self.hashes.append(event.hash)
            wish = self._by(event)
            self._check_origin(event, wish)
            if event.type == "BuildSubmitted":
                assert wish is not None and wish.manifest is not None
                expect(event.build not in self.builds, "a build is submitted once", event.build)
                rank = (-wish.priority, event.position)
                build = Build(event.build, wish.manifest, rank, wish.before)
                taken = wish.key and wish.key in map(self._key, self.builds.values())
                expect(not taken, "an idempotency key makes one build", wish.key)
                self.builds[event.build] = build
            else:
                build = self.builds[event.build]
            expect(event.sequence == len(build.events) + 1, "sequences have no gaps", event)
            build.events.append(event)
            if event.type in LEGAL:
                expect(build.state in LEGAL[event.type], "states are legal", event, build.state)
            self._fold(build, event, wish)

    def _fold(self, build: Build, event: Event, wish: Wish | None) -> None:
        data: Any = event.data
        match event.type:
            case "BuildStarted":
                self._check_place(build)
                build.state = "running"
            case "CheckpointStarted" | "CheckpointReused":
                name = data.checkpoint
                expect(build.open is None and name == build.next, "checkpoints run in order", event)
                expect(name != build.before, "a build pauses before what was named", event)
                expect(not build.held, "a paused build stands until a person resumes it", event)
                expect(data.key not in build.declined, "what was declined is not reused", event)
                if event.type == "CheckpointReused":
                    expect(name != build.wanted, "what is wanted to run is not reused", event)
                    build.results[name] = data.key
                else:
                    build.wanted = None if name == build.wanted else build.wanted
                    number = (name, data.attempt)
                    expect(
                        number not in build.attempts, "attempts have numbers of their own", event
                    )
                    build.attempts.add(number)
                    build.open, build.boot = (*number, data.key), data.boot_id
            case "CheckpointCompleted":
                expect(build.open == (data.checkpoint, data.attempt, data.key), "it ran", event)
                build.results[data.checkpoint], build.open = data.key, None
                self.lost.discard(data.key)
            case "CheckpointFailed" | "CheckpointInterrupted":
                expect(build.open and build.open[:2] == (data.checkpoint, data.attempt), "it ran")
                if event.type == "CheckpointFailed":
                    build.kept = f"{build.id}.{len(build.results)}.{len(build.attempts)}"
                elif data.cause in ("daemon-died", "machine-rebooted"):
                    expect(
                        self.deaths, "only attempts of a dead daemon are recorded as such", event
                    )
                    rebooted = build.boot != self.world.boot
                    expect(
                        rebooted == (data.cause == "machine-rebooted"),
                        "a reboot is recorded",
                        event,
                    )
                build.open = None
            case "PauseRequested" if data.before is None:
                build.state, build.held = "pausing", True
            case "PauseRequested":
                build.before = data.before
            case "PauseWithdrawn" if build.state == "pausing":
                expect(wish, "only a person withdraws a pause", event)
                build.state, build.held, build.before = "running", False, None
            case "PauseWithdrawn":
                expect(wish, "only a person withdraws a pause", event)
                build.before = None
            case "BuildPaused":
                self._stand(build, event)
                expect(wish or build.state != "paused", "nobody asked for it", event)
                build.state, build.cause = "paused", data.cause
                build.held = build.held or wish is not None
                if build.next == build.before:
                    build.before = None
            case "BuildRewound":
                first = list(build.results).index(data.checkpoint)
                if wish is None:
                    key = build.results[data.checkpoint]
                    expect(key in build.lost, "only what is lost is made again", event)
                    build.lost.discard(key)
                else:
                    expect(data.checkpoint == wish.start, "it rewinds to where was asked", event)
                    build.declined |= set(list(build.results.values())[first:])
                build.rewind(first)
            case "BuildResumed" if build.state == "pausing":
                expect(wish and wish.start is None, "only a person takes a pause back", event)
                expect(data.plan is None, "what runs goes on running", event)
                build.state, build.held, build.before = "running", False, data.pause_before
            case "BuildResumed":
                self._resume(build, data, wish)
            case "CancelRequested":
                build.state = "cancelling"
            case "BuildCancelled":
                self._stand(build, event)
                build.state = "cancelled"
            case "BuildCompleted":
                expect(build.next is None, "all has completed", event)
                build.state = "completed"
            case "BuildFailed":
                self._stand(build, event)
                build.state = "failed"
            case "BuildRemoved":
                build.removed = True

    def _resume(self, build: Build, data: Any, wish: Wish | None) -> None:
        if wish is None:
            expect(build.cause == "no-space", "only what lacked space goes on by itself", build)
            expect(not build.held, "a paused build stands until a person resumes it", build)
        elif wish.manifest is not None:
            same = 0
            for old, new in zip(build.manifest, wish.manifest, strict=False):
                if old != new:
                    break
                same += 1
            kept = min(same, len(build.results))
            expect(data.kept == kept, "the longest unchanged prefix is kept", data.kept, kept)
            build.rewind(kept)
            build.manifest = wish.manifest
            build.declined.clear()
        to_come = [name for name, _ in build.manifest[len(build.results) :]]
        if data.declines is not None:
            asked_for = wish and wish.start == build.next
            expect(asked_for and data.declines == wish.start, "it runs what was asked for", build)
            build.wanted = data.declines
        before = (wish and wish.before) or (build.before if build.before in to_come else None)
        expect(data.pause_before == before, "a wish to pause is kept", build, data.pause_before)
        build.before = before
        build.state, build.cause, build.held, build.kept = "queued", "", False, None

    def _stand(self, build: Build, event: Event) -> None:
        expect(build.open is None, "a build without an open attempt stands still", event)
        if event.type == "BuildPaused":
            expect(event.data.reason, "a paused build has a reason", event)  # type: ignore[attr-defined]

    def _check_origin(self, event: Event, wish: Wish | None) -> None:
        kinds = ASKED_FOR.get(event.type, ())
        if wish is None:
            alone = event.type in ("BuildResumed", "BuildRewound") or not kinds
            expect(alone, "nobody asked for it", event)
        elif kinds:
            expect(wish.kind in kinds, "it is what was asked for", event, wish)
            expect(wish.build in ("", event.build), "it is of the build that was named", event)

    def _check_place(self, build: Build) -> None:
        """There is a place for the build, and nobody who has waited has more right to it."""
        placed = sum(other.state in PLACED for other in self.builds.values())
        sooner = sum(
            other.rank < build.rank and other.state == "queued" and other.id in self.waiting
            for other in self.builds.values()
        )
        limit = self.world.settings.max_running_builds
        expect(placed < limit, "no more builds run than may", build.id, placed)
        expect(
            placed + sooner < limit,
            "the first in the queue, or with more priority, starts first",
            build,
        )

    # What runs

    def began(self, attempt: Attempt) -> None:
        """A worker was started."""
        self.observe()
        name, checkpoint, number = attempt.number
        build = self.builds[name]
        expect(
            build.open and build.open[:2] == (checkpoint, number),
            "an attempt is announced before it has any effect",
            attempt.number,
        )
        assert build.open is not None
        key = build.open[2]
        others = [self.builds[a.number[0]] for a in self.world.attempts if a is not attempt]
        expect(
            all(other.open is None or other.open[2] != key for other in others),
            "builds that need one layer at once make it once",
            attempt.number,
        )
        expect(not self._layer(key).exists(), "what is there is not made again", attempt.number)
        lines = attempt.history.read_text().splitlines() if attempt.history.exists() else []
        done = [" ".join(checkpoint) for checkpoint in build.manifest[: len(build.results)]]
        expect(lines == done, "a workspace is the layer before it", attempt.number, lines, done)

    # What always holds

    def check_always(self) -> None:
        """Also when the daemon is in the middle of something."""
        self.observe()
        for build in self.builds.values():
            for key in () if build.ended else build.results.values():
                there = self._layer(key).exists()
                expect(there or key in self.lost, "a layer that is needed is there", build.id, key)

    def check_at_rest(self) -> None:
        """When the daemon waits for the world."""
        world = self.world
        assert world.engine is not None
        states = {state.id: state.lifecycle for state in world.engine.records.unfinished()}
        expected = {build.id: build.state for build in self.builds.values() if not build.ended}
        expect(states == expected, "the engine knows what the log says", states, expected)
        for build in self.builds.values():
            if not world.log_is_full:
                expect(self._goes_on(build), "each build goes on or stands with a reason", build)
            positions = [event.position for event in build.events]
            if build.id in world.seen:
                seen = world.seen[build.id]
                expect(
                    seen == positions, "followers see each event once", build.id, seen, positions
                )
        if not world.log_is_full:
            self._check_workspaces()
        self.waiting = {build.id for build in self.builds.values() if build.state == "queued"}

    def _goes_on(self, build: Build) -> bool:
        at_work = any(attempt.number[0] == build.id for attempt in self.world.attempts)
        placed = sum(other.state in PLACED for other in self.builds.values())
        match build.state:
            case "queued":
                return placed >= self.world.settings.max_running_builds
            case "running":
                return at_work or any(self._is_made_by(build, a) for a in self.world.attempts)
            case "pausing" | "cancelling":
                return at_work
        return True

    def _is_made_by(self, build: Build, attempt: Attempt) -> bool:
        """Whether the attempt makes the layer that the build needs next."""
        other = self.builds[attempt.number[0]]
        count = len(build.results) + 1
        return len(other.results) + 1 == count and other.manifest[:count] == build.manifest[:count]

    def _check_workspaces(self) -> None:
        work = self.world.state_dir / "layers" / "copy" / ".work"
        found = {path.name for path in work.iterdir()}
        running = {attempt.order.workspace for attempt in self.world.attempts}
        kept = {build.kept for build in self.builds.values() if build.state == "failed"} - {None}
        expect(found >= running, "attempts have workspaces", found, running)
        expect(found - running <= kept, "nothing of an attempt is left", found, running, kept)

    def check_log(self) -> None:
        """The whole log, read anew: nothing has changed or gone, chains and projections are right."""
        events = self.world.log.read(limit=1_000_000)
        known = self.hashes
        expect([e.hash for e in events[: len(known)]] == known, "what is in the log stays there")
        problems = self.world.log.verify_all()
        expect(problems == [], "the log is whole", problems)

    def check_delivery(self) -> None:
        """Completed builds have their artifacts, removed ones nothing."""
        for build in self.builds.values():
            directory = self.world.state_dir / "artifacts" / build.id
            if build.removed:
                expect(not directory.exists(), "what was removed is gone", build.id)
            elif build.state == "completed":
                published = {
                    e.data.artifact.name: e.data.artifact  # type: ignore[attr-defined]
                    for e in build.events
                    if e.type == "ArtifactPublished"
                }
                verdicts = self.world.stores.artifacts.verify(build.id, published.values())
                expect(all(v.ok for v in verdicts), "artifacts are as published", verdicts)
                if "iso" in build.results:
                    content = (directory / "image.iso").read_text().splitlines()
                    whole = [" ".join(checkpoint) for checkpoint in build.manifest]
                    expect(content == whole, "the image is the manifest's", content, whole)

    def living(self) -> Sequence[Build]:
        return [build for build in self.builds.values() if not build.ended]

    def lose(self, build: Build) -> Path:
        """Layers are about to be taken away from outside: the last one of a build. What stands on it
        goes too. Returns its directory."""
        last = list(build.results.values())[-1]
        for other in self.builds.values():
            keys = list(other.results.values())
            if last in keys:
                gone = keys[keys.index(last) :]
                self.lost.update(gone)
                other.lost.update(gone)
        return self._layer(last)

    def _layer(self, key: str) -> Path:
        return self.world.state_dir / "layers" / "copy" / key

    def _key(self, build: Build) -> str | None:
        first: Any = build.events[0].data
        return first.idempotency_key

    def _by(self, event: Event) -> Wish | None:
        return self.wishes.get(event.actor.user)
