"""Handlers for webhooks. The table in `dcd.api.app` describes each."""

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from dcd.api.access import Action
from dcd.api.handling import Api
from dcd.api.operations import json_response
from dcd.doctor import HostCheck
from dcd.notify.notifier import HookState


@dataclass(frozen=True, slots=True)
class WebhookList:
    """The webhooks of the settings, each with its state."""

    webhooks: tuple[HookState, ...]


async def webhooks(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    return json_response(WebhookList(tuple(api.engine.notifier.states())))


async def test_webhook(api: Api, request: Request) -> Response:
    api.require(request, Action.ADMINISTER)
    return json_response(await api.engine.notifier.test(request.path_params["name"]))


def examined(states: list[HookState]) -> list[HostCheck]:
    """The webhooks for `doctor`."""
    return [_check(state) for state in states]


def _check(state: HookState) -> HostCheck:
    name = f"webhook {state.name}"
    if state.state != "failing":
        return HostCheck(name, "ok", f"{state.delivered} delivered since the daemon's start")
    times = f"{state.attempts} attempt{'s' * (state.attempts != 1)} failed"
    next_at = f", next at {state.next_attempt_at:%H:%M:%S} UTC" if state.next_attempt_at else ""
    return HostCheck(
        name,
        "warning",
        f"{times}: {state.error}; {state.behind} events wait in the event log{next_at}",
        f"repair the receiver; dcctl notify test {state.name} tries at once. To give the waiting events up, "
        "remove the hook from the settings, reload, and add it again",
    )
