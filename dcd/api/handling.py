"""Code shared by the handlers: the engine, the settings, the peer and its permissions.

A handler is a function of an `Api` and a request. It checks the peer's permission, reads the request,
calls the engine and responds; it makes no decisions. Handlers are in modules by subject; `dcd.api.app`
has the table.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from starlette.requests import Request

from dcd.api.access import Action, require
from dcd.api.metrics import Metrics
from dcd.api.schemas import BuildView
from dcd.api.server import actor_of
from dcd.api.views import build_view
from dcd.configuration import Live
from dcd.engine.borrowers import borrower, has_every_role, require_secrets
from dcd.engine.engine import Engine
from dcd.engine.manifests import Manifests
from dcd.engine.records import Records
from dcd.manifest.secrets import Borrower
from dcd.planner.tasks import WithSecrets
from dcd.platform.host_labels import public
from statemachine.build import RUNNABLE, BuildState
from statemachine.commands import removed
from statemachine.errors import PermissionDenied, Unavailable
from statemachine.events import Actor, BuildResumed, BuildSubmitted, Event
from statemachine.plan import Plan


def client_left(request: Request) -> Callable[[], Awaitable[None]]:
    """A function that returns when the client has disconnected. Only for a request whose body was
    read."""

    async def leaving() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return leaving


@dataclass(frozen=True, slots=True)
class Api:
    """The context of handlers."""

    engine: Engine
    settings: Live
    started_at: datetime
    metrics: Metrics

    @property
    def manifests(self) -> Manifests:
        """Operations on manifests that clients send."""
        return self.engine.manifests

    @property
    def records(self) -> Records:
        """States, events, logs and artifacts of builds."""
        return self.engine.records

    def require(self, request: Request, action: Action, owner: int | None = None) -> None:
        """Raise PermissionDenied unless the peer may do `action`; `owner` as in `dcd.api.access`."""
        held = request.scope.get("dcd.roles")
        require(self.settings(), actor_of(request.scope), action, owner=owner, held=held)

    def may(self, request: Request, action: Action) -> bool:
        """Whether the peer may do `action`."""
        try:
            self.require(request, action)
        except PermissionDenied:
            return False
        return True

    def owner(self, request: Request) -> int | None:
        """The user whose captured files the peer may name: the peer itself; None for root, who may name
        all."""
        actor = actor_of(request.scope)
        return None if has_every_role(actor) else actor.uid

    def sees_secrets(self, request: Request, supplier: Actor) -> bool:
        """Whether the peer may see the secrets in a manifest: only root and the user who supplied it
        may."""
        owner = self.owner(request)
        return owner is None or owner == supplier.uid

    def borrower(self, request: Request) -> Borrower | None:
        """The peer as a user of secrets."""
        return borrower(self.settings(), actor_of(request.scope))

    def permit(self, request: Request, submitter: Actor | None = None) -> Callable[[Plan], None]:
        """Raise PermissionDenied for a plan that needs a right that the peer does not have, or a secret
        that the peer or the build's submitter may not use."""

        def permit(plan: Plan) -> None:
            if any(planned.host_code for planned in plan.checkpoints):
                self.require(request, Action.RUN_HOST_CODE)
                self.engine.require_host_code()
            secrets = [name for planned in plan.checkpoints for name in planned.secrets]
            for user in filter(None, (actor_of(request.scope), submitter)):
                require_secrets(self.settings(), user, secrets)

        return permit

    async def view(self, request: Request, state: BuildState) -> BuildView:
        """The view of a build for the peer."""
        parameters = dict(state.parameters)
        if parameters and not self.sees_secrets(request, state.actor):
            secret = WithSecrets(state.manifest, parameters)
            without = await self.manifests.without_secrets(secret, actor_of(request.scope))
            parameters = without.parameters
        waits = self.records.broadcast.waits_for(state.id)
        ahead = self.records.outlook(state)
        there = self.records.elsewhere(state)
        view = build_view(state, self.records.artifact_path, parameters, ahead, waits, there)
        why = await self._why_waits(state)
        return replace(view, reason=f"waits: {why}") if why else view

    async def _why_waits(self, state: BuildState) -> str:
        """Why no member of the farm takes a queued build, or drives one that works."""
        hosts = self.engine.hosts
        if hosts is None or state.lifecycle not in RUNNABLE:
            return ""
        try:
            return await asyncio.to_thread(hosts.why_waits, state)
        except Unavailable as error:
            return error.brief

    async def require_source(self, request: Request, state: BuildState) -> None:
        """Raise PermissionDenied unless the peer may make another build from what this one was made of: its
        submitter and root may, others if it has neither secrets nor captured files, which the submitter of
        the other build could read."""
        if self.sees_secrets(request, state.actor):
            return
        secret = WithSecrets(state.manifest, state.parameters)
        without = await self.manifests.without_secrets(secret, actor_of(request.scope))
        if without.had_any or state.inputs:
            what = "secrets" if without.had_any else "files"
            raise PermissionDenied(
                f"build {state.id} is made from {what} of {state.actor.user}",
                "the submitter of another build of them could read them",
                f"have {state.actor.user} or root do it",
            )

    async def visible(self, request: Request, events: Sequence[Event]) -> list[Event]:
        """The events as the peer may see them. Manifests, parameters and arguments contain passwords and
        hashes, which only root and the user who supplied them may see."""
        return [
            await self._without_secrets(request, event, event.data)
            if isinstance(event.data, BuildSubmitted | BuildResumed)
            and not self.sees_secrets(request, event.actor)
            else event
            for event in events
        ]

    async def _without_secrets(
        self, request: Request, event: Event, data: BuildSubmitted | BuildResumed
    ) -> Event:
        if data.manifest is None:
            return event
        secret = WithSecrets(data.manifest, data.parameters, data.plan)
        without = await self.manifests.without_secrets(secret, actor_of(request.scope))
        shown: dict[str, Any] = {
            name: getattr(without, name) for name in ("manifest", "parameters", "plan")
        }
        return replace(event, data=replace(data, requires=public(data.requires), **shown))

    async def build(self, request: Request) -> str:
        """The id of the build in the path, which may be a prefix. Raises NotFound."""
        return await self.records.find(request.path_params["id"])

    async def state(self, request: Request) -> BuildState:
        """The state of the build in the path. Raises NotFound."""
        return await self.records.state(await self.build(request))

    async def kept(self, request: Request) -> BuildState:
        """As `state`, for data that a removed build no longer has. Raises Removed."""
        state = await self.state(request)
        if state.removed:
            raise removed(state)
        return state

    async def controlled(self, request: Request) -> str:
        """The build's id. Raises PermissionDenied unless the peer may control it."""
        self.require(request, Action.SEE)
        state = await self.state(request)
        self.require(request, Action.CONTROL, owner=state.actor.uid)
        return state.id
