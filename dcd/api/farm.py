"""Handlers for the members of a farm. The table in `dcd.api.app` describes each."""

import asyncio
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from dcd.api.access import Action
from dcd.api.handling import Api
from dcd.api.operations import json_response
from dcd.engine.hosts import Host, Hosts
from statemachine.errors import Refused


@dataclass(frozen=True, slots=True)
class HostList:
    """The members of the farm, by name; none on a single machine."""

    hosts: tuple[Host, ...]


async def hosts(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    found = [] if api.engine.hosts is None else await asyncio.to_thread(api.engine.hosts.hosts)
    return json_response(HostList(tuple(found)))


async def drain_host(api: Api, request: Request) -> Response:
    return await _drain(api, request, draining=True)


async def resume_host(api: Api, request: Request) -> Response:
    return await _drain(api, request, draining=False)


async def _drain(api: Api, request: Request, *, draining: bool) -> Response:
    api.require(request, Action.ADMINISTER)
    farm, host = _farm(api), request.path_params["host"]
    await asyncio.to_thread(farm.drain, host, draining=draining)
    return json_response(HostList(tuple(await asyncio.to_thread(farm.hosts))))


def _farm(api: Api) -> Hosts:
    if api.engine.hosts is None:
        raise Refused(
            "this daemon is no member of a farm",
            "it builds alone, and has no table [farm] in its configuration",
            "docs/explanation/farm.md says how a farm is made",
        )
    return api.engine.hosts
