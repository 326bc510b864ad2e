"""The interface of a checkpoint: one named step of a build.

A checkpoint class is constructed twice from the same manifest: by the daemon when it plans (to ask
for needs, ingredients and estimate; nothing may be touched then), and in a worker process, alone in
its namespaces, to be executed once. It reads the DOC and the workspace through the `Context` and
leaves its result in the workspace; what later checkpoints need to know it puts into the DOC's
persistent part. It keeps no state elsewhere, so that the layer is the whole result.

A checkpoint is a frozen dataclass. Its fields are the arguments that a manifest gives: by keyword, or the
first of them as `<args>`. The string below a field, as in this module, says what it means; the reference,
`dcctl checkpoint-types` and the grammar for editors show it. A class with a constructor of its own, or a
function that returns a checkpoint, works as well: the arguments then have no descriptions.

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
from dcd.manifest.objects import Arg, ArgList, Args, CheckpointSpec
from statemachine.events import Artifact
from statemachine.plan import Json
from store.host.capabilities import CHROOT, FILES, MOUNTS
from store.host.devices import ALL_DEVICES
from store.host.process import Completed, run


@dataclass(frozen=True, slots=True)
class HostPath:
    """A path of the host, and where the manifest names it."""

    path: Path
    place: Origin | None


@dataclass(frozen=True, slots=True)
class Needs:
    """What a checkpoint needs of the host; checked before the first checkpoint of a plan runs.

    `tools` are names in `store.host.tools.TOOLS`; `network` keeps the host's network namespace, and
    puts the host's proxies into the environment of tools, with their logins only where `proxy_logins`
    says that nothing of a manifest or an image runs with them; `disk_bytes` is the peak of extra space in
    the state directory.

    The rest is what the worker leaves it of root's rights; what is not named here the kernel refuses.
    `capabilities` are those of capabilities(7) without CAP_: `FILES` for making files of any owner and kind,
    `CHROOT` for tools that enter the image by themselves, `MOUNTS` for what mounts, or runs programs inside
    the image (`dcd.platform.chroot`). `devices` are names in /dev beside the standard ones, or
    `ALL_DEVICES` (for loop devices); `reads` are paths of the host that the manifest has it read, which is
    refused for those that workers do not see; `writes` are paths of the host that it changes, beside its
    workspace and evidence; `secrets` are the files and variables that it reads (`dcd.manifest.secrets`).
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


@dataclass(frozen=True, slots=True)
class Report:
    """What a running checkpoint tells: broadcast, never an event. `fraction` is 0..1. The message goes to the
    log as well, unless it is `logged` already, such as a line of a tool. A `warning` says what the result
    lacks or may be wrong with: it is kept with the result, and shown with the build."""

    fraction: float | None = None
    message: str = ""
    logged: bool = False
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Context:
    """Everything a running checkpoint may touch.

    `root` is the workspace's tree; the four areas below it exist. `tmp` is emptied before the layer
    is committed. `evidence` is a directory beside the attempt's log that outlives the attempt,
    whatever its verdict (console logs, screenshots). `inputs` maps a path, as the manifest resolves
    it, to the captured file (read-only). `environment` is the explicit environment of every tool.
    `external` is the state of the world outside that CheckpointStarted recorded: what
    `external_state` returned just before the start, and what the layer's key says it was made from.
    `made` are the recorded files (the disk, media) that this attempt makes or changes; a checkpoint that
    changes others has failed (`dcd.checkpoints.recorded`).
    `claim(kind, name)` is called before something is made that could outlive the worker, and returns
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
        """What goes onto the media, and the media files themselves."""
        return self.root / "media"

    @property
    def tmp(self) -> Path:
        """Scratch space of this attempt, on the state directory's file system."""
        return self.root / "tmp"

    def warn(self, message: str) -> None:
        """Say what the result lacks or may be wrong with."""
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
            env={**self.environment, **(env or {})},
            cwd=cwd,
            stdin=stdin,
            timeout_seconds=timeout_seconds,
            capture=capture,
            on_line=on_line,
            on_meter=on_meter,
            ok=ok,
        )


