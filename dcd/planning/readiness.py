"""Which checkpoints of a manifest can run here at all, and why others cannot.

The first step of planning. It constructs every checkpoint, once, lets it check the manifest, and asks what
it needs of the host. What stands in the way is found for all of them, so that a refusal names everything at
once. The network is not used.
"""

import inspect
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from dcd.checkpoints.interface import Checkpoint, HostPath, Needs
from dcd.construction.constructors import (
    PLUGIN_REMEDY,
    Unresolved,
    construct,
    resolve,
    runs_host_code,
)
from dcd.manifest.damage import Damage
from dcd.manifest.diagnostics import Diagnostic, ManifestError, at, error, listed, warning
from dcd.manifest.doc import DataObjectCache, checkpoints_of, software_for
from dcd.manifest.objects import CheckpointSpec, Image
from dcd.planning.sequence import Step, check_sequence, outlined_step, whole_step
from dcd.planning.unused import check_unused
from dcd.platform import foreign
from dcd.worker.isolation import hiding
from statemachine.errors import InvalidManifest, Unprepared
from store.host import tools
from store.host.capabilities import CHROOT, NEEDS_ROOT

Made = tuple[CheckpointSpec, Checkpoint | None]
"""A checkpoint of a manifest, constructed; None where it cannot be."""


@dataclass(frozen=True, slots=True)
class Prospect:
    """A checkpoint of a manifest. `instance` is None for one of the original's that has no counterpart in
    this installation. `obstacle` says why it cannot run here; it is empty when it can."""

    spec: CheckpointSpec
    instance: Checkpoint | None
    needs: Needs
    obstacle: str = ""
    lacks: tuple[str, ...] = ()
    """The tools that this host lacks."""

    runs_host_code: bool = False
    """It runs the manifest's code, or somebody else's, outside the image."""

    unasked: str = ""
    """Why its key cannot be known: a repository cannot be asked. Empty when it can, or was not asked."""

    @property
    def description(self) -> str:
        """A line about it, for lists."""
        return self.spec.desc or (type(self.instance).DESCRIPTION if self.instance else "")

    @property
    def estimate_seconds(self) -> float:
        """Expected seconds; none for what cannot run."""
        return 0.0 if self.instance is None else self.instance.get_progress_estimate()


def constructed(doc: DataObjectCache, allowed: Collection[str], whole: bool = True) -> list[Made]:
    """All checkpoints of a manifest, in order; None for one that cannot be constructed. `allowed` are
    modules that the manifest may name beside the project's, `whole` as for `construct`."""

    def instance(spec: CheckpointSpec) -> Checkpoint | None:
        names = (spec.mod_path, spec.checkpoint_class, spec.name)
        try:
            return construct(*names, texts_of(spec), spec.kwargs, allowed, whole)
        except ManifestError:
            return None

    return [(spec, instance(spec)) for spec in checkpoints_of(doc)]


def prospects(
    doc: DataObjectCache, made: Sequence[Made], allowed: Collection[str]
) -> list[Prospect]:
    """The prospects of the checkpoints of a manifest that `examine` finds no fault in."""
    return [_prospect(doc, spec, instance, allowed) for spec, instance in made]


def examine(
    doc: DataObjectCache,
    damage: Damage,
    allowed: Collection[str],
    pause_before: str | None = None,
    made: list[Made] | None = None,
) -> Iterator[Diagnostic]:
    """What the checkpoints of a manifest find in it, as far as it is whole, and whether they find what they
    need of each other. What is wrong with their constructors is left out: `dcd.construction.constructors`
    reports it. From `pause_before` on nothing will run with this manifest. The checkpoints, constructed, are
    appended to `made`."""
    everything = constructed(doc, allowed, whole=not damage)
    if made is not None:
        made += everything
    steps: list[Step] = []
    for spec, instance in everything:
        if instance is None:
            steps.append(_outlined(spec, allowed))
            if not damage and not _absence(spec, allowed):
                what = f"{spec.checkpoint_class} of {spec.mod_path} makes no checkpoint"
                yield error(spec.origin, f"{spec.name}: {what}")
            continue
        consequences = damage.concerns(spec.name, type(instance).READS)
        for each in _placed(_checked(instance, doc, damage), spec):
            if not (consequences and each.origin == spec.origin):
                yield each
        if not damage:
            yield from _placed(_hidden(instance.needs(doc).reads), spec)
        # What is at fault may be just what makes a product.
        steps.append(
            outlined_step(spec, type(instance)) if consequences else whole_step(spec, instance, doc)
        )
    yield from check_sequence(steps, pause_before)
    if not damage:
        yield from check_unused(doc, steps)
    yield from _foreign_images(doc, pause_before)


def _outlined(spec: CheckpointSpec, allowed: Collection[str]) -> Step:
    """What is known of a checkpoint whose arguments are wrong, or whose class there is not."""
    try:
        factory = resolve(spec.mod_path, spec.checkpoint_class, allowed)
    except Unresolved:
        return Step(spec)
    if inspect.isclass(factory) and issubclass(factory, Checkpoint):
        return outlined_step(spec, factory)
    return Step(spec)


