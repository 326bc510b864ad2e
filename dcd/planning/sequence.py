"""Whether each checkpoint of a manifest finds what it needs of those before it.

An error is what no order of events can make right: nothing before makes the product. What a command or a
checkpoint that does not say may make is no fault; what is unlikely is warned of. Pure.
"""

from collections.abc import Iterator, Sequence

from dcd.checkpoints.interface import Checkpoint
from dcd.checkpoints.products import Odds, product
from dcd.manifest.diagnostics import Diagnostic, error, warning
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.objects import CheckpointSpec

Step = tuple[CheckpointSpec, Checkpoint | None]
"""A checkpoint of the manifest; None where nothing can be said of it."""

_RANK: dict[Odds | None, int] = {None: 0, "hardly": 1, "perhaps": 2, "surely": 3}


def check_sequence(
    doc: DataObjectCache, steps: Sequence[Step], pause_before: str | None = None
) -> Iterator[Diagnostic]:
    """Errors for needs that nothing before meets, warnings for those that are hardly met. From the
    checkpoint `pause_before` on nothing runs with this manifest, so that there errors are warnings."""
    made: dict[str, Odds] = {}
    anything = False
    paused = False
    for at, (spec, instance) in enumerate(steps):
        paused = paused or spec.name == pause_before
        if instance is None:
            anything = True
            continue
        for wanted in instance.requires(doc):
            odds = max((made.get(name) for name in wanted), key=_RANK.__getitem__)
            if anything or _RANK[odds] > _RANK["hardly"]:
                continue
            yield _unmet(doc, steps[at:], wanted, odds, paused)
            made[wanted[0]] = "perhaps"  # It is said once.
        provided = instance.provides(doc)
        if provided is None:
            anything = True
            continue
        for name, odds in provided.items():
            if _RANK[odds] > _RANK[made.get(name)]:
                made[name] = odds


def _unmet(
    doc: DataObjectCache,
    rest: Sequence[Step],
    wanted: tuple[str, ...],
    odds: Odds | None,
    paused: bool,
) -> Diagnostic:
    """The first of `rest` needs one of what is wanted, and does not find it."""
    (spec, _), *after = rest
    name = product(wanted[0]).name
    later = next(
        (
            other
            for other, instance in after
            if instance is not None
            and any((instance.provides(doc) or {}).get(each) == "surely" for each in wanted)
        ),
        None,
    )
    report = warning if paused or (odds is not None and later is None) else error
    if later is not None:
        return report(
            spec.origin,
            f"{spec.name} needs {name}, which {later.name} makes after it",
            f"{later.name} is at {later.origin}." if later.origin else "",
            f"put {later.name} before {spec.name}",
        )
    makes = "makes that" if odds is None else "says that it makes that"
    return report(
        spec.origin,
        f"{spec.name} needs {name}, and nothing before it {makes}",
        "It works only if a dependency or a command makes it." if odds else "",
        product(wanted[0]).remedy,
    )
