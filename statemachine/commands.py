"""Commands: requests to a build, and the events that result from them.

`decide` turns a command and the present machine into the payloads to append, all or none: the machine has
accepted them in order and refuses illegal ones. A request that is already fulfilled gives no event and
no error, so commands are idempotent. Facts that the engine reports (an attempt began, a layer is committed)
need no decision: they are payloads already. Pure: no I/O, no clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from statemachine import events
from statemachine.build import BuildState, Lifecycle
from statemachine.errors import NotFound, Refused, Removed, UsageError
from statemachine.fold import advance
from statemachine.keys import chain, continued, kept_prefix
from statemachine.lifecycle import AT_WORK
from statemachine.machine import BuildMachine
from statemachine.plan import Plan
from statemachine.results import ErrorInfo

PARK_AFTER = 3
"""Number of consecutive interruptions of one checkpoint after which the build is parked."""


@dataclass(frozen=True, slots=True)
class Start:
    """Give a queued build its slot; a build that had a slot before a restart of the daemon keeps it. The
    fields are those of BuildStarted."""

    builder: str = ""
    version: str = ""
    backend: str = ""


@dataclass(frozen=True, slots=True)
class RequestPause:
    """Pause before checkpoint `before`; when None, as soon as the running checkpoint ends."""

    before: str | None = None


@dataclass(frozen=True, slots=True)
class WithdrawPause:
    """Withdraw a requested pause that the build has not reached."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """A new manifest for a build, parsed and planned as at submit."""

    manifest: str
    manifest_path: str
    plan: Plan
    inputs: tuple[events.InputFile, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    profiles: tuple[str, ...] = ()
    time_origin: str = ""
    requires: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Resume:
    """Continue from the present position, or from checkpoint `from_checkpoint`, which then runs and is not
    reused, or with a new manifest, which keeps the longest unchanged prefix. In a build that is pausing
    it withdraws the pause."""

    from_checkpoint: str | None = None
    pause_before: str | None = None
    replacement: Replacement | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """Continue a failed build from its present position."""


@dataclass(frozen=True, slots=True)
class RequestCancel:
    """Cancel the build. A build without an open attempt is cancelled at once, unless it has a slot:
    then the engine, which may be working on it, completes the cancellation."""


@dataclass(frozen=True, slots=True)
class RequestMove:
    """Have the member `to` of the farm ("": any other one) drive the build, after its running checkpoint."""

    to: str = ""


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove the artifacts and logs of an ended build. The event is appended before the files are removed."""


@dataclass(frozen=True, slots=True)
class FailCheckpoint:
    """Fail the checkpoint and the build: in its open attempt, or before an attempt could begin."""

    checkpoint: str
    error: ErrorInfo
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class InterruptCheckpoint:
    """End the open attempt without a verdict; causes as in CheckpointInterrupted. `no-space` pauses the
    build, and so does a counted cause the `PARK_AFTER`th time in a row."""

    checkpoint: str
    cause: str
    details: str = ""


@dataclass(frozen=True, slots=True)
class Pause:
    """Pause a build without an open attempt. `wanted`: only if a pause here is still requested."""

    reason: str
    cause: str = "requested"
    wanted: bool = False


Command = (
    Start
    | RequestPause
    | WithdrawPause
    | Resume
    | Retry
    | RequestCancel
    | RequestMove
    | Remove
    | FailCheckpoint
    | InterruptCheckpoint
    | Pause
)

Change = Command | events.Payload
"""A change to a build: a command, or a fact from the engine, which is recorded unchanged."""


def repeated(first: BuildState, plan: Plan) -> events.BuildSubmitted:
    """The submit of a build from all that `first` was made of, with this plan, which reuses nothing of other
    builds."""
    return events.BuildSubmitted(
        name=first.name,
        manifest=first.manifest,
        manifest_path=first.manifest_path,
        plan=plan,
        inputs=first.inputs,
        parameters=dict(first.parameters),
        profiles=first.profiles,
        fresh=True,
        priority=first.priority,
        time_origin=first.time_origin,
        require=first.require,
        requires=first.requires,
    )


def submit(payload: events.BuildSubmitted) -> tuple[events.Payload, ...]:
    """The first events of a build. Raises UsageError for a plan that cannot run, NotFound when
    `pause_before` names a checkpoint that does not exist."""
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


