"""The API's views of builds, created from their folded state."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

from dcd.api.schemas import BuildSummary, BuildView, CheckpointView
from dcd.engine.builds import now
from dcd.platform.host_labels import public
from statemachine.build import BuildState
from statemachine.keys import grown_from
from statemachine.outlook import Outlook, attempt_seconds
from statemachine.plan import PlannedCheckpoint
from statemachine.results import Artifact
from store.eventlog import BuildSummary as StoredSummary


def build_view(
    state: BuildState,
    artifact_path: Callable[[str, Artifact], Path],
    parameters: dict[str, str],
    ahead: Outlook,
    waits: str = "",
    there: str = "",
) -> BuildView:
    """A build with its checkpoints, its artifacts (with absolute paths), the parameters that may be
    shown, how far it is, and, if its state has no other reason, the cause of its waiting. Paths of artifacts
    on another member than this one are its name, `there`, and the path in its state directory."""
    present = now()
    return BuildView(
        id=state.id,
        name=state.name,
        state=state.lifecycle,
        reason=_reason(state) or (f"waits for {waits}" if waits else ""),
        submitted_at=state.submitted_at,
        updated_at=state.updated_at,
        actor=state.actor,
        priority=state.priority,
        pause_before=state.pause_before,
        parameters=parameters,
        checkpoints=tuple(
            CheckpointView(
                name=record.name,
                description=planned.description,
                state=record.state,
                attempts=record.attempts,
                key=record.key,
                seconds=record.seconds,
                estimate_seconds=planned.estimate_seconds,
                reused_from=record.reused_from,
                error=record.error,
                warnings=(*record.damaged, *(record.warnings if record.done else ())),
                variances=planned.variances,
                base=record.base,
                grown_from=grown_from(planned),
                taken_from=record.taken_from,
                elapsed_seconds=attempt_seconds(record, present),
                publications=record.publications if record.done else (),
                place=_place(planned, state.manifest_path),
            )
            for planned, record in zip(state.plan.checkpoints, state.checkpoints, strict=True)
        ),
        artifacts=tuple(
            replace(artifact, path=_shown(artifact_path(state.id, artifact), there))
            for artifact in state.published
        ),
        error=state.error,
        source_date_epoch=state.source_date_epoch,
        time_origin=state.time_origin,
        undelivered=state.undelivered,
        manifest_path=state.manifest_path,
        inputs=state.inputs,
        removed_at=state.removed_at,
        removed_by=state.removed_by,
        reproduces=state.reproduces,
        profiles=state.profiles,
        fraction=ahead.fraction,
        elapsed_seconds=ahead.elapsed_seconds,
        remaining_seconds=ahead.remaining_seconds,
        group=state.group,
        cell=dict(state.cell),
        requires=public(state.requires),
        host=state.host,
    )


def _place(planned: PlannedCheckpoint, manifest_path: str) -> str:
    """The place of a checkpoint's element, the first of `dcd.manifest.places`."""
    line, _, file = (planned.places or ("",))[0].partition(" ")
    return f"{file or manifest_path}:{line}" if line else ""


def _reason(state: BuildState) -> str:
    if state.removed_at is None or state.removed_by is None:
        return state.reason
    return f"removed by {state.removed_by.user} at {state.removed_at:%Y-%m-%d %H:%M:%S} UTC"


def summary_view(
    stored: StoredSummary, ahead: Outlook, superseded_by: str | None = None
) -> BuildSummary:
    """A build in a list, with how far it is."""
    seen = {field.name: getattr(ahead, field.name) for field in fields(Outlook)}
    others = (field.name for field in fields(BuildSummary) if hasattr(stored, field.name))
    known = {name: getattr(stored, name) for name in others}
    return BuildSummary(**known, **seen, superseded_by=superseded_by)


def _shown(path: Path, there: str) -> str:
    """The path of an artifact, `artifacts/BUILD/NAME` in the state directory of its host."""
    return f"{there}:{path.relative_to(path.parents[2])}" if there else str(path)