def require_all(found: Sequence[Prospect], pause_before: str | None = None) -> None:
    """Raise Unprepared, with every obstacle, unless all checkpoints before `pause_before` can run."""
    if absent := tools.missing(tools.WORKER_TOOLS):
        raise Unprepared(
            "no checkpoint can run on this host",
            f"workers are started with {' and '.join(tools.WORKER_TOOLS)}; missing: {', '.join(absent)}",
            tools.remedy(absent),
        )
    reached = takewhile(lambda prospect: prospect.spec.name != pause_before, found)
    hindered = [prospect for prospect in reached if prospect.obstacle]
    if not hindered:
        return
    lacking = dict.fromkeys(tool for prospect in hindered for tool in prospect.lacks)
    remedies = [tools.remedy(lacking)]
    if any(prospect.instance is None for prospect in hindered):
        first = next(prospect.spec.name for prospect in hindered)
        remedies.append(PLUGIN_REMEDY.replace("CHECKPOINT", first))
    if any(_rights_missing(prospect.needs) for prospect in hindered):
        remedies.append(NEEDS_ROOT)
    count = f"{len(hindered)} of {len(found)} checkpoints"
    raise Unprepared(
        f"{count} cannot run here",
        "\n".join(f"{prospect.spec.name}: {prospect.obstacle}" for prospect in hindered),
        "; ".join(filter(None, remedies)),
    )


def _prospect(
    doc: DataObjectCache,
    spec: CheckpointSpec,
    instance: Checkpoint | None,
    allowed: Collection[str],
) -> Prospect:
    if instance is None:
        return Prospect(spec, None, Needs(), _absence(spec, allowed))
    needs = instance.needs(doc)
    lacks = tuple(tools.missing(needs.tools))
    obstacle = f"this host lacks {', '.join(lacks)}" if lacks else _rights_missing(needs)
    on_host = runs_host_code(spec.mod_path, spec.checkpoint_class, instance)
    return Prospect(spec, instance, needs, obstacle, lacks, on_host)


def _rights_missing(needs: Needs) -> str:
    """Why a daemon that is not root cannot run a checkpoint, or "". Its workers have a user namespace, which
    opens no device and mounts no disk."""
    if os.geteuid() == 0:
        return ""
    wanted = [f"the capability {name}" for name in needs.capabilities if name not in CHROOT]
    # Without KVM guests are emulated.
    wanted += [f"/dev/{name}" for name in needs.devices if name != "kvm"]
    return f"it needs {listed(wanted, 'and')}, and this daemon is not root" if wanted else ""


def _absence(spec: CheckpointSpec, allowed: Collection[str]) -> str:
    """Why there is no such checkpoint in this installation; empty when there is."""
    try:
        resolve(spec.mod_path, spec.checkpoint_class, allowed)
    except Unresolved as failure:
        return failure.message
    return ""


def _foreign_images(doc: DataObjectCache, pause_before: str | None) -> Iterator[Diagnostic]:
    """Errors for images of architectures whose programs this host cannot run; after a pause, warnings."""
    report = error
    for spec in checkpoints_of(doc):
        report = warning if spec.name == pause_before else report
        software = software_for(doc, spec.name)
        if software is None or software.type != "DEB":
            continue
        for image in software.get_descendants(class_type=Image):
            wanted = image.architecture
            if wanted not in foreign.ARCHITECTURES or not (hindrance := foreign.obstacle(wanted)):
                continue
            yield report(
                image.place_of("architecture"),
                f"this host cannot make an image for {wanted}",
                hindrance[0],
                hindrance[1],
            )


def _checked(instance: Checkpoint, doc: DataObjectCache, damage: Damage) -> Iterator[Diagnostic]:
    """What the checkpoint finds; of a plug-in also what it raises."""
    try:
        yield from instance.check(doc)
    except ManifestError as failure:
        yield from failure.diagnostics
    except InvalidManifest as failure:
        yield error(None, failure.brief, failure.details, failure.resolution)
    except Exception:
        # It may rely on what the grammar requires, and that need not be there.
        if not damage:
            raise


def _hidden(reads: Iterable[HostPath]) -> Iterator[Diagnostic]:
    """Errors for files of this host that no checkpoint would see."""
    for each in reads:
        if cover := hiding(each.path):
            yield error(
                each.place,
                f"checkpoints do not see {each.path} of this host",
                f"{cover} of the host is hidden from them.",
                "move it to a directory such as /srv, or serve it over http",
            )


def _placed(found: Iterable[Diagnostic], spec: CheckpointSpec) -> list[Diagnostic]:
    """The diagnostics, at the checkpoint where they have no place of their own."""
    return [each if each.line or spec.origin is None else at(spec.origin, each) for each in found]


def texts_of(spec: CheckpointSpec) -> tuple[str, ...]:
    """The positional arguments of a checkpoint, as texts."""
    return () if spec.args is None else (spec.args,)
