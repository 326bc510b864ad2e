"""Commands: what somebody wants, and the events that follow from it.

`decide` turns a command and the present machine into the payloads to append, all of them or none: they
have been tried on the machine, which refuses what is not legal. A wish that already holds gives no event and
no error, so a command may be sent twice. Facts of the engine's own (an attempt began, a layer is committed)
need no decision: they are payloads already. Pure: no I/O, no clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from statemachine.build import BuildState, Lifecycle
from statemachine.errors import NotFound, Refused, Removed, UsageError
from statemachine.events import (
    BuildCancelled,
    BuildFailed,
    BuildPaused,
    BuildRemoved,
    BuildResumed,
    BuildRewound,
    BuildStarted,
    BuildSubmitted,
    CancelRequested,
    CheckpointFailed,
    CheckpointInterrupted,
    ErrorInfo,
    InputFile,
    PauseRequested,
    Payload,
)
from statemachine.fold import advance
from statemachine.keys import chain, continued, kept_prefix
from statemachine.machine import BuildMachine
from statemachine.plan import Plan

PARK_AFTER = 3
"""So many interruptions of one checkpoint in a row park the build."""

HAS_PLACE = frozenset({Lifecycle.RUNNING, Lifecycle.PAUSING, Lifecycle.CANCELLING})
"""States in which the engine may be at work for a build."""


@dataclass(frozen=True, slots=True)
class Start:
    """Give a queued build its place; one that has it, after a restart of the daemon, keeps it."""


@dataclass(frozen=True, slots=True)
class RequestPause:
    """Stop before checkpoint `before`, or, when None, as soon as the running one has ended."""

    before: str | None = None


@dataclass(frozen=True, slots=True)
class Replacement:
    """A new manifest for a build, parsed and planned as at submit."""

    manifest: str
    manifest_path: str
    plan: Plan
    inputs: tuple[InputFile, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on: from where the build is, or from before checkpoint `from_checkpoint`, which then runs and is not
    reused, or with a new manifest, of which the longest unchanged prefix is kept. A build that is pausing
    goes on as if no pause had been requested."""

    from_checkpoint: str | None = None
    pause_before: str | None = None
    replacement: Replacement | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """Let a failed build go on from where it stands."""


@dataclass(frozen=True, slots=True)
class RequestCancel:
    """Give the build up. One without an open attempt is cancelled at once, unless it has a place:
    then the engine, which may be at work for it, finishes the cancel."""


@dataclass(frozen=True, slots=True)
class Remove:
    """Drop the artifacts and logs of an ended build. Append the event first, then remove."""


@dataclass(frozen=True, slots=True)
class FailCheckpoint:
    """The checkpoint failed, and the build with it: in its open attempt, or before one could begin."""

    checkpoint: str
    error: ErrorInfo
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class InterruptCheckpoint:
    """The open attempt ended without a verdict; causes as in CheckpointInterrupted. `no-space`, and a
    counted cause `PARK_AFTER` times in a row, pause the build."""

    checkpoint: str
    cause: str
    details: str = ""


@dataclass(frozen=True, slots=True)
class Pause:
    """Pause a build without an open attempt. `wanted`: only if somebody still wants it to pause here."""

    reason: str
    cause: str = "requested"
    wanted: bool = False


Command = (
    Start
    | RequestPause
    | Resume
    | Retry
    | RequestCancel
    | Remove
    | FailCheckpoint
    | InterruptCheckpoint
    | Pause
)

Change = Command | Payload
"""What changes a build: a wish, or a fact of the engine's own, which is recorded as it is."""


def submit(payload: BuildSubmitted) -> tuple[Payload, ...]:
    """The first events of a build. Raises UsageError for a plan that cannot be run, NotFound when it
    is to pause before a checkpoint that does not exist."""
    names = [checkpoint.name for checkpoint in payload.plan.checkpoints]
    if not names:
        raise UsageError("a build needs at least one checkpoint")
    _check_plan(payload.plan)
    if payload.pause_before is not None and payload.pause_before not in names:
        raise NotFound(
            f"the plan has no checkpoint {payload.pause_before}",
            f"its checkpoints are: {', '.join(names)}",
        )
    return (payload,)


