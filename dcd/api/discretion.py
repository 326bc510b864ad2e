"""Hiding secrets in events from all users except root and the user who supplied them.

Manifests, parameters and arguments contain passwords and hashes; the role `observe` shows everything
else.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from starlette.requests import Request

from dcd.api.handling import Api
from dcd.api.server import actor_of
from dcd.planner.tasks import WithSecrets
from statemachine.events import BuildResumed, BuildSubmitted, Event


async def shown(api: Api, request: Request, events: Sequence[Event]) -> list[Event]:
    """The events as the peer may see them."""
    return [
        await _without_secrets(api, request, event, event.data)
        if isinstance(event.data, BuildSubmitted | BuildResumed)
        and not api.sees_secrets(request, event.actor)
        else event
        for event in events
    ]


async def _without_secrets(
    api: Api, request: Request, event: Event, data: BuildSubmitted | BuildResumed
) -> Event:
    if data.manifest is None:
        return event
    secret = WithSecrets(data.manifest, data.parameters, data.plan)
    without = await api.manifests.without_secrets(secret, actor_of(request.scope))
    shown: dict[str, Any] = {
        name: getattr(without, name) for name in ("manifest", "parameters", "plan")
    }
    return replace(event, data=replace(data, **shown))
