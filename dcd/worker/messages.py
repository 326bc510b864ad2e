"""The reports of a worker, and the JSON of requests and messages.

The worker writes messages, one a line, to a pipe; the last one is its verdict.
"""

import os
from dataclasses import dataclass
from pathlib import Path, PurePath

import msgspec

from dcd.worker.request import Mark, ShellRequest, WorkerRequest
from statemachine.results import Artifact, ErrorInfo, Publication


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """The completed fraction of the checkpoint (None: unknown), and its current activity."""

    fraction: float | None = None
    message: str = ""


class Delivered(msgspec.Struct, frozen=True, tag="artifact"):
    """The checkpoint delivers a file of its workspace. Its `sha256` may be "": the commit fills it in."""

    artifact: Artifact


class Saved(msgspec.Struct, frozen=True, tag="saved"):
    """The DOC's persistent part after the checkpoint, as XML text. The daemon writes it beside the
    workspace's tree, where a worker cannot write. `handed` is as in `dcd.checkpoints.interface.Context`, the
    others are as in CheckpointCompleted."""

    document: str
    left: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    resolved: str = ""
    handed: str = ""
    publications: tuple[Publication, ...] = ()


class Claim(msgspec.Struct, frozen=True, tag="claim"):
    """The checkpoint is about to create a resource that could outlive the worker, and first waits for
    `signals.CLAIMED`. `kind` and `name` are those of `dcd.platform.resources`."""

    kind: str
    name: str


class Completed(msgspec.Struct, frozen=True, tag="completed"):
    """The checkpoint has done its work; the workspace is ready to be committed."""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The checkpoint failed. `no_space`: for lack of disk space."""

    error: ErrorInfo
    no_space: bool = False


class Cancelled(msgspec.Struct, frozen=True, tag="cancelled"):
    """The worker was asked to stop and ended, or was killed."""


@dataclass(frozen=True, slots=True)
class Died:
    """The worker ended without a verdict: `how`, and the last lines of its log."""

    how: str
    tail: str


class Unsuited(msgspec.Struct, frozen=True, tag="unsuited"):
    """The layer on which the attempt was to make the rest would lead to another result; see
    `dcd.checkpoints.interface.UnsuitedBase`."""

    reason: str


Verdict = Completed | Failed | Cancelled | Unsuited
"""The worker's own report of the end of its attempt."""

Outcome = Verdict | Died
"""The end of an attempt."""

Message = Progress | Delivered | Saved | Claim | Verdict


def _from_path(value: object) -> str:
    if isinstance(value, PurePath):
        return os.fspath(value)
    raise NotImplementedError(f"no JSON form for {type(value)}")


def _to_path(kind: type, value: object) -> Path:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(f"no {kind} from JSON")


encode = msgspec.json.Encoder(enc_hook=_from_path).encode
"""A request or a message as JSON, without a line end."""

decode_request = msgspec.json.Decoder(WorkerRequest, dec_hook=_to_path).decode
decode_mark = msgspec.json.Decoder(Mark, dec_hook=_to_path).decode
decode_shell = msgspec.json.Decoder(ShellRequest, dec_hook=_to_path).decode
decode_message = msgspec.json.Decoder(Message).decode
