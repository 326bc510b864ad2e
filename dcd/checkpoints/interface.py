"""The interface of a checkpoint: one named step of a build.

A checkpoint class is constructed twice from the same manifest: by a planner, which asks for needs,
ingredients and estimate and changes nothing, and by a worker, which executes it once in its own namespaces.
It reads the DOC and the workspace through the `Context`, leaves its result in the workspace, and passes data
to later checkpoints in the DOC's persistent part. It keeps no state elsewhere: the layer is the whole result.

A checkpoint is a frozen dataclass. Its fields are the arguments of the manifest, given by keyword, or the
first of them as `<args>`. The string below a field describes it in the reference, in `dcctl
checkpoint-types` and in the grammar for editors. A class with its own constructor, or a function that
returns a checkpoint, also works; its arguments have no descriptions.

Source: the Caiman Unified Design's AbstractCheckpoint, with the engine's needs declared.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from inspect import get_annotations, signature
from pathlib import Path
from typing import ClassVar, Self

from dcd.checkpoints.products import Provided
from dcd.manifest.data_object import DataObject, Origin
from dcd.manifest.diagnostics import Diagnostic, error
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.lock import LockedTransfer
from dcd.manifest.objects import Arg, ArgList, Args, CheckpointSpec
from statemachine.plan import Inputs, Json, Locked, Stage, Variance
from statemachine.results import Artifact, Publication
from store.host.capabilities import CHROOT, FILES, MOUNTS
from store.host.devices import ALL_DEVICES
from store.host.process import Completed, run
from store.packages import Lent
from store.resolved import Repository


@dataclass(frozen=True, slots=True)
class HostPath:
    """A path of the host, and where the manifest names it."""

    path: Path
    place: Origin | None


@dataclass(frozen=True, slots=True)
class Needs:
    """A checkpoint's needs of the host, checked before the first checkpoint of a plan runs.

    `tools` are names in `store.host.tools.TOOLS`. `network` keeps the host's network namespace and puts the
    host's proxies into the environment of tools; `proxy_logins` includes their logins, for checkpoints that
    run no program of the manifest or the image with that environment. `disk_bytes` is the peak of extra
    space in the state directory.

    The other fields limit the rights of the worker; the kernel refuses everything else. `capabilities` are
    names of capabilities(7) without CAP_: `FILES` to make files of any owner and kind, `CHROOT` for tools
    that enter the image by themselves, `MOUNTS` to mount, or to run programs inside the image
    (`dcd.platform.chroot`). `devices` are names in /dev beside the standard ones, or `ALL_DEVICES` (for loop
    devices). `reads` are paths of the host that the manifest names; those that workers do not see are
    refused. `writes` are paths of the host that it changes, beside its workspace and evidence. `secrets` are
    the files and variables that it reads (`dcd.manifest.secrets`). `packages`: it uses the package store.
    `contents`: it reads what earlier checkpoints put into the image (`Context.resolved`, `host_files`).
    """

    tools: tuple[str, ...] = ()
    network: bool = False
    proxy_logins: bool = False
    disk_bytes: int = 0
    capabilities: tuple[str, ...] = FILES
    devices: tuple[str, ...] = ()
    reads: tuple[HostPath, ...] = ()
    writes: tuple[Path, ...] = ()
    secrets: tuple[str, ...] = ()
    packages: bool = False
    contents: bool = False


@dataclass(frozen=True, slots=True)
class Base:
    """The part of a result that becomes a layer of its own, shared by all manifests with the same one. What
    `decides` it comes from the manifest, beside which the checkpoint's other ingredients count; `listed` is
    what the rest adds."""

    decides: Json
    listed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """A line of a lock about what a manifest asks of repositories, and where it does."""

    text: str
    place: Origin | None = None


@dataclass(frozen=True, slots=True)
class Lockable:
    """What a lock says of a transfer before its packages: what the manifest asks for, and the architecture
    of the packages ("": that of the system which an earlier transfer has made)."""

    asks: tuple[Ask, ...]
    architecture: Ask


class UnsuitedBase(Exception):
    """Raised by `execute` in the stage REST: the result would differ from that of the stage WHOLE, which then
    follows. The text is the reason."""


@dataclass(frozen=True, slots=True)
class Report:
    """A message of a running checkpoint: broadcast, never an event. `fraction` is 0..1. The message also goes
    to the log, unless it is already `logged`, such as a line of a tool. A `warning` names a possible defect
    of the result: it is kept with the result, and shown with the build."""

    fraction: float | None = None
    message: str = ""
    logged: bool = False
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Context:
    """Everything a running checkpoint may touch.

    `root` is the workspace's tree; the four areas below it exist. `tmp` is emptied before the layer
    is committed. `evidence` is a directory beside the attempt's log that outlives the attempt,
    whether it succeeds or not (console logs, screenshots). `inputs` maps a path, as the manifest resolves
    it, to the captured file (read-only). `environment` is the explicit environment of every tool,
    `host_tools` adds to it for those of the host.
    `external` is the external state in CheckpointStarted and in the layer's key: the result of
    `external_state` just before the start.
    `made` are the recorded files (the disk, media) that this attempt makes or changes; a change of
    any other one fails the checkpoint (`dcd.checkpoints.recorded`).
    `packages` is the package store, if `Needs.packages` asks for it; `resolve(sha256)` says which list there
    names the packages that this attempt puts into the image (`store.resolved`). `resolved` are the lists of
    earlier checkpoints, `host_files` the tools whose files they put into the image, and `products` the files
    that they deliver, by name with their sha256, if `Needs.contents` asks for them; `artifacts` are these
    with their paths in the workspace, and evidence too. `publish` records a file that was published.
    `stage` is what to make: other than WHOLE only for a checkpoint with a `base`. In REST, `below` is the
    digest of the list of the packages that the layer below has ("": none). What BASE has found out already
    it hands on with `hand_on(text)`; in the REST that follows, `handed` is this text ("": another attempt has
    made the base).
    `locked` is what to use in place of the repositories: then nothing comes from the network.
    `claim(kind, name)` precedes the creation of anything that could outlive the worker, and returns
    when the event log has it (see `dcd.platform.resources`). `attempt` names this attempt among all on
    the host: STATE:BUILD:CHECKPOINT:ATTEMPT.
    """

    root: Path
    doc: DataObjectCache
    evidence: Path
    inputs: Mapping[str, Path]
    report: Callable[[Report], None]
    deliver: Callable[[Artifact], None]
    claim: Callable[[str, str], None]
    attempt: str
    environment: Mapping[str, str] = field(default_factory=dict)
    external: Mapping[str, str] = field(default_factory=dict)
    made: set[Path] = field(default_factory=set)
    packages: Lent | None = None
    resolve: Callable[[str], None] = lambda _: None
    stage: Stage = Stage.WHOLE
    below: str = ""
    handed: str = ""
    hand_on: Callable[[str], None] = lambda _: None
    host_tools: Mapping[str, str] = field(default_factory=dict)
    resolved: tuple[Path, ...] = ()
    host_files: tuple[str, ...] = ()
    products: Mapping[str, str] = field(default_factory=dict)
    artifacts: tuple[Artifact, ...] = ()
    publish: Callable[[Publication], None] = lambda _: None
    locked: Locked | None = None

    @property
    def pkg_image(self) -> Path:
        """The image area: the root file system being made."""
        return self.root / "pkg_image"

    @property
    def boot_archive(self) -> Path:
        """Contents of the boot archive; on Linux the kernel and initramfs."""
        return self.root / "boot_archive"

    @property
    def media(self) -> Path:
        """The contents of the media, and the media files themselves."""
        return self.root / "media"

    @property
    def tmp(self) -> Path:
        """Scratch space of this attempt, on the state directory's file system."""
        return self.root / "tmp"

    def warn(self, message: str) -> None:
        """Report a possible defect of the result."""
        self.report(Report(message=message, warning=True))

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: bytes | None = None,
        timeout_seconds: float | None = None,
        capture: bool = False,
        on_line: Callable[[str], None] | None = None,
        on_meter: Callable[[str], None] | None = None,
        ok: Sequence[int] = (0,),
    ) -> Completed:
        """Run a tool with this context's environment (plus `env`); see `store.host.process.run`."""
        return run(
            argv,
            env={**self.environment, **self.host_tools, **(env or {})},
            cwd=cwd,
            stdin=stdin,
            timeout_seconds=timeout_seconds,
            capture=capture,
            on_line=on_line,
            on_meter=on_meter,
            ok=ok,
        )