def decide(machine: BuildMachine, change: Change) -> tuple[events.Payload, ...]:
    """The payloads to append for `change`, in order and together; none when it is already fulfilled. Raises
    Refused, or NotFound for a checkpoint that does not exist."""
    if machine.state.removed and not isinstance(change, Remove):
        raise removed(machine.state)
    payloads = (change,) if isinstance(change, events.Payload) else _payloads(machine.state, change)
    machine.accept(*payloads)
    return payloads


def removed(state: BuildState) -> Removed:
    """The error for a request about a removed build."""
    assert state.removed_at is not None and state.removed_by is not None
    return Removed(
        f"build {state.id} was removed",
        f"by {state.removed_by.user} at {state.removed_at:%Y-%m-%d %H:%M:%S} UTC; it was {state.lifecycle}",
        f"its events are kept: dcctl events {state.id}",
    )


def _payloads(state: BuildState, command: Command) -> tuple[events.Payload, ...]:
    match command:
        case Start():
            started = events.BuildStarted(command.builder, command.version, command.backend)
            return () if state.lifecycle in AT_WORK else (started,)
        case RequestPause():
            return _pause(state, command)
        case WithdrawPause():
            goes_on = state.lifecycle in (Lifecycle.QUEUED, Lifecycle.RUNNING, Lifecycle.FAILED)
            return () if goes_on and state.pause_before is None else (events.PauseWithdrawn(),)
        case Resume():
            return _resume(state, command)
        case Retry():
            return _retry(state)
        case RequestCancel():
            return _cancel(state)
        case RequestMove():
            return _move(state, command)
        case Remove():
            return () if state.removed else (events.BuildRemoved(),)
        case FailCheckpoint():
            return _fail(state, command)
        case InterruptCheckpoint():
            return _interrupt(state, command)
        case Pause():
            if command.wanted and not _is_to_pause(state):
                raise Refused(f"the pause of build {state.id} was withdrawn")
            return (_paused(state, command.reason, command.cause),)


def _pause(state: BuildState, command: RequestPause) -> tuple[events.Payload, ...]:
    if command.before is None:
        if state.lifecycle is Lifecycle.PAUSED and state.cause == "no-space":
            # Without this event the build would resume automatically.
            return (events.BuildPaused("paused as requested"),)
        if state.lifecycle in (Lifecycle.PAUSING, Lifecycle.PAUSED):
            return ()
        if state.lifecycle is Lifecycle.QUEUED:
            return (events.PauseRequested(), events.BuildPaused("paused as requested"))
        return (events.PauseRequested(),)
    state.index(command.before)
    return () if command.before == state.pause_before else (events.PauseRequested(command.before),)


def _resume(state: BuildState, command: Resume) -> tuple[events.Payload, ...]:
    if _is_already_as_requested(state, command):
        return ()
    if state.lifecycle is Lifecycle.PAUSING:
        return _withdraw_pause(state, command)
    rewound: tuple[events.Payload, ...] = ()
    declines = None
    if command.from_checkpoint is not None:
        if state.index(command.from_checkpoint) == state.completed:
            # There is nothing to rewind, but a named checkpoint must run and not be reused.
            declines = command.from_checkpoint
        else:
            rewound = (events.BuildRewound(command.from_checkpoint),)
            state = advance(state, rewound[0])
    new = command.replacement
    plan = state.plan
    kept = state.completed
    if new is not None:
        if state.rebuild is not None:
            raise Refused(
                f"build {state.id} is a rebuild: it has the manifest of build {state.rebuild.build}",
                "the result of another one would say nothing about that build",
                f"resume it without a manifest: dcctl resume {state.id}",
            )
        _check_plan(new.plan)
        plan = continued(new.plan, state.plan, state.completed)
        kept = min(kept_prefix(state.plan, plan), kept)
    to_come = [checkpoint.name for checkpoint in plan.checkpoints[kept:]]
    pause_before = command.pause_before
    if pause_before is None and state.pause_before in to_come:
        pause_before = state.pause_before
    if declines not in to_come:
        declines = None
    resumed = events.BuildResumed(pause_before, declines=declines)
    if new is not None:
        resumed = replace(
            resumed,
            manifest=new.manifest,
            manifest_path=new.manifest_path,
            plan=plan,
            inputs=new.inputs,
            parameters=dict(new.parameters),
            profiles=new.profiles,
            kept=kept,
            time_origin=new.time_origin,
            requires=new.requires,
        )
    return (*rewound, resumed)


