"""The checkpoints of a manifest that can run here, and the obstacles of the others.

The first step of planning. It constructs every checkpoint once, lets it check the manifest, and compares its
needs with the host. A refusal names all obstacles of all checkpoints. The network is not used.
"""

import inspect
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
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
from dcd.worker.kinds import MOUNTS_REMEDY, NO_MOUNTS, TOOLS, Kind
from statemachine.errors import InvalidManifest, Unprepared
from statemachine.plan import Variance
from store.host import tools
from store.host.capabilities import CHROOT, NEEDS_ROOT
from store.host.identity import workers_are_root

Made = tuple[CheckpointSpec, Checkpoint | None]
"""A checkpoint of a manifest, and its instance; None if it cannot be constructed."""


@dataclass(frozen=True, slots=True)
class Prospect:
    """A checkpoint of a manifest. `instance` is None for a checkpoint of the original without a counterpart
    here. `obstacle` is the reason why it cannot run here, or ""."""

    spec: CheckpointSpec
    instance: Checkpoint | None
    needs: Needs
    obstacle: str = ""
    lacks: tuple[str, ...] = ()
    """The tools that this host lacks."""

    runs_host_code: bool = False
    """It runs the manifest's or other foreign code outside the image."""

    variances: tuple[Variance, ...] = ()
    """Why its result may differ each time."""

    unasked: str = ""
    """The reason why its key is unknown: a repository that cannot be queried; else ""."""

    @property
    def description(self) -> str:
        """A one-line description, for lists."""
        return self.spec.desc or (type(self.instance).DESCRIPTION if self.instance else "")

    @property
    def estimate_seconds(self) -> float:
        """Expected seconds; 0 if it cannot be constructed."""
        return 0.0 if self.instance is None else self.instance.get_progress_estimate()


def constructed(doc: DataObjectCache, allowed: Collection[str], whole: bool = True) -> list[Made]:
    """All checkpoints of a manifest, in order; None for one that cannot be constructed. `allowed` are
    further modules that the manifest may name, `whole` is as for `construct`."""
    made: list[Made] = []
    for spec in checkpoints_of(doc):
        names = (spec.mod_path, spec.checkpoint_class, spec.name)
        try:
            made.append((spec, construct(*names, spec.args, spec.kwargs, allowed, whole)))
        except ManifestError:
            made.append((spec, None))
    return made


def prospects(
    doc: DataObjectCache,
    made: Sequence[Made],
    allowed: Collection[str],
    worker: Kind = Kind.NAMESPACES,
) -> list[Prospect]:
    """The prospects of the checkpoints of a manifest without faults, on a host with workers of a kind."""
    return [_prospect(doc, spec, instance, allowed, worker) for spec, instance in made]


def examine(
    doc: DataObjectCache,
    damage: Damage,
    allowed: Collection[str],
    pause_before: str | None = None,
    made: list[Made] | None = None,
    elsewhere: bool = False,
) -> Iterator[Diagnostic]:
    """The findings of the checkpoints in the valid part of a manifest, and missing products between them.
    `dcd.construction.constructors` reports faults of their constructors. From `pause_before` on no checkpoint
    runs with this manifest. Appends the constructed checkpoints to `made`. `elsewhere`: another host may
    make the image."""
    everything = constructed(doc, allowed, whole=not damage)
    if made is not None:
        made += everything
    steps: list[Step] = []
    report = error
    for spec, instance in everything:
        report = warning if spec.name == pause_before else report
        if instance is None:
            steps.append(_outlined(spec, allowed))
            if (absent := _unresolved(spec, allowed)) is not None and absent.known:
                place = spec.place_of("mod_path")
                remedy = absent.suggestion.replace("CHECKPOINT", spec.name)
                yield report(place, absent.message, absent.why, remedy)
            elif not damage and absent is None:
                what = f"{spec.checkpoint_class} of {spec.mod_path} makes no checkpoint"
                yield error(spec.origin, f"{spec.name}: {what}")
            continue
        consequences = damage.concerns(spec.name, type(instance).READS)
        for each in _placed(_checked(instance, doc, damage), spec):
            if not (consequences and each.origin == spec.origin):
                yield each
        if not damage:
            yield from _placed(_hidden(instance.needs(doc).reads), spec)
        # The faulty part may be the one that makes a product.
        steps.append(
            outlined_step(spec, type(instance)) if consequences else whole_step(spec, instance, doc)
        )
    yield from check_sequence(steps, pause_before)
    if not damage:
        yield from check_unused(doc, steps)
    if not elsewhere:
        yield from _foreign_images(doc, pause_before)


