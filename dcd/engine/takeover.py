"""Taking over a result of the same checkpoint from another layer, when nothing differs that it reads.

The launcher compares the layers and copies the changes (`store.layers.takeover`). The new layer is complete
and on disk before the event says so. When a result cannot be taken over, for whatever reason, the checkpoint
runs.
"""

import structlog

from dcd.launcher.client import Privileged
from dcd.planning.ground import same_results
from statemachine.build import BuildState
from statemachine.errors import DcdError
from statemachine.plan import Plan
from store.layers import Layer, LayerRecord, Layers

logger = structlog.get_logger()


def taken_over(
    state: BuildState, plan: Plan, index: int, layers: Layers, privileged: Privileged
) -> tuple[Layer, Layer] | None:
    """The layer of checkpoint `index`, made from an earlier result, and that; None when it has to run.
    Blocking."""
    planned = plan.checkpoints[index]
    inputs = planned.inputs
    if inputs is None or state.parent_key is None:
        return None
    for source in same_results(plan, index, layers):
        record = LayerRecord(
            key=planned.key,
            parent=state.parent_key,
            made_by=state.id,
            checkpoint=planned.name,
            attempt=0,
            seconds=source.record.seconds,
            left=source.record.left,
            warnings=source.record.warnings,
            own=source.record.own,
            taken_from=source.record.key,
            epoch=state.source_date_epoch,
        )
        name = f"{state.id}.{index}.taken"
        try:
            return privileged.take_over(record, source.record.key, inputs, name), source
        except (DcdError, OSError) as error:
            logger.info(
                "not taken over",
                build=state.id,
                checkpoint=planned.name,
                source=source.record.key,
                reason=str(error),
            )
    return None
