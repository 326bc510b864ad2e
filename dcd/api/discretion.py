"""What events show to whom: their secrets only to the user who supplied them, and to root.

Manifests, parameters and arguments hold passwords and hashes; with the role `observe` one sees all the rest.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from starlette.requests import Request

from dcd.api.handling import Api
from dcd.manifest.withheld import withheld
from statemachine.events import BuildResumed, BuildSubmitted, Event


async def shown(api: Api, request: Request, events: Sequence[Event]) -> list[Event]:
    """The events as the peer may see them."""
    return [
        await asyncio.to_thread(_without_secrets, event, event.data)
        if isinstance(event.data, BuildSubmitted | BuildResumed)
        and not api.sees_secrets(request, event.actor)
        else event
        for event in events
    ]


def _without_secrets(event: Event, data: BuildSubmitted | BuildResumed) -> Event:
    if data.manifest is None:
        return event
    without = withheld(data.manifest)
    parameters = without.values(data.parameters)
    if isinstance(data, BuildSubmitted):
        plan = without.plan(data.plan)
        told = replace(data, manifest=without.text, parameters=parameters, plan=plan)
        return replace(event, data=told)
    new = None if data.plan is None else without.plan(data.plan)
    resumed = replace(data, manifest=without.text, parameters=parameters, plan=new)
    return replace(event, data=resumed)
