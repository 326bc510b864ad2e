"""Sending the events of the log to webhooks: each at least once, in the order of the log.

Each webhook has a task of its own in the daemon's unprivileged process, so one that hangs or refuses delays
neither builds nor other webhooks. The event log is the queue: a task reads on from its cursor
(`dcd.notify.cursors`), so what waits needs no memory and survives every kill. A delivery that is not
confirmed is repeated, after 1, 2, 4, ... seconds, at most `LONGEST_WAIT_SECONDS`, until the receiver
confirms it or an administrator removes the hook. Used from the event loop's thread only.
"""

import asyncio
import contextlib
import ssl
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import urlsplit

import structlog

from dcd.configuration import Configuration
from dcd.configuration.webhooks import Webhook
from dcd.notify import message
from dcd.notify.cursors import Cursors
from dcd.notify.post import NotDelivered, post, tls_context
from dcd.notify.secret import read_key
from statemachine.errors import DcdError, NotFound
from statemachine.events import Event
from store.eventlog import EventLog

logger = structlog.get_logger()

PAGE = 200

FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 600.0

UNWRITTEN = 1000
"""The number of events that a hook does not want after which its cursor is written all the same."""


class Listener(Protocol):
    """Wakes when there are new events."""

    async def wait(self) -> None:
        """Wait for a change."""


@dataclass(frozen=True, slots=True)
class HookState:
    """The state of a webhook. `ok`: everything is delivered; `sending`: events wait, or one is being sent;
    `failing`: the last attempt failed, as `error` says, and the next is at `next_attempt_at`. `behind` is how
    many events of the log come after its cursor, `delivered` and `failed` count since the daemon's start, and
    `attempts` those in a row that failed."""

    name: str
    host: str
    state: Literal["ok", "sending", "failing"] = "sending"
    behind: int = 0
    delivered: int = 0
    failed: int = 0
    attempts: int = 0
    error: str = ""
    last_delivery_at: datetime | None = None
    next_attempt_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Tested:
    """The outcome of a test delivery."""

    name: str
    ok: bool
    status: int
    error: str
    seconds: float


