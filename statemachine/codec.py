"""The codec: payloads and actors to canonical JSON and back, and the hash that chains events.

The log stores exactly the text that `encode` returns, and the hash covers exactly the stored text, so a
log can be verified without decoding it. Reading applies upcasters. An event unknown to this version
is an error and is never skipped: a fold that omits events is wrong. Pure.
"""

from datetime import UTC, datetime
from hashlib import sha256

import msgspec

from statemachine import events
from statemachine.errors import DcdError, UsageError
from statemachine.events import Actor, Payload
from statemachine.keys import canonical
from statemachine.upcasters import upcast

PAYLOADS: dict[str, type[Payload]] = {
    name: cls
    for name, cls in vars(events).items()
    if isinstance(cls, type) and issubclass(cls, Payload) and cls is not Payload
}
"""Event type to payload class."""

FIRST_HASH = ""
"""The previous hash of a build's first event."""

HASHED = ("build", "sequence", "type", "version", "time", "actor", "data")
"""The stored fields of an event that its hash covers, in order: all except its position."""

_DECODERS = {name: msgspec.json.Decoder(cls) for name, cls in PAYLOADS.items()}
_ACTOR = msgspec.json.Decoder(Actor)


def encode(payload: Payload) -> str:
    """The canonical JSON of a payload. Raises UsageError for text that is not Unicode."""
    try:
        return canonical(payload).decode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{type(payload).__name__} cannot be stored: it contains text that is not Unicode",
            str(error),
            "use UTF-8 for the names of files and parameters",
        ) from error


def decode(type_name: str, version: int, data: str) -> Payload:
    """The payload stored as `data`. Raises DcdError when a newer dcd wrote it or it is malformed."""
    cls = PAYLOADS.get(type_name)
    if cls is None or version > cls.VERSION:
        raise DcdError(
            f"the event log was written by a newer dcd: {type_name} version {version} is unknown",
            resolution="run the newer version, or restore a backup made before the upgrade",
        )
    try:
        if version == cls.VERSION:
            return _DECODERS[type_name].decode(data)
        old = msgspec.json.decode(data, type=dict)
        return msgspec.convert(upcast(type_name, version, old, cls.VERSION), cls)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DcdError(
            f"event {type_name} version {version} is malformed",
            str(error),
            "verify the log with `dcctl events ID --verify` and restore a backup if it is damaged",
        ) from error


def encode_actor(actor: Actor) -> str:
    """The canonical JSON of an actor."""
    return canonical(actor).decode()


def decode_actor(data: str) -> Actor:
    """The actor stored as `data`."""
    return _ACTOR.decode(data)


def encode_time(time: datetime) -> str:
    """The time in RFC 3339, UTC, always with microseconds, so that the texts sort like the times."""
    text = time.astimezone(UTC).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")


def decode_time(text: str) -> datetime:
    """The aware UTC time stored as `text`."""
    return datetime.fromisoformat(text)


def event_hash(previous_hash: str, *stored: str | int) -> str:
    """sha256 (hex) over the build's previous hash (`FIRST_HASH` for its first event) and the `HASHED` fields
    of this event as stored."""
    return sha256(canonical([previous_hash, *stored])).hexdigest()