def _withdraw_pause(state: BuildState, command: Resume) -> tuple[events.Payload, ...]:
    """The payloads that withdraw a pause. The running checkpoint continues, so nothing else can change."""
    changed = command.replacement is not None and not _is_in_force(state, command.replacement)
    if changed or command.from_checkpoint is not None:
        wish = "another manifest" if changed else f"from {command.from_checkpoint}"
        raise Refused(
            f"cannot resume build {state.id} {'with ' if changed else ''}{wish}: it is pausing",
            "its checkpoint is still running",
            f"wait until it is paused (dcctl follow {state.id}); `dcctl resume {state.id}` without options"
            " withdraws the pause",
        )
    return (events.BuildResumed(command.pause_before or state.pause_before),)


def _is_to_pause(state: BuildState) -> bool:
    following = state.next
    return state.lifecycle in (Lifecycle.PAUSING, Lifecycle.PAUSED) or (
        following is not None and following.name == state.pause_before
    )


def _retry(state: BuildState) -> tuple[events.Payload, ...]:
    if state.lifecycle in (Lifecycle.PAUSING, Lifecycle.PAUSED):
        raise Refused(
            f"cannot retry build {state.id}: it is {state.lifecycle}, not failed",
            state.reason,
            f"continue it with `dcctl resume {state.id}`",
        )
    return _resume(state, Resume())


def _is_already_as_requested(state: BuildState, command: Resume) -> bool:
    """Whether the build already runs with the requested start, pause and manifest."""
    if state.lifecycle not in (Lifecycle.QUEUED, Lifecycle.RUNNING):
        return False
    running = state.running.name if state.running else None
    return (
        command.from_checkpoint in (None, state.rewound_to, running)
        and command.pause_before in (None, state.pause_before)
        and (command.replacement is None or _is_in_force(state, command.replacement))
    )


def _is_in_force(state: BuildState, new: Replacement) -> bool:
    wanted = (new.manifest, new.inputs, dict(new.parameters), new.profiles)
    return wanted == (state.manifest, state.inputs, dict(state.parameters), state.profiles)


def _cancel(state: BuildState) -> tuple[events.Payload, ...]:
    if state.lifecycle in (Lifecycle.CANCELLING, Lifecycle.CANCELLED):
        return ()
    if state.lifecycle in AT_WORK:
        return (events.CancelRequested(),)
    return (events.CancelRequested(), events.BuildCancelled())


def _move(state: BuildState, command: RequestMove) -> tuple[events.Payload, ...]:
    stops = "it stops after its running checkpoint"
    advice = {
        Lifecycle.PAUSING: (stops, "wait until it is paused, and resume it"),
        Lifecycle.PAUSED: (_UNDRIVEN, f"continue it: dcctl resume {state.id}"),
        Lifecycle.FAILED: (_UNDRIVEN, f"continue it: dcctl retry {state.id}"),
    }.get(state.lifecycle)
    if advice is not None:
        raise Refused(f"cannot move build {state.id}: it is {state.lifecycle}", *advice)
    return () if state.moves_to == command.to else (events.MoveRequested(command.to),)


_UNDRIVEN = "no member drives it, and any that has its labels may take it when it continues"


def _fail(state: BuildState, command: FailCheckpoint) -> tuple[events.Payload, ...]:
    record = state.checkpoints[state.index(command.checkpoint)]
    failed = events.CheckpointFailed(record.name, record.attempts, command.error, command.seconds)
    if state.lifecycle is Lifecycle.CANCELLING:
        return (failed,) if state.running else ()
    build_failed = events.BuildFailed(record.name, command.error)
    return (failed, build_failed) if state.running else (build_failed,)


def _interrupt(state: BuildState, command: InterruptCheckpoint) -> tuple[events.Payload, ...]:
    attempt = state.checkpoints[state.index(command.checkpoint)].attempts
    interrupted = events.CheckpointInterrupted(
        command.checkpoint, attempt, command.cause, command.details
    )
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
        f" most recently by {command.cause}; find the cause, then resume"
    )
    return (interrupted, events.BuildPaused(reason, "interrupted"))


def _paused(state: BuildState, reason: str, cause: str) -> events.BuildPaused:
    """A requested pause prevails over `cause`, so that the build does not resume automatically."""
    return events.BuildPaused(
        reason, "requested" if state.lifecycle is Lifecycle.PAUSING else cause
    )


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
