"""Upcasters: how payloads of older schema versions are read today.

Stored payloads never change. When the schema of an event type changes, its `VERSION` is raised and a
pure function is entered here that turns the JSON object of the version before into one of the next.
They are applied one after another when an event is read. Every version that was ever released must
still be readable.
"""

from collections.abc import Callable, Mapping

from statemachine.errors import DcdError
from statemachine.plan import Json

Upcaster = Callable[[dict[str, Json]], dict[str, Json]]

UPCASTERS: Mapping[tuple[str, int], Upcaster] = {}
"""(event type, version) to the function that makes the next version of it."""


def upcast(
    type_name: str,
    version: int,
    data: dict[str, Json],
    to_version: int,
    upcasters: Mapping[tuple[str, int], Upcaster] = UPCASTERS,
) -> dict[str, Json]:
    """The payload `data` of `version` as `to_version`. Raises DcdError where a step is missing."""
    for step in range(version, to_version):
        if (type_name, step) not in upcasters:
            raise DcdError(
                f"event {type_name} version {step} cannot be read",
                f"no upcaster leads from version {step} to {step + 1}",
                "this is a defect of dcd: report it",
            )
        data = upcasters[type_name, step](data)
    return data