@dataclass(frozen=True, eq=False)
class Checkpoint(ABC):
    """Base of all checkpoints. The values come from the manifest, already matched against the fields and
    converted to their types."""

    DESCRIPTION: ClassVar[str] = ""
    """One line for lists; the manifest's `desc` outranks it."""

    VERSION: ClassVar[int] = 1
    """Part of the key: raise it when the result for the same ingredients changes."""

    READS: ClassVar[tuple[str, ...]] = ()
    """DOC paths of manifest nodes that decide the result, beside the `software` and `configuration`
    named for the checkpoint, which are always part of the key. Example: `//boot_mods`."""

    TOOLS: ClassVar[tuple[str, ...]] = ()
    """Every tool that it may need, as `Needs.tools` names them, for lists and the reference. What one
    manifest really needs is for `needs` to say."""

    NAMED: ClassVar[tuple[str, ...]] = ()
    """Which elements of its name it reads: `software`, `configuration`. One that it does not read is warned
    of; of a plug-in's checkpoints this is not asked."""

    REQUIRES: ClassVar[tuple[str, ...]] = ()
    """Products that it always needs of checkpoints before it; see `requires`."""

    PROVIDES: ClassVar[tuple[str, ...] | None] = None
    """Products that it always makes; see `provides`."""

    name: str
    """The checkpoint's name in the manifest."""

    patient: bool = field(default=True, init=False, repr=False)
    """Whether `external_state` may try for a while to reach what does not answer; see `impatient`."""

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
        `host_code`. Asked before `external_state`, which then may open what the manifest names there."""
        return False

    def needs(self, doc: DataObjectCache) -> Needs:
        """What the host must have. Pure: reads only the DOC. Raises nothing, also for a manifest in
        which `check` finds errors."""
        return Needs()

    def requires(self, doc: DataObjectCache) -> Iterator[tuple[str, ...]]:
        """What it needs of the checkpoints before it, as `dcd.checkpoints.products` names it: of each
        tuple, one will do. Planning checks it against what these provide. Pure."""
        yield from ((name,) for name in self.REQUIRES)

    def provides(self, doc: DataObjectCache) -> Provided | None:
        """What it makes for checkpoints after it, and how surely. None: it does not say, so it can be
        anything. Pure; raises nothing."""
        return None if self.PROVIDES is None else dict.fromkeys(self.PROVIDES, "surely")

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        """Everything wrong or doubtful that the signature cannot express (a bad value, a node that is
        missing), each at its own place: see `fault`. Does not stop at the first. Pure; called at
        validate, plan and submit."""
        yield from ()

    def argument_place(
        self, doc: DataObjectCache, argument: str | None = None, item: int = 0
    ) -> Origin | None:
        """Where the manifest gives the argument, of a list its item number `item`; where it does not,
        the place of the checkpoint."""
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

    def external_state(self, doc: DataObjectCache) -> Mapping[str, str]:
        """State of the world outside that decides the result, for the key: name to a text that identifies
        it, as a rule a sha256, with a date (2026-01-01T00:00:00Z) or a version behind it where there is one.
        A default that is taken from the host belongs here too, with its value; a name that ends in
        ` of the host` says so. The tools in `Needs.tools` are covered already. May use the network; called
        in a thread of the daemon at plan time and just before the start."""
        return {}

    def impatient(self) -> Self:
        """A copy whose `external_state` does not wait: for somebody who only looks at a plan."""
        copied = copy(self)
        object.__setattr__(copied, "patient", False)
        return copied

    def get_progress_estimate(self) -> float:
        """Expected seconds."""
        return 60.0

    @abstractmethod
    def execute(self, context: Context) -> None:
        """Do the work. Raises `CheckpointError` for anything that a person can put right."""

    def cancel(self) -> None:
        """Asked to stop (in the worker, from a signal handler); the group is terminated anyway a
        bounded time later. What waits watches `stopping`."""
        self.stopping.set()


CheckpointFactory = Callable[..., Checkpoint]
"""What the manifest's `checkpoint_class` may name: a class, or a function that returns one."""

__all__ = [
    "ALL_DEVICES",
    "CHROOT",
    "FILES",
    "MOUNTS",
    "Checkpoint",
    "CheckpointFactory",
    "Completed",
    "Context",
    "HostPath",
    "Json",
    "Needs",
    "Report",
]