def decide(machine: BuildMachine, change: Change) -> tuple[Payload, ...]:
    """The payloads to append for `change`, in order and together; none when the wish already holds. Raises
    Refused, or NotFound for a checkpoint that does not exist."""
    if machine.state.removed and not isinstance(change, Remove):
        raise removed(machine.state)
    payloads = (change,) if isinstance(change, Payload) else _payloads(machine.state, change)
    machine.accept(*payloads)
    return payloads


def removed(state: BuildState) -> Removed:
    """That a build was removed, as an error for whoever asks for what is gone."""
    assert state.removed_at is not None and state.removed_by is not None
    return Removed(
        f"build {state.id} was removed",
        f"by {state.removed_by.user} at {state.removed_at:%Y-%m-%d %H:%M:%S} UTC; it was {state.lifecycle}",
        f"its events are kept: dcctl events {state.id}",
    )


def _payloads(state: BuildState, command: Command) -> tuple[Payload, ...]:
    match command:
        case Start():
            return () if state.lifecycle in HAS_PLACE else (BuildStarted(),)
        case RequestPause():
            return _pause(state, command)
        case Resume():
            return _resume(state, command)
        case Retry():
            return _retry(state)
        case RequestCancel():
            return _cancel(state)
        case Remove():
            return () if state.removed else (BuildRemoved(),)
        case FailCheckpoint():
            return _fail(state, command)
        case InterruptCheckpoint():
            return _interrupt(state, command)
        case Pause():
            if command.wanted and not _is_to_pause(state):
                raise Refused(f"no pause of build {state.id} is wanted any more")
            return (_paused(state, command.reason, command.cause),)


def _pause(state: BuildState, command: RequestPause) -> tuple[Payload, ...]:
    if command.before is None:
        if state.lifecycle is Lifecycle.PAUSED and state.cause == "no-space":
            # It would go on by itself.
            return (BuildPaused("paused as requested"),)
        if state.lifecycle in (Lifecycle.PAUSING, Lifecycle.PAUSED):
            return ()
        if state.lifecycle is Lifecycle.QUEUED:
            return (PauseRequested(), BuildPaused("paused as requested"))
        return (PauseRequested(),)
    state.index(command.before)
    return () if command.before == state.pause_before else (PauseRequested(command.before),)


def _resume(state: BuildState, command: Resume) -> tuple[Payload, ...]:
    if _goes_on_as_wished(state, command):
        return ()
    if state.lifecycle is Lifecycle.PAUSING:
        return _withdraw_pause(state, command)
    rewound: tuple[Payload, ...] = ()
    declines = None
    if command.from_checkpoint is not None:
        if state.index(command.from_checkpoint) == state.completed:
            # There is nothing to rewind, but whoever names it wants it to run.
            declines = command.from_checkpoint
        else:
            rewound = (BuildRewound(command.from_checkpoint),)
            state = advance(state, rewound[0])
    new = command.replacement
    plan = state.plan
    kept = state.completed
    if new is not None:
        _check_plan(new.plan)
        plan = continued(new.plan, state.plan, state.completed)
        kept = min(kept_prefix(state.plan, plan), kept)
    to_come = [checkpoint.name for checkpoint in plan.checkpoints[kept:]]
    pause_before = command.pause_before
    if pause_before is None and state.pause_before in to_come:
        pause_before = state.pause_before
    if declines not in to_come:
        declines = None
    if new is None:
        return (*rewound, BuildResumed(pause_before, declines=declines))
    return (
        *rewound,
        BuildResumed(
            pause_before=pause_before,
            manifest=new.manifest,
            manifest_path=new.manifest_path,
            plan=plan,
            inputs=new.inputs,
            parameters=dict(new.parameters),
            kept=kept,
            declines=declines,
        ),
    )


