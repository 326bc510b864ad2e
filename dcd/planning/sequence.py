"""Checks that each checkpoint of a manifest finds the products that it needs of earlier ones.

A product that no earlier checkpoint makes is an error. A product that a command or a checkpoint without a
declaration may make is no fault; an unlikely product is a warning. Pure.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dcd.checkpoints.interface import Checkpoint
from dcd.checkpoints.products import Odds, Provided, product
from dcd.manifest.diagnostics import Diagnostic, error, warning
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.objects import CheckpointSpec


@dataclass(frozen=True, slots=True)
class Step:
    """A checkpoint of the manifest: the required products, one of each tuple, and the provided ones (None:
    unknown). `instance` is None if a part of the manifest that it reads has a fault."""

    spec: CheckpointSpec
    requires: tuple[tuple[str, ...], ...] = ()
    provides: Provided | None = None
    instance: Checkpoint | None = None


def whole_step(spec: CheckpointSpec, instance: Checkpoint, doc: DataObjectCache) -> Step:
    """The step of a checkpoint whose part of the manifest is valid."""
    return Step(spec, tuple(instance.requires(doc)), instance.provides(doc), instance)


def outlined_step(spec: CheckpointSpec, cls: type[Checkpoint]) -> Step:
    """The step of a checkpoint by its class alone, independent of the manifest."""
    requires = provides = None
    if cls.requires is Checkpoint.requires:
        requires = tuple((name,) for name in cls.REQUIRES)
    if cls.provides is Checkpoint.provides and cls.PROVIDES is not None:
        provides = dict.fromkeys(cls.PROVIDES, SURELY)
    return Step(spec, requires or (), provides)


SURELY: Odds = "surely"

_RANK: dict[Odds | None, int] = {None: 0, "hardly": 1, "perhaps": 2, "surely": 3}


def check_sequence(steps: Sequence[Step], pause_before: str | None = None) -> Iterator[Diagnostic]:
    """Errors for products that no earlier checkpoint makes, warnings for unlikely ones. From `pause_before`
    on errors are warnings, since no checkpoint runs there with this manifest."""
    made: dict[str, Odds] = {}
    anything = False
    paused = False
    for at, step in enumerate(steps):
        paused = paused or step.spec.name == pause_before
        for wanted in step.requires:
            odds = max((made.get(name) for name in wanted), key=_RANK.__getitem__)
            if anything or _RANK[odds] > _RANK["hardly"]:
                continue
            yield _unmet(steps[at:], wanted, odds, paused)
            made[wanted[0]] = "perhaps"  # It is reported once.
        if step.provides is None:
            anything = True
            continue
        for name, odds in step.provides.items():
            if _RANK[odds] > _RANK[made.get(name)]:
                made[name] = odds


def _unmet(
    rest: Sequence[Step],
    wanted: tuple[str, ...],
    odds: Odds | None,
    paused: bool,
) -> Diagnostic:
    """The diagnostic for the first of `rest`, which lacks one of the wanted products."""
    spec, after = rest[0].spec, rest[1:]
    name = product(wanted[0]).name
    place = spec.place_of("name")  # The element itself may be at fault for another reason.
    later = next(
        (
            other.spec
            for other in after
            if any((other.provides or {}).get(each) == SURELY for each in wanted)
        ),
        None,
    )
    report = warning if paused or (odds is not None and later is None) else error
    if later is not None:
        return report(
            place,
            f"{spec.name} needs {name}, which {later.name} makes after it",
            f"{later.name} is at {later.origin}." if later.origin else "",
            f"put {later.name} before {spec.name}",
        )
    makes = "makes that" if odds is None else "declares that"
    return report(
        place,
        f"{spec.name} needs {name}, and nothing before it {makes}",
        "Only a dependency or a command may make it." if odds else "",
        product(wanted[0]).remedy,
    )
