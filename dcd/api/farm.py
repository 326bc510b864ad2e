"""Handlers for the members of a farm. The table in `dcd.api.app` describes each."""

import asyncio
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from dcd.api.access import Action
from dcd.api.handling import Api
from dcd.api.operations import json_response
from dcd.engine.hosts import Host, Hosts, Wait, in_farm


@dataclass(frozen=True, slots=True)
class HostList:
    """The members of the farm, by name; none on a single machine. `waits` are the queued builds that no
    member has taken, and those that work and whose member is lost."""

    hosts: tuple[Host, ...]
    waits: tuple[Wait, ...] = ()


async def hosts(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    if api.engine.hosts is None:
        return json_response(HostList(()))
    return json_response(await _list(api.engine.hosts))


async def drain_host(api: Api, request: Request) -> Response:
    return await _drain(api, request, draining=True)


async def resume_host(api: Api, request: Request) -> Response:
    return await _drain(api, request, draining=False)


async def _drain(api: Api, request: Request, *, draining: bool) -> Response:
    api.require(request, Action.ADMINISTER)
    farm, host = in_farm(api.engine.hosts), request.path_params["host"]
    await asyncio.to_thread(farm.drain, host, draining=draining)
    return json_response(await _list(farm))


async def _list(farm: Hosts) -> HostList:
    census = await asyncio.to_thread(farm.census)
    return HostList(tuple(census.hosts), tuple(census.waits))


def problems(api: Api) -> list[str]:
    """What is wrong with this member, while it can serve."""
    return [] if api.engine.hosts is None else api.engine.hosts.problems()
