"""The protocol between the daemon and a planner: messages, each a length, a kind and a body.

    Q   the name of a task, and its question; from the daemon, once
    W   the planner waits for mirrors now and does not compute
    A   the answer
    E   the error, with the names of its classes, the most specific first
    X   the traceback of a defect, for the daemon's log; an error follows
    D   the exit status of a process that ended without an answer; from its parent

Bodies are MessagePack of the types in `dcd.planner.tasks`. An error becomes the most specific class
that both sides know, so a planner's message can never make the daemon run code.
"""

import struct
from pathlib import Path, PurePath
from typing import Any

import msgspec

from dcd.manifest.diagnostics import Diagnostic, ManifestError, MissingInput
from dcd.manifest.inputs import InputsMissing
from dcd.manifest.paths import PathError
from dcd.planner.tasks import TASKS, Task
from dcd.platform.sight import Unseen
from statemachine import errors
from statemachine.errors import DcdError, Unavailable
from store.host.forking import shortage

QUESTION, WAITING, ANSWER, ERROR, DEFECT, DIED = b"Q", b"W", b"A", b"E", b"X", b"D"

HEAD = struct.Struct("!cI")
"""The kind of a message and the length of its body."""

_ERRORS: dict[str, type[DcdError]] = {
    found.__name__: found
    for found in (
        DcdError, errors.UsageError, errors.PermissionDenied, errors.NotFound, errors.Refused,
        errors.InvalidManifest, errors.Unprepared, errors.Unavailable, errors.CheckpointError, PathError,
    )
}  # fmt: skip


class _Error(msgspec.Struct, frozen=True):
    classes: list[str]
    brief: str
    details: str
    resolution: str
    diagnostics: tuple[Diagnostic, ...] | None = None
    missing: tuple[MissingInput, ...] | None = None
    unseen: tuple[str, ...] = ()


def message(kind: bytes, body: bytes = b"") -> bytes:
    """A message as bytes."""
    return HEAD.pack(kind, len(body)) + body


def encode_question(task: Task[Any, Any], question: object) -> bytes:
    """The body of a question."""
    return _encoder.encode((task.name, _encoder.encode(question)))


def decode_question(body: bytes) -> tuple[Task[Any, Any], Any]:
    """The task and the question of a body."""
    name, question = msgspec.msgpack.decode(body, type=tuple[str, bytes])
    task = TASKS[name]
    return task, _decode(question, task.question)


def encode_answer(answer: object) -> bytes:
    """The body of an answer."""
    return _encoder.encode(answer)


def decode_answer(body: bytes, task: Task[Any, Any]) -> Any:
    """The answer of a body. Raises msgspec.ValidationError for an invalid one."""
    return _decode(body, task.answer)


def encode_error(error: DcdError) -> bytes:
    """The body of an error."""
    return _encoder.encode(
        _Error(
            [cls.__name__ for cls in type(error).__mro__],
            error.brief,
            error.details,
            error.resolution,
            getattr(error, "diagnostics", None),
            getattr(error, "missing", None),
            tuple(map(str, error.paths)) if isinstance(error, Unseen) else (),
        )
    )


def decode_error(body: bytes) -> DcdError:
    """The error of a body."""
    error = msgspec.msgpack.decode(body, type=_Error)
    if error.diagnostics:
        return ManifestError(error.diagnostics, error.missing or ())
    if error.missing:
        return InputsMissing(error.missing)
    if error.unseen:
        return Unseen(map(Path, error.unseen))
    nearest = next((_ERRORS[name] for name in error.classes if name in _ERRORS), DcdError)
    return nearest(error.brief, error.details, error.resolution)


def unavailable(error: OSError) -> Unavailable:
    """The error for a question that no process can be had for."""
    short = shortage(error)
    return Unavailable(
        "manifests cannot be read now" + (f": {short.what}" if short else ""),
        str(error),
        f"try again; {short.remedy}" if short else "try again",
    )


def _from_path(value: object) -> str:
    if isinstance(value, PurePath):
        return str(value)
    raise NotImplementedError(f"{type(value)} cannot be sent to a planner")


def _to_path(kind: type, value: object) -> Path:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(f"{kind} cannot be sent to a planner")


def _decode(body: bytes, kind: Any) -> Any:
    return msgspec.msgpack.decode(body, type=kind, dec_hook=_to_path)


_encoder = msgspec.msgpack.Encoder(enc_hook=_from_path)
