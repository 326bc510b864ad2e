"""Whether a manifest still asks for what its lock says, and whether its repositories still have it.

Each difference is a diagnostic at its place in the manifest. `asked_otherwise` needs neither the network nor
a plan; `changed_since` compares the external state that was found for a plan.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

from dcd.manifest.data_object import Origin
from dcd.manifest.diagnostics import Diagnostic, bounded, error, refusal
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.lock import Lock
from dcd.planning.plan import recorded_external
from dcd.planning.readiness import Made
from statemachine.plan import Plan

_UPDATE = "dcctl lock --update shows what changes, and accepts it"


def differences(
    doc: DataObjectCache,
    made: Sequence[Made],
    lock: Lock,
    parameters: Mapping[str, str],
    profiles: Collection[str],
) -> list[Diagnostic]:
    """What the manifest asks of repositories and the lock does not have, and the other way round."""
    return bounded(_differences(doc, made, lock, parameters, profiles))


def _differences(
    doc: DataObjectCache,
    made: Sequence[Made],
    lock: Lock,
    parameters: Mapping[str, str],
    profiles: Collection[str],
) -> Iterator[Diagnostic]:
    for name, value in lock.parameters.items():
        if parameters.get(name) != value:
            now = f"now it is {parameters[name]!r}" if name in parameters else "now it is not set"
            yield error(
                None,
                f"the lock was made with the parameter {name} set to {value!r}, {now}",
                "",
                f"--set {name}={value}, or {_UPDATE}",
            )
    if {*profiles} != {*lock.profiles}:
        yield error(
            None,
            f"the lock was made with other profiles: {', '.join(lock.profiles) or 'none'}",
            f"Now they are {', '.join(sorted(profiles)) or 'none'}.",
            f"select these profiles, or {_UPDATE}",
        )
    transfers = {each.checkpoint: each for each in lock.transfers}
    for spec, instance in made:
        lockable = None if instance is None else instance.lockable(doc)
        if lockable is None:
            continue
        locked = transfers.pop(spec.name, None)
        if locked is None:
            yield error(
                spec.origin,
                f"the lock has no packages of {spec.name}",
                f"It has those of {', '.join(each.checkpoint for each in lock.transfers)}.",
                _UPDATE,
            )
            continue
        asks, architecture = lockable.asks, lockable.architecture
        if architecture.text and architecture.text != locked.architecture:
            yield error(
                architecture.place or spec.origin,
                f"the lock is for {locked.architecture}, and the image is for {architecture.text}",
                "A lock names the packages of one architecture.",
                "make a lock of its own for this architecture: dcctl lock",
            )
            continue
        known, place = {*locked.asks}, asks[0].place if asks else spec.origin
        asked = {ask.text for ask in asks}
        for ask in asks:
            if ask.text not in known:
                yield error(
                    ask.place or spec.origin, f"the lock does not have {ask.text!r}", "", _UPDATE
                )
        for text in locked.asks:
            if text not in asked:
                yield error(
                    place or spec.origin,
                    f"the lock has {text!r}, which the manifest does not ask for",
                    "",
                    _UPDATE,
                )
    for name in transfers:
        yield error(
            _first(made), f"the lock has packages of {name}, which is no transfer", "", _UPDATE
        )


def changed_since(
    doc: DataObjectCache,
    made: Sequence[Made],
    lock: Lock,
    plan: Plan,
    inputs: Mapping[str, str],
) -> list[Diagnostic]:
    """The repositories of a plan that have changed since the lock was made, their keyrings and packages.
    `inputs` are the digests of captured files by path."""
    planned = {each.name: each for each in plan.checkpoints}
    transfers = {each.checkpoint: each for each in lock.transfers}
    return bounded(
        found
        for spec, instance in made
        if instance is not None and spec.name in planned and spec.name in transfers
        for found in instance.changes_since(
            doc, transfers[spec.name], recorded_external(planned[spec.name]), inputs
        )
    )


def _first(made: Sequence[Made]) -> Origin | None:
    return made[0][0].origin if made else None


def end_of_transfers(doc: DataObjectCache, made: Sequence[Made]) -> str:
    """The checkpoint after the last transfer that can be locked ("": none is after it). Raises ManifestError
    when a transfer cannot be locked, or there is none."""
    last = -1
    for index, (spec, instance) in enumerate(made):
        if instance is None or not instance.needs(doc).network:
            continue
        if instance.lockable(doc) is not None:
            last = index
        elif "software" in instance.NAMED:
            raise refusal(
                spec.origin,
                f"the packages of {spec.name} cannot be locked",
                "A lock is of Debian packages: of others dcd captures no repositories.",
                "name exact versions in this transfer, and submit without a lock",
            )
    if last < 0:
        raise refusal(
            _first(made),
            "there is nothing to lock",
            "No checkpoint of this manifest transfers Debian packages.",
        )
    return made[last + 1][0].name if last + 1 < len(made) else ""
