"""A table `[[notify]]` of the settings: a webhook, and which events it is for."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from statemachine import events

OUTCOMES = {
    "BuildSubmitted": "submitted",
    "BuildStarted": "started",
    "BuildPaused": "paused",
    "BuildResumed": "resumed",
    "BuildCompleted": "completed",
    "BuildFailed": "failed",
    "BuildCancelled": "cancelled",
    "BuildRemoved": "removed",
    "CheckpointStarted": "started",
    "CheckpointReused": "reused",
    "CheckpointCompleted": "completed",
    "CheckpointFailed": "failed",
    "CheckpointInterrupted": "interrupted",
}
"""The outcome that an event reports. Events that are not here have none."""

USUAL = ("BuildCompleted", "BuildFailed", "BuildCancelled", "BuildPaused")
"""The events that a hook without `events` is for: a build ends, fails, or waits for somebody."""

KINDS = tuple(sorted(each.__name__ for each in events.Payload.__subclasses__()))
"""The types of events."""

MOST = 16
"""The number of webhooks."""

LONGEST_SECONDS = 300.0

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """A receiver of events. `secret` is the file of the key for signatures, `ca` a file of certificates in
    place of the host's, `builds` are patterns for the names of distributions; an empty list allows all."""

    name: str
    url: str
    secret: Path
    ca: Path | None = None
    events: tuple[str, ...] = USUAL
    outcomes: tuple[str, ...] = ()
    builds: tuple[str, ...] = ()
    timeout_seconds: float = 10.0


class BadWebhook(ValueError):
    """A table that describes no webhook; the text says why, for people."""


def webhook(table: Mapping[str, Any]) -> Webhook:
    """The webhook of a table. Raises BadWebhook."""
    known = [each.name for each in fields(Webhook)]
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise BadWebhook(
                f"unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else "")
            )
    for key in ("name", "url", "secret"):
        if not isinstance(table.get(key), str):
            raise BadWebhook(f"{key} is missing, or not a string")
    name = table["name"]
    if not _NAME.fullmatch(name):
        raise BadWebhook(f"the name {name!r} must be small letters, digits and '-', at most 40")
    try:
        return Webhook(
            name=name,
            url=_url(table["url"]),
            secret=_path("secret", table["secret"]),
            ca=_path("ca", table["ca"]) if "ca" in table else None,
            events=_words("events", table.get("events", list(USUAL)), KINDS),
            outcomes=_words("outcomes", table.get("outcomes", []), tuple(set(OUTCOMES.values()))),
            builds=_words("builds", table.get("builds", [])),
            timeout_seconds=_seconds(table.get("timeout_seconds", 10.0)),
        )
    except BadWebhook as error:
        raise BadWebhook(f"{name}: {error}") from None


def webhooks(tables: Any) -> tuple[Webhook, ...]:
    """The webhooks of a list of tables. Raises BadWebhook."""
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        raise BadWebhook("write one [[notify]] table for each webhook")
    if len(tables) > MOST:
        raise BadWebhook(f"there are {len(tables)} webhooks; at most {MOST} are allowed")
    found = tuple(map(webhook, tables))
    names = [each.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise BadWebhook(f"there are two webhooks with the name {name!r}")
    return found


def webhook_from_words(text: str) -> dict[str, Any]:
    """The table that a property of SMF describes: `name=ci url=https://... events=BuildFailed,BuildPaused`.
    Raises BadWebhook."""
    table: dict[str, Any] = {}
    for word in text.split():
        key, sign, value = word.partition("=")
        if not sign:
            raise BadWebhook(f"{word!r} is not KEY=VALUE")
        listed = key in ("events", "outcomes", "builds")
        table[key] = value.split(",") if listed else value
    if "timeout_seconds" in table:
        try:
            table["timeout_seconds"] = float(table["timeout_seconds"])
        except ValueError:
            raise BadWebhook("timeout_seconds is not a number") from None
    return table


def plain_webhook(hook: Webhook) -> dict[str, Any]:
    """The table of a webhook, in JSON types."""
    shown = {each.name: getattr(hook, each.name) for each in fields(hook)}
    return {
        key: str(value)
        if isinstance(value, Path)
        else list(value)
        if isinstance(value, tuple)
        else value
        for key, value in shown.items()
        if value is not None
    }


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise BadWebhook("url is not a URL with a port number") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise BadWebhook("url must begin with https:// (or http://) and name a host")
    if parts.username is not None or parts.fragment:
        raise BadWebhook(
            "url must have no user and no fragment; the signature identifies this daemon"
        )
    if not re.fullmatch(r"[\x21-\x7e]{1,2000}", text):
        raise BadWebhook("url must be ASCII without spaces; write other characters as %XX")
    return text


def _path(key: str, value: Any) -> Path:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise BadWebhook(f"{key} must be an absolute path")
    return Path(value)


def _words(key: str, value: Any, known: tuple[str, ...] = ()) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise BadWebhook(f"{key} must be a list of strings")
    for each in value:
        if known and each not in known:
            near = difflib.get_close_matches(each, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
            raise BadWebhook(f"{key} has the unknown value {each!r}; {hint}")
    return tuple(value)


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadWebhook("timeout_seconds must be a number")
    if not 0 < value <= LONGEST_SECONDS:
        raise BadWebhook(f"timeout_seconds must be more than 0 and at most {LONGEST_SECONDS:g}")
    return float(value)