def _outlined(spec: CheckpointSpec, allowed: Collection[str]) -> Step:
    """The step of a checkpoint with wrong arguments or an unknown class."""
    with suppress(Unresolved):
        factory = resolve(spec.mod_path, spec.checkpoint_class, allowed)
        if inspect.isclass(factory) and issubclass(factory, Checkpoint):
            return outlined_step(spec, factory)
    return Step(spec)


def require_all(
    found: Sequence[Prospect],
    pause_before: str | None = None,
    worker: Kind = Kind.NAMESPACES,
) -> None:
    """Raise Unprepared, with every obstacle, unless all checkpoints before `pause_before` can run."""
    if worker is Kind.NAMESPACES and sys.platform != "linux":
        raise Unprepared(
            "no checkpoint can run on this host",
            "the setting worker is namespaces, which only Linux has",
            "set worker = auto and restart the daemon",
        )
    if absent := tools.missing(TOOLS[worker]):
        raise Unprepared(
            "no checkpoint can run on this host",
            f"workers are started with {' and '.join(TOOLS[worker])}; missing: {', '.join(absent)}",
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
    if any(prospect.obstacle == NO_MOUNTS for prospect in hindered):
        remedies.append(MOUNTS_REMEDY)
    elif any(_rights_missing(prospect.needs) for prospect in hindered):
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
    worker: Kind,
) -> Prospect:
    if instance is None:
        return Prospect(spec, None, Needs(), _absence(spec, allowed))
    needs = instance.needs(doc)
    lacks = tuple(tools.missing(needs.tools))
    obstacle = f"this host lacks {', '.join(lacks)}" if lacks else _rights_missing(needs)
    if worker is Kind.PORTABLE and "SYS_ADMIN" in needs.capabilities:
        obstacle, lacks = NO_MOUNTS, ()  # no tool would help
    on_host = runs_host_code(spec.mod_path, spec.checkpoint_class, instance)
    found = tuple(instance.variances(doc))
    if not found and on_host:
        found = (
            Variance("it runs code outside the project, which dcd does not know", certain=False),
        )
    return Prospect(spec, instance, needs, obstacle, lacks, on_host, found)


def _rights_missing(needs: Needs) -> str:
    """The reason why a daemon that is not root cannot run a checkpoint, or "". Its workers are in a user
    namespace, where they can neither open devices nor mount disks."""
    if workers_are_root():
        return ""
    wanted = [f"the capability {name}" for name in needs.capabilities if name not in CHROOT]
    # Guests can run without KVM.
    wanted += [f"/dev/{name}" for name in needs.devices if name != "kvm"]
    return f"it needs {listed(wanted, 'and')}, and this daemon is not root" if wanted else ""


def _absence(spec: CheckpointSpec, allowed: Collection[str]) -> str:
    """The reason why the checkpoint does not exist in this installation, or ""."""
    failure = _unresolved(spec, allowed)
    return "" if failure is None else failure.message


def _unresolved(spec: CheckpointSpec, allowed: Collection[str]) -> Unresolved | None:
    try:
        resolve(spec.mod_path, spec.checkpoint_class, allowed)
    except Unresolved as failure:
        return failure
    return None


def _foreign_images(doc: DataObjectCache, pause_before: str | None) -> Iterator[Diagnostic]:
    """Errors for images of architectures whose programs this host cannot run; from the pause on, warnings."""
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
    """The findings of a checkpoint, including errors that the check of a plug-in raises."""
    try:
        yield from instance.check(doc)
    except ManifestError as failure:
        yield from failure.diagnostics
    except InvalidManifest as failure:
        yield error(None, failure.brief, failure.details, failure.resolution)
    except Exception:
        # It may rely on a part that the grammar requires and a damaged manifest lacks.
        if not damage:
            raise


def _hidden(reads: Iterable[HostPath]) -> Iterator[Diagnostic]:
    """Errors for files of this host that are hidden from checkpoints."""
    for each in reads:
        if cover := hiding(each.path):
            yield error(
                each.place,
                f"checkpoints cannot read {each.path} of this host",
                f"{cover} of the host is hidden from them.",
                "move it to a directory such as /srv, or serve it over http",
            )


def _placed(found: Iterable[Diagnostic], spec: CheckpointSpec) -> list[Diagnostic]:
    """The diagnostics; those without a place get that of the checkpoint."""
    return [each if each.line or spec.origin is None else at(spec.origin, each) for each in found]