def _withdraw_pause(state: BuildState, command: Resume) -> tuple[Payload, ...]:
    """The checkpoint that runs goes on running, so nothing else can change now."""
    changed = command.replacement is not None and not _is_in_force(state, command.replacement)
    if changed or command.from_checkpoint is not None:
        wish = "another manifest" if changed else f"from {command.from_checkpoint}"
        raise Refused(
            f"cannot resume build {state.id} {'with ' if changed else ''}{wish}: it is pausing",
            "its checkpoint is still running",
            f"wait until it is paused (dcctl follow {state.id}); `dcctl resume {state.id}` alone takes the"
            " pause back",
        )
    return (BuildResumed(command.pause_before or state.pause_before),)


def _is_to_pause(state: BuildState) -> bool:
    following = state.next
    return state.lifecycle in (Lifecycle.PAUSING, Lifecycle.PAUSED) or (
        following is not None and following.name == state.pause_before
    )


def _retry(state: BuildState) -> tuple[Payload, ...]:
    if state.lifecycle in (Lifecycle.PAUSING, Lifecycle.PAUSED):
        raise Refused(
            f"cannot retry build {state.id}: it is {state.lifecycle}, it has not failed",
            state.reason,
            f"`dcctl resume {state.id}` lets it go on",
        )
    return _resume(state, Resume())


def _goes_on_as_wished(state: BuildState, command: Resume) -> bool:
    """Whether the build is going on already, and from there, so far and with that manifest."""
    if state.lifecycle not in (Lifecycle.QUEUED, Lifecycle.RUNNING):
        return False
    running = state.running.name if state.running else None
    return (
        command.from_checkpoint in (None, state.rewound_to, running)
        and command.pause_before in (None, state.pause_before)
        and (command.replacement is None or _is_in_force(state, command.replacement))
    )


def _is_in_force(state: BuildState, new: Replacement) -> bool:
    wanted = (new.manifest, new.inputs, dict(new.parameters))
    return wanted == (state.manifest, state.inputs, dict(state.parameters))


def _cancel(state: BuildState) -> tuple[Payload, ...]:
    if state.lifecycle in (Lifecycle.CANCELLING, Lifecycle.CANCELLED):
        return ()
    if state.lifecycle in HAS_PLACE:
        return (CancelRequested(),)
    return (CancelRequested(), BuildCancelled())


def _fail(state: BuildState, command: FailCheckpoint) -> tuple[Payload, ...]:
    record = state.checkpoints[state.index(command.checkpoint)]
    failed = CheckpointFailed(record.name, record.attempts, command.error, command.seconds)
    if state.lifecycle is Lifecycle.CANCELLING:
        return (failed,) if state.running else ()
    build_failed = BuildFailed(record.name, command.error)
    return (failed, build_failed) if state.running else (build_failed,)


def _interrupt(state: BuildState, command: InterruptCheckpoint) -> tuple[Payload, ...]:
    attempt = state.checkpoints[state.index(command.checkpoint)].attempts
    interrupted = CheckpointInterrupted(command.checkpoint, attempt, command.cause, command.details)
    if state.lifecycle is Lifecycle.CANCELLING:
        return (interrupted,)
    if command.cause == "no-space":
        reason = (
            f"{command.checkpoint} ran out of space: {command.details or 'free some, then resume'}"
        )
        return (interrupted, _paused(state, reason, "no-space"))
    after = advance(state, interrupted)
    record = after.checkpoints[after.index(command.checkpoint)]
    if record.interruptions < PARK_AFTER:
        return (interrupted,)
    reason = (
        f"{command.checkpoint} was interrupted {record.interruptions} times in a row,"
        f" at last because of {command.cause}; find the cause, then resume"
    )
    return (interrupted, BuildPaused(reason, "interrupted"))


def _paused(state: BuildState, reason: str, cause: str) -> BuildPaused:
    """Whatever stops it, a build that a person wanted to stand still does not go on by itself."""
    return BuildPaused(reason, "requested" if state.lifecycle is Lifecycle.PAUSING else cause)


def _check_plan(plan: Plan) -> None:
    names = [checkpoint.name for checkpoint in plan.checkpoints]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"checkpoint names are not unique: {', '.join(twice)}")
    if chain(plan.checkpoints) != plan:
        raise UsageError(
            "the plan's keys do not follow from its ingredients",
            resolution="this is a defect of the planner: report it",
        )
