"""Handlers for the daemon and its host. The table in `dcd.api.app` describes each."""

import asyncio
import base64
import os
from datetime import UTC, datetime
from importlib.metadata import version as version_of

from starlette.requests import Request
from starlette.responses import Response

from dcd import doctor as host_doctor
from dcd.api import farm, schemas
from dcd.api.access import Action, Role, roles
from dcd.api.handling import Api
from dcd.api.metrics import CONTENT_TYPE
from dcd.api.operations import body_of, json_response
from dcd.api.problems import problem_response
from dcd.api.server import API, actor_of
from dcd.api.stream import file_response
from dcd.api.webhooks import examined
from dcd.configuration import LiveSetting, plain
from dcd.construction.checkpoint_types import registered


async def version(api: Api, request: Request) -> Response:
    return json_response(
        schemas.VersionView(
            version_of("dcd"), API, os.getpid(), str(api.settings().state_dir), api.started_at
        )
    )


async def health(api: Api, request: Request) -> Response:
    """Readiness: whether the daemon accepts commands now."""
    if trouble := await asyncio.to_thread(api.engine.trouble):
        return problem_response(trouble)
    loss, shared = api.engine.losses.error, api.engine.sharing.state()
    warnings = [f"{loss.brief}: {loss.details}"] if loss else []
    warnings += [shared.trouble] if shared and shared.trouble else []
    warnings += farm.problems(api)
    return json_response(schemas.Health("warning" if warnings else "ok", tuple(warnings)))


async def live(api: Api, request: Request) -> Response:
    """Liveness: a response shows that the event loop runs. A restart would not fix other problems."""
    return json_response(schemas.Health("ok"))


async def who_am_i(api: Api, request: Request) -> Response:
    actor = actor_of(request.scope)
    held: frozenset[Role] | None = request.scope.get("dcd.roles")
    if held is None:
        held = await asyncio.to_thread(roles, api.settings(), actor)
    names = tuple(role.value for role in Role if role in held)
    return json_response(schemas.PeerView(actor.user, actor.uid, actor.gid, names))


async def metrics(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    return Response(await api.metrics.scrape(api.engine), media_type=CONTENT_TYPE)


async def configuration(api: Api, request: Request) -> Response:
    api.require(request, Action.ADMINISTER)
    return json_response(schemas.ConfigurationView(tuple(map(_view, api.settings.settings()))))


async def reload(api: Api, request: Request) -> Response:
    """Reload the settings, like SIGHUP."""
    api.require(request, Action.ADMINISTER)
    return json_response(api.settings.reload())


def _view(live: LiveSetting) -> schemas.SettingView:
    setting, waiting = live.setting, None
    if live.waiting is not None:
        value, origin = live.waiting
        waiting = schemas.WaitingValue(plain(value), origin)
    return schemas.SettingView(
        setting.name, plain(live.value), live.origin, setting.unit, setting.reloads, waiting
    )


async def doctor(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    examined_host = await asyncio.to_thread(api.engine.examine_host)
    # It looks at the state directory, which may not answer.
    event_log = await asyncio.to_thread(_event_log, api)
    content = await asyncio.to_thread(_content, api)
    found = (host_doctor.HostCheck(**check) for check in examined_host)
    hooks = examined(api.engine.notifier.states())
    hosts = api.engine.hosts
    members = [] if hosts is None else await asyncio.to_thread(hosts.examine)
    checks = (*found, event_log, content, *members, *await asyncio.to_thread(_shared, api), *hooks)
    return json_response(schemas.HostChecks(checks))


def _shared(api: Api) -> list[host_doctor.HostCheck]:
    """How layers are shared, if they are."""
    state = api.engine.sharing.examine()
    if state is None:
        return []
    if not state.trouble:
        return [host_doctor.HostCheck("shared layers", "ok", state.summary)]
    text = f"{state.summary}; {state.trouble}"
    return [host_doctor.HostCheck("shared layers", "warning", text, state.remedy)]


def _content(api: Api) -> host_doctor.HostCheck:
    """What the checks of layers have found."""
    found, days = api.engine.soundness(), api.settings().scrub_days
    parts = [f"{found.layers} layers"]
    if found.read_since is not None:
        when = datetime.fromtimestamp(found.read_since, UTC)
        parts.append(f"all read since {when:%Y-%m-%d %H:%M} UTC")
    if found.unrecorded:
        parts.append(f"{found.unrecorded} of an earlier version cannot be checked")
    parts.append(f"read every {days:g} days" if days else "not read in the background (scrub_days)")
    if found.damaged:
        remedy = (
            "look for a failing disk or memory; dcctl verify --layers names the files, dcctl gc removes "
            "the layers, and builds make them again"
        )
        return host_doctor.HostCheck(
            "layer content", "warning", ", ".join([f"{found.damaged} damaged", *parts]), remedy
        )
    return host_doctor.HostCheck("layer content", "ok", ", ".join(parts))


def _event_log(api: Api) -> host_doctor.HostCheck:
    loss = api.engine.losses.error
    if trouble := api.engine.trouble() or loss:
        return host_doctor.HostCheck(
            "event log", "warning", f"{trouble.brief}: {trouble.details}", trouble.resolution
        )
    return host_doctor.HostCheck("event log", "ok", f"{api.records.position} events")


async def checkpoint_types(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    modules = api.settings().checkpoint_modules
    types, problems = await asyncio.to_thread(registered, modules)
    return json_response(schemas.CheckpointTypes(tuple(types), tuple(problems)))


async def disk_usage(api: Api, request: Request) -> Response:
    api.require(request, Action.SEE)
    return json_response(await api.engine.usage())


async def collect(api: Api, request: Request) -> Response:
    api.require(request, Action.ADMINISTER)
    body = await body_of(request, schemas.CollectRequest)
    return json_response(await api.engine.collector.collect(body.max_bytes, body.dry_run))


async def backup(api: Api, request: Request) -> Response:
    """A consistent copy of the event log. Its digest is in the header Repr-Digest (RFC 9530)."""
    api.require(request, Action.ADMINISTER)
    copy, size_bytes, sha256 = await api.records.copy()
    digest = {"repr-digest": f"sha-256=:{base64.b64encode(sha256).decode()}:"}
    return file_response(copy, size_bytes, "application/octet-stream", digest)
