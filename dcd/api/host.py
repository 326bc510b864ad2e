"""Handlers for the daemon and its host; `dcd.api.app` says what each does."""

import asyncio
import os
from importlib.metadata import version as version_of

from starlette.requests import Request
from starlette.responses import Response

from dcd import doctor as host_doctor
from dcd.access import Action
from dcd.api import schemas
from dcd.api.handling import Api
from dcd.api.operations import json_response, problem_response
from dcd.manifest.checkpoint_types import registered

API = "v1"


async def version(api: Api, request: Request) -> Response:
    return json_response(
        schemas.VersionView(
            version_of("dcd"), API, os.getpid(), str(api.settings().state_dir), api.started_at
        )
    )


async def health(api: Api, request: Request) -> Response:
    if trouble := api.engine.builds.log.trouble:
        return problem_response(trouble)
    return json_response(schemas.Health("ok"))


async def doctor(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    checks = await asyncio.to_thread(host_doctor.examine, api.settings().state_dir)
    return json_response(schemas.HostChecks(tuple(checks)))


async def checkpoint_types(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    modules = api.settings().checkpoint_modules
    types, problems = await asyncio.to_thread(registered, modules)
    return json_response(schemas.CheckpointTypes(tuple(types), tuple(problems)))
