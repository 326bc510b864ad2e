"""Upcasters: functions that convert payloads of older schema versions when they are read.

Stored payloads never change. When the schema of an event type changes, its `VERSION` is raised and a
pure function is added here that turns the JSON object of one version into the next.
They are applied in sequence when an event is read. Every version ever released must stay readable.
"""

from collections.abc import Callable, Mapping

from statemachine.errors import DcdError
from statemachine.plan import Json

Upcaster = Callable[[dict[str, Json]], dict[str, Json]]

UPCASTERS: Mapping[tuple[str, int], Upcaster] = {}
"""(event type, version) to the function that produces the next version."""


def upcast(
    type_name: str,
    version: int,
    data: dict[str, Json],
    to_version: int,
    upcasters: Mapping[tuple[str, int], Upcaster] = UPCASTERS,
) -> dict[str, Json]:
    """The payload `data` of `version` as `to_version`. Raises DcdError when an upcaster is missing."""
    for step in range(version, to_version):
        if (type_name, step) not in upcasters:
            raise DcdError(
                f"event {type_name} version {step} cannot be read",
                f"no upcaster leads from version {step} to {step + 1}",
                "this is a defect of dcd: report it",
            )
        data = upcasters[type_name, step](data)
    return data