class Notifier:
    """The webhooks of a daemon."""

    def __init__(
        self,
        log: EventLog,
        listen: Callable[[], AbstractContextManager[Listener]],
        settings: Callable[[], Configuration],
        keys: Mapping[Path, bytes] | None = None,
    ) -> None:
        self._log = log
        self._listen = listen
        self._settings = settings
        self._keys = dict(keys or {})
        """Keys that were read as root."""
        self._cursors = Cursors(log.directory / "notify")
        self._positions: dict[str, int] = {}
        self._states: dict[str, HookState] = {}
        self._changed = asyncio.Event()
        self._hurry: dict[str, asyncio.Event] = {}

    def begin(self) -> None:
        """Take over the cursors, before any event is appended. Hooks with a new name begin here."""
        for hook in self._settings().notify:
            kept = self._cursors.read(hook.name)
            # A restored log can be shorter than the one that the cursor is of.
            position = self._log.position if kept is None else min(kept, self._log.position)
            self._positions.setdefault(hook.name, position)
        names = [hook.name for hook in self._settings().notify]
        for name in [name for name in self._positions if name not in names]:
            del self._positions[name]
            self._states.pop(name, None)
        with contextlib.suppress(OSError):
            self._cursors.keep(names)

    def settings_changed(self) -> None:
        """Start new hooks, stop others; for a reload."""
        self.begin()
        self._changed.set()

    def states(self) -> list[HookState]:
        """The state of each webhook."""
        return [self._state(hook) for hook in self._settings().notify]

    async def run(self) -> None:
        """Deliver until cancelled."""
        running: dict[Webhook, asyncio.Task[None]] = {}
        try:
            while True:
                wanted = self._settings().notify
                for hook in [each for each in running if each not in wanted]:
                    running.pop(hook).cancel()
                for hook in wanted:
                    if hook not in running:
                        running[hook] = asyncio.create_task(self._deliver_always(hook))
                await self._changed.wait()
                self._changed.clear()
        finally:
            for task in running.values():
                task.cancel()

    async def test(self, name: str) -> Tested:
        """Send one test delivery, outside the order of events. Raises NotFound."""
        hooks = {hook.name: hook for hook in self._settings().notify}
        if name not in hooks:
            known = ", ".join(hooks) or "none"
            raise NotFound(
                f"there is no webhook {name}",
                f"configured are: {known}",
                "add a table [[notify]] to the daemon's settings, then dcctl config --reload",
            )
        hook = hooks[name]
        began = time.monotonic()
        content = message.test_body(hook, datetime.now(UTC))
        identity = f"{name}-test-{uuid.uuid4().hex[:12]}"
        status, error = 0, ""
        try:
            key, context = await asyncio.to_thread(self._prepared, hook)
            status = await _sent(hook, key, context, identity, content)
            self._hurry.setdefault(name, asyncio.Event()).set()
        except DcdError as failure:
            error = _told(failure)
        return Tested(name, not error, status, error, time.monotonic() - began)

    async def _deliver_always(self, hook: Webhook) -> None:
        """Deliver the hook's events; on an error of this side, begin again at its cursor."""
        attempts = 0
        while True:
            try:
                await self._deliver(hook)
            except (DcdError, OSError) as error:
                attempts += 1
                await self._wait_after(hook, attempts, error)
            except Exception:
                logger.exception("a defect in the delivery to a webhook", hook=hook.name)
                attempts += 1
                await self._wait_after(hook, attempts, DcdError("a defect; see the daemon's log"))

    async def _deliver(self, hook: Webhook) -> None:
        name = hook.name
        written = self._positions[name]
        # First of all: what comes from here on is delivered, even after a restart before the first success.
        await asyncio.to_thread(self._cursors.write, name, written)
        key, context = await asyncio.to_thread(self._prepared, hook)
        with self._listen() as listener:
            while True:
                while events := await asyncio.to_thread(
                    self._log.read, None, self._positions[name], PAGE
                ):
                    for event in events:
                        content = await asyncio.to_thread(self._content, hook, event)
                        if content is not None:
                            await self._until_delivered(hook, key, context, event, content)
                        # A kill before the cursor is on disk repeats this one delivery.
                        self._positions[name] = event.position
                        if content is not None or event.position - written >= UNWRITTEN:
                            await asyncio.to_thread(self._cursors.write, name, event.position)
                            written = event.position
                self._states[name] = replace(self._state(hook), state="ok", error="", attempts=0)
                await listener.wait()

    def _content(self, hook: Webhook, event: Event) -> bytes | None:
        """The body for an event; None for one that the hook does not want."""
        if not message.wants(hook, event):
            return None
        build = self._log.summary(event.build)
        if not message.wants_build(hook, build.name):
            return None
        completed = event.type == "BuildCompleted"
        published = self._log.read_build(event.build) if completed else ()
        return message.body(
            hook, event, build, [each for each in published if each.position < event.position]
        )

    async def _until_delivered(
        self,
        hook: Webhook,
        key: bytes,
        context: ssl.SSLContext | None,
        event: Event,
        content: bytes,
    ) -> None:
        identity = message.delivery_id(hook, event)
        attempts = 0
        while True:
            if not attempts:
                self._states[hook.name] = replace(self._state(hook), state="sending")
            try:
                await _sent(hook, key, context, identity, content)
            except NotDelivered as error:
                attempts += 1
                await self._wait_after(hook, attempts, error)
                continue
            if attempts:
                logger.info("a webhook accepts events again", hook=hook.name, event_id=identity)
            before = self._state(hook)
            self._states[hook.name] = replace(
                before,
                state="sending",
                delivered=before.delivered + 1,
                attempts=0,
                error="",
                last_delivery_at=datetime.now(UTC),
                next_attempt_at=None,
            )
            return

    async def _wait_after(self, hook: Webhook, attempts: int, error: Exception) -> None:
        """Record a failure, and wait for the time of the next attempt, or for a test that succeeds."""
        seconds = min(FIRST_WAIT_SECONDS * 2 ** min(attempts - 1, 30), LONGEST_WAIT_SECONDS)
        before = self._state(hook)
        self._states[hook.name] = replace(
            before,
            state="failing",
            failed=before.failed + 1,
            attempts=attempts,
            error=_told(error),
            next_attempt_at=datetime.fromtimestamp(time.time() + seconds, UTC),
        )
        tell = logger.warning if attempts == 1 else logger.debug
        tell(
            "a webhook takes no events; they wait in the event log",
            hook=hook.name,
            error=_told(error),
            attempts=attempts,
            next_attempt_seconds=seconds,
        )
        hurry = self._hurry.setdefault(hook.name, asyncio.Event())
        hurry.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hurry.wait(), seconds)

    def _prepared(self, hook: Webhook) -> tuple[bytes, ssl.SSLContext | None]:
        """The hook's key and TLS. Raises DcdError."""
        try:
            key = read_key(hook.secret)
        except DcdError:
            if hook.secret not in self._keys:
                raise
            key = self._keys[hook.secret]
        return key, tls_context(hook.url, hook.ca)

    def _state(self, hook: Webhook) -> HookState:
        host = urlsplit(hook.url).hostname or ""
        found = self._states.get(hook.name) or HookState(hook.name, host)
        behind = max(0, self._log.position - self._positions.get(hook.name, 0))
        return replace(found, host=host, behind=behind)


async def _sent(
    hook: Webhook, key: bytes, context: ssl.SSLContext | None, identity: str, content: bytes
) -> int:
    """Send one delivery. Returns its status. Raises NotDelivered."""
    headers = message.headers(key, identity, int(time.time()), content)
    return await post(hook.url, headers, content, context, hook.timeout_seconds)


def _told(error: Exception) -> str:
    details = getattr(error, "details", "")
    brief = getattr(error, "brief", str(error))
    return f"{brief}: {details}" if details else brief