@dataclass(frozen=True, slots=True)
class Known:
    """The repositories of a locked build: as they were captured, the state of each by its name, and of the
    choice of versions."""

    repositories: tuple[Repository, ...]
    states: Mapping[str, str]
    versions: str = ""


@dataclass(frozen=True, eq=False)
class Checkpoint(ABC):
    """Base of all checkpoints. The values come from the manifest, matched against the fields and converted
    to their types."""

    DESCRIPTION: ClassVar[str] = ""
    """One line for lists; the manifest's `desc` outranks it."""

    EXPECTED_SECONDS: ClassVar[float] = 60.0
    """The usual duration; see `get_progress_estimate`."""

    DISK_BYTES: ClassVar[int] = 0
    """The usual peak of extra disk space; see `needs`."""

    VERSION: ClassVar[int] = 1
    """Part of the key: raise it when the result for the same ingredients changes."""

    READS: ClassVar[tuple[str, ...]] = ()
    """DOC paths of manifest nodes that decide the result, beside the `software` and `configuration`
    named for the checkpoint, which are always part of the key. Example: `//boot_mods`."""

    TOOLS: ClassVar[tuple[str, ...]] = ()
    """Every tool that it may need, as `Needs.tools` names them, for lists and the reference; see `needs`."""

    NAMED: ClassVar[tuple[str, ...]] = ()
    """The elements of its name that it reads: `software`, `configuration`. Others are unused, which is a
    warning; plug-ins' checkpoints are exempt."""

    INPUTS: ClassVar[Inputs | None] = None
    """What of the layers below decides the result; None: everything may. With it, a result is taken over onto
    another layer with the same inputs. A reader that is not declared makes results wrong."""

    REQUIRES: ClassVar[tuple[str, ...]] = ()
    """Products of earlier checkpoints that it always needs; see `requires`."""

    PROVIDES: ClassVar[tuple[str, ...] | None] = None
    """Products that it always makes; see `provides`."""

    REUSABLE: ClassVar[bool] = True
    """Whether an earlier result may be used in its place. Not that of a checkpoint which works outside the
    workspace: it runs in every build."""

    name: str
    """The checkpoint's name in the manifest."""

    known: Known | None = field(default=None, init=False, repr=False)
    """The repositories of a locked build, for `external_state`; None: it queries them."""

    patient: bool = field(default=True, init=False, repr=False)
    """Whether `external_state` may retry for a while when a server does not answer; see `impatient`."""

    stopping: threading.Event = field(
        default_factory=threading.Event, init=False, repr=False, compare=False
    )
    """Set by `cancel`."""

    def __init_subclass__(cls) -> None:
        """Raises TypeError for an argument that hides a method: code of the base class would call it."""
        for argument in get_annotations(cls):
            if callable(getattr(Checkpoint, argument, None)):
                raise TypeError(f"the argument {argument!r} hides Checkpoint.{argument}: rename it")

    @property
    def runs_host_code(self) -> bool:
        """Whether it runs code of the manifest outside the image, for which its sender needs the right
        `host_code`. Read before `external_state`, which may then open files of the host that it names."""
        return False

    def needs(self, doc: DataObjectCache) -> Needs:
        """Its needs for this manifest; by default all of `TOOLS`, and `DISK_BYTES`. Pure: reads only the
        DOC. Raises nothing, also for a manifest in which `check` finds errors."""
        return Needs(tools=self.TOOLS, disk_bytes=self.DISK_BYTES)

    def requires(self, doc: DataObjectCache) -> Iterator[tuple[str, ...]]:
        """The products of earlier checkpoints that it needs (`dcd.checkpoints.products`): one of each tuple.
        Planning compares them with `provides`. Pure."""
        yield from ((name,) for name in self.REQUIRES)

    def provides(self, doc: DataObjectCache) -> Provided | None:
        """The products that it makes for later checkpoints, and how surely; None when it can be anything.
        Pure; raises nothing."""
        return None if self.PROVIDES is None else dict.fromkeys(self.PROVIDES, "surely")

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        """All errors and warnings that the signature cannot express (a bad value, a missing node), each at
        its own place: see `fault`. Does not stop at the first. Pure; called at validate, plan and submit."""
        yield from ()

    def argument_place(
        self, doc: DataObjectCache, argument: str | None = None, item: int = 0
    ) -> Origin | None:
        """The place of the argument in the manifest (of a list: of item number `item`); without it, the
        place of the checkpoint."""
        found = doc.volatile.get_descendants(self.name, CheckpointSpec, max_count=1)
        spec = found[0] if found else None
        if spec is None or argument is None:
            return None if spec is None else spec.origin
        positional = None
        for given in spec.get_descendants(class_type=DataObject):
            if isinstance(given, Arg) and given.name == argument:
                return given.origin
            if isinstance(given, ArgList) and given.name == argument:
                return given.place_of("argitem", item)
            if isinstance(given, Args):
                positional = given.origin
        first = list(signature(type(self)).parameters)[1:2]
        return positional if positional and [argument] == first else spec.origin

    def fault(
        self,
        doc: DataObjectCache,
        argument: str | None,
        message: str,
        why: str = "",
        suggestion: str = "",
        item: int = 0,
    ) -> Diagnostic:
        """An error about an argument (None: about the checkpoint), at its place."""
        return error(
            self.argument_place(doc, argument, item), f"{self.name}: {message}", why, suggestion
        )

    def base(self, doc: DataObjectCache) -> Base | None:
        """The base of its result; None when the result is one layer. Pure; raises nothing."""
        return None

    def external_state(self, doc: DataObjectCache) -> Mapping[str, str]:
        """External state that determines the result, for the key: each name with a text that identifies the
        state, usually a sha256, followed by a date (2026-01-01T00:00:00Z) or a version if there is one.
        A default that comes from the host belongs here too, with its value, under a name that ends in
        ` of the host`. The tools in `Needs.tools` are covered already. May use the network; called in a
        planner, at plan time and just before the start."""
        return {}

    def lockable(self, doc: DataObjectCache) -> Lockable | None:
        """What a lock says of it; None for a checkpoint whose packages cannot be locked, or without packages.
        Pure."""
        return None

    def changes_since(
        self,
        doc: DataObjectCache,
        locked: LockedTransfer,
        states: Mapping[str, str],
        inputs: Mapping[str, str],
    ) -> Iterator[Diagnostic]:
        """The repositories whose `states`, the present external state, differ from those in the lock, what
        that changes of its packages, and other keyrings; `inputs` are the digests of captured files by
        path. May use the network; called in a planner."""
        yield from ()

    def variances(self, doc: DataObjectCache) -> Iterator[Variance]:
        """The reasons why the same ingredients may give another result each time; none if it always has the
        same bytes, for which it uses no clock but SOURCE_DATE_EPOCH, and nothing random. Pure; raises
        nothing, also for a manifest in which `check` finds errors."""
        yield from ()

    def knowing(self, known: Known | None) -> Self:
        """A copy for a locked build, whose `external_state` queries nothing."""
        copied = copy(self)
        object.__setattr__(copied, "known", known)
        return copied

    def impatient(self) -> Self:
        """A copy whose `external_state` does not wait, for a preview of a plan."""
        copied = copy(self)
        object.__setattr__(copied, "patient", False)
        return copied

    def get_progress_estimate(self) -> float:
        """The expected duration in seconds."""
        return self.EXPECTED_SECONDS

    @abstractmethod
    def execute(self, context: Context) -> None:
        """Do the work. Raises `CheckpointError` for every error that a person can fix."""

    def cancel(self) -> None:
        """Stop soon: called in the worker, from a signal handler; after a time limit the process group is
        terminated anyway. Loops that wait watch `stopping`."""
        self.stopping.set()


CheckpointFactory = Callable[..., Checkpoint]
"""A value of the manifest's `checkpoint_class`: a class, or a function that returns one."""

__all__ = [
    "ALL_DEVICES",
    "CHROOT",
    "FILES",
    "MOUNTS",
    "Ask",
    "Base",
    "Checkpoint",
    "CheckpointFactory",
    "Completed",
    "Context",
    "HostPath",
    "Inputs",
    "Json",
    "Lockable",
    "Needs",
    "Report",
    "Stage",
    "UnsuitedBase",
    "Variance",
]
