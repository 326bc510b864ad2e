"""The request of an attempt and of a shell, as plain data.

The process that starts a worker writes one `WorkerRequest` to its standard input, as a line of JSON, and
keeps that open: a line `cancel` asks the worker to stop, a line `claimed` answers a claim, the end of the
stream means that the daemon has ended. `dcd.worker.messages` has the answers, and the JSON. This module
imports nothing but the standard library, for the launcher.
"""

import hashlib
import struct
from dataclasses import dataclass, field
from pathlib import Path

from statemachine.plan import Json, Locked, Stage
from statemachine.results import Artifact
from statemachine.variation import Variation
from store.host.capabilities import FILES
from store.host.process_table import MARK
from store.layers.interface import Workspace
from store.packages import Lent

AREAS = ("pkg_image", "boot_archive", "media", "tmp")
"""The directories of every workspace."""

MARKER = "DCD_ATTEMPT"
"""The environment variable that names the attempt of a worker: STATE:BUILD:CHECKPOINT:ATTEMPT. Recovery
finds the processes of a dead daemon by it. STATE is a secret of the daemon: no checkpoint, log, command line
or name shows it."""


DESCENDANT = MARK
"""The environment variable of the processes that a portable worker starts, with `descendant_mark`. A
checkpoint can read it: it is another secret, of use only for marking processes to be killed."""


def descendant_mark(marker: str) -> str:
    """The value of `DESCENDANT` for a marker, or the beginning of it for the beginning of a marker."""
    state, _, rest = marker.partition(":")
    secret = hashlib.sha256(f"processes below workers of {state}".encode()).hexdigest()[:32]
    return f"{secret}:{rest}"


NETWORK, NO_NETWORK = b"N", b"-"
"""What a zygote is asked for: a worker with the host's network, or without."""

FORKED = struct.Struct("=qi")
"""The reply of a zygote: the worker's pid, or an error number."""

SCRATCH = "scratch"
"""Directory in a workspace's directory with the worker's /tmp and /var/tmp. Removed with the attempt."""


@dataclass(frozen=True, slots=True)
class Grants:
    """The resources of the host that an attempt may use in addition to its workspace; see
    `dcd.worker.isolation`.

    `capabilities`, `devices` and `writes` are those of the checkpoint's `Needs`; `secrets` are the files and
    `variables` the values of the secrets declared there. `reads` are other visible paths of the host that the
    configuration names; `named` are those of the manifest, each with the path without links for which it was
    allowed: it is visible if it still leads there. `hidden` are paths that stay hidden even inside these (the
    state directory, the daemon's socket). `host_code` says that it runs code that required the right
    `host_code`.
    `open_files` limits the open files of a process, `memory_bytes` its memory (0: no limit), `processes`
    the number of processes, `total_memory_bytes` the memory of all together (0: no limit).
    """

    capabilities: tuple[str, ...] = FILES
    devices: tuple[str, ...] = ()
    writes: tuple[Path, ...] = ()
    reads: tuple[Path, ...] = ()
    named: dict[str, Path] = field(default_factory=dict)
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
    external state that the key covers. `packages` is the package store, if the checkpoint uses it. `stage` is
    what to make (`statemachine.plan.Stage`); `below`, `handed`, `locked`, `resolved`, `host_files`,
    `products` and `artifacts` are as in `dcd.checkpoints.interface.Context`; `variation` is that of the
    build's surroundings. `portable`: the worker has no namespaces (`dcd.worker.kinds`).
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
    stage: str = Stage.WHOLE.value
    below: str = ""
    handed: str = ""
    resolved: tuple[Path, ...] = ()
    host_files: tuple[str, ...] = ()
    products: dict[str, str] = field(default_factory=dict)
    artifacts: tuple[Artifact, ...] = ()
    locked: Locked | None = None
    grants: Grants = field(default_factory=Grants)
    variation: Variation | None = None
    portable: bool = False

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
class Mark:
    """What a worker that is forked from a zygote reads before its request: the value of `MARKER`, and the
    directory of its control group, if it has one."""

    marker: str
    group: Path | None = None


@dataclass(frozen=True, slots=True)
class ShellRequest:
    """A shell in a temporary workspace; see `dcd.worker.shell`. `marker` is the value of `MARKER` for it and
    its descendants; it is empty when the request is shown."""

    marker: str
    layers: Path
    workspace: Workspace
