"""What a webhook gets: the JSON of one event, and the headers that sign it.

The body holds no manifest, no parameter and no output of a tool, which could have secrets. It depends only
on the log, so a repeated delivery has the same body and id. Signature, id and time are those of Standard
Webhooks (https://www.standardwebhooks.com): HMAC-SHA256 over `ID.TIMESTAMP.BODY`. Pure.
"""

import base64
import fnmatch
import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from dcd.configuration.webhooks import OUTCOMES, Webhook
from statemachine.events import ArtifactPublished, Event
from store.eventlog.projection import BuildSummary

VERSION = 1
"""The version of the body; new members leave it as it is."""

MOST_ARTIFACTS = 200

LONGEST_TEXT = 4000

_PREFIX = b"whsec_"

_SHOWN = ("checkpoint", "attempt", "seconds", "reason", "cause", "before", "reused_from")
"""The members of an event's data that a body may have."""


def wants(hook: Webhook, event: Event) -> bool:
    """Whether the hook is for an event of this type."""
    outcome = OUTCOMES.get(event.type, "")
    return event.type in hook.events and (not hook.outcomes or outcome in hook.outcomes)


def wants_build(hook: Webhook, name: str) -> bool:
    """Whether the hook is for builds of this distribution."""
    return not hook.builds or any(fnmatch.fnmatchcase(name, each) for each in hook.builds)


def body(
    hook: Webhook, event: Event, build: BuildSummary, artifacts: Sequence[Event] = ()
) -> bytes:
    """The body for an event of a build. `artifacts` are the build's events that publish some."""
    shown: dict[str, Any] = {
        "version": VERSION,
        "hook": hook.name,
        "event": {
            "type": event.type,
            "outcome": OUTCOMES.get(event.type, ""),
            "position": event.position,
            "sequence": event.sequence,
            "time": event.time,
            "by": event.actor.user,
            **_data(event),
        },
        "build": {"id": build.id, "name": build.name, "submitted_by": build.actor.user},
    }
    published = [
        each.data.artifact for each in artifacts if isinstance(each.data, ArtifactPublished)
    ]
    if event.type == "BuildCompleted":
        shown["artifacts"] = [
            {"name": each.name, "sha256": each.sha256, "size_bytes": each.size_bytes}
            for each in published[:MOST_ARTIFACTS]
        ]
    return msgspec.json.encode(shown)


def _data(event: Event) -> dict[str, Any]:
    found = {
        name: value for name in _SHOWN if (value := getattr(event.data, name, None)) is not None
    }
    if (error := getattr(event.data, "error", None)) is not None:
        found["error"] = {
            "brief": error.brief[:LONGEST_TEXT],
            "resolution": error.resolution[:LONGEST_TEXT],
        }
    return found


def test_body(hook: Webhook, time: datetime) -> bytes:
    """The body of a test delivery, which is about no build."""
    shown = {"version": VERSION, "hook": hook.name, "event": {"type": "Test", "time": time}}
    return msgspec.json.encode(shown)


def delivery_id(hook: Webhook, event: Event) -> str:
    """The id of a delivery: the same each time it is repeated, another in a restored log."""
    return f"{hook.name}-{event.position}-{event.hash[:12]}"


def headers(secret: bytes, identity: str, timestamp: int, content: bytes) -> list[tuple[str, str]]:
    """The headers of a delivery: media type, id, time, signature."""
    signed = f"{identity}.{timestamp}.".encode() + content
    signature = base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()
    return [
        ("content-type", "application/json"),
        ("webhook-id", identity),
        ("webhook-timestamp", str(timestamp)),
        ("webhook-signature", f"v1,{signature}"),
    ]


def key_of(content: bytes) -> bytes:
    """The key in the content of a secret's file: its first line as it is, or after `whsec_` in Base64. Raises
    ValueError."""
    line = content.split(b"\n", 1)[0].strip()
    return (
        base64.b64decode(line[len(_PREFIX) :], validate=True) if line.startswith(_PREFIX) else line
    )
