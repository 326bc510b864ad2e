"""The messages between the daemon and a worker, as JSON lines.

The daemon writes one `WorkerRequest` to the worker's standard input and keeps it open: a line `cancel`
asks the worker to stop, a line `claimed` answers a `Claim`, the end of the stream means that the daemon
is gone. The worker writes messages to a separate pipe; the last one is its verdict. Plain data: this
module imports nothing that slows the start of a worker.
"""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import msgspec

from statemachine.events import Artifact, ErrorInfo
from statemachine.plan import Json
from store.host.capabilities import FILES
from store.layers.interface import Workspace
from store.packages import Lent

AREAS = ("pkg_image", "boot_archive", "media", "tmp")
"""The directories of every workspace."""

MARKER = "DCD_ATTEMPT"
"""The environment variable that names the attempt of a worker: STATE:BUILD:CHECKPOINT:ATTEMPT. Recovery
finds the processes of a dead daemon by it. STATE is a secret of the daemon: no checkpoint, log, command line
or name shows it."""


SCRATCH = "scratch"
"""Directory in a workspace's directory with the worker's /tmp and /var/tmp. Removed with the attempt."""


@dataclass(frozen=True, slots=True)
class Grants:
    """The resources of the host that an attempt may use in addition to its workspace; see
    `dcd.worker.isolation`.

    `capabilities`, `devices` and `writes` are those of the checkpoint's `Needs`; `secrets` are the files and
    `variables` the values of the secrets declared there. `reads` are other visible paths of the host, named
    by the manifest or the configuration; `hidden` are paths that stay hidden even inside these (the state
    directory, the daemon's socket). `host_code` says that it runs code that required the right `host_code`.
    `open_files` limits the open files of a process, `memory_bytes` its memory (0: no limit), `processes`
    the number of processes, `total_memory_bytes` the memory of all together (0: no limit).
    """

    capabilities: tuple[str, ...] = FILES
    devices: tuple[str, ...] = ()
    writes: tuple[Path, ...] = ()
    reads: tuple[Path, ...] = ()
    secrets: tuple[Path, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    hidden: tuple[Path, ...] = ()
    host_code: bool = False
    open_files: int = 16384
    memory_bytes: int = 0
    processes: int = 4096
    total_memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class WorkerRequest:
    """One attempt at a checkpoint.

    `state_id` is the secret that identifies the daemon's state directory. `manifest` is the canonical
    manifest's XML text, `manifest_path` its author's path for it, `places` are as in the plan. `layers`
    is the directory of the layer store. `inputs` maps a path, as the manifest resolves it, to the captured
    file. `evidence` is a directory that outlives the attempt. `allowed` lists the modules that `mod_path` may
    name in addition to the project's own. `environment` is the environment of every tool, `external` the
    external state that the key covers. `packages` is the package store, if the checkpoint uses it.
    """

    state_id: str
    build: str
    checkpoint: str
    attempt: int
    mod_path: str
    checkpoint_class: str
    manifest: str
    layers: Path
    workspace: Workspace
    evidence: Path
    args: tuple[Json, ...] = ()
    kwargs: dict[str, Json] = field(default_factory=dict)
    inputs: dict[str, Path] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    external: dict[str, str] = field(default_factory=dict)
    allowed: tuple[str, ...] = ()
    manifest_path: str = ""
    places: tuple[str, ...] = ()
    network: bool = False
    packages: Lent | None = None
    grants: Grants = field(default_factory=Grants)

    @property
    def marker(self) -> str:
        """The value of `MARKER` for this attempt."""
        return f"{self.state_id}:{self.build}:{self.checkpoint}:{self.attempt}"

    @property
    def attempt_name(self) -> str:
        """A public name for this attempt, unique on the host."""
        place = hashlib.sha256(self.state_id.encode()).hexdigest()[:16]
        return f"{place}:{self.build}:{self.checkpoint}:{self.attempt}"


@dataclass(frozen=True, slots=True)
class ShellRequest:
    """A shell in a temporary workspace; see `dcd.worker.shell`. `marker` is the value of `MARKER` for it and
    its descendants; it is empty when the request is shown."""

    marker: str
    layers: Path
    workspace: Workspace


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """The completed fraction of the checkpoint (None: unknown), and its current activity."""

    fraction: float | None = None
    message: str = ""


class Delivered(msgspec.Struct, frozen=True, tag="artifact"):
    """The checkpoint delivers a file of its workspace."""

    artifact: Artifact


class Saved(msgspec.Struct, frozen=True, tag="saved"):
    """The DOC's persistent part after the checkpoint, as XML text. The daemon writes it beside the
    workspace's tree, where a worker cannot write. `left` and `warnings` as in CheckpointCompleted."""

    document: str
    left: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


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


Verdict = Completed | Failed | Cancelled
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
decode_shell = msgspec.json.Decoder(ShellRequest, dec_hook=_to_path).decode
decode_message = msgspec.json.Decoder(Message).decode
