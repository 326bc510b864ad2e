"""Groups: the builds of one manifest with every combination of some values.

A group is submitted all or nothing: every cell is planned before any build exists, and the first events of
all builds are one transaction. Its builds are ordinary ones, whose ids are the group's with an ending that
stands for the cell, the same in every group. Common results are made once: there is one lock for each key.
"""

import hashlib
import itertools
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from dcd.engine.builds import ID_ALPHABET, new_id
from dcd.engine.manifests import Manifests, ManifestSource, Options, Permit
from dcd.manifest.diagnostics import Diagnostic, ManifestError, in_order
from dcd.manifest.inputs import InputsMissing
from dcd.manifest.profiles import PROFILE
from dcd.planner.tasks import WithSecrets
from dcd.planning import plan as planning
from statemachine.errors import PermissionDenied, Unprepared, UsageError
from statemachine.events import Actor, BuildSubmitted
from statemachine.keys import canonical

T = TypeVar("T")

MOST_CELLS = 64
"""The number of builds of a group; each is planned before the submit is answered."""

_ENDING = 4


@dataclass(frozen=True, slots=True)
class Axis:
    """A parameter, or `profile`, and the values that it takes."""

    name: str
    values: tuple[str, ...]


def cells(axes: Sequence[Axis], parameters: Mapping[str, str]) -> list[dict[str, str]]:
    """Every combination of the values, in order. Raises UsageError for a matrix with an empty or repeated
    value, a repeated axis, one that a given parameter fixes, or too many cells."""
    for axis in axes:
        if [each.name for each in axes].count(axis.name) > 1:
            raise _wrong(f"the axis {axis.name!r} is given twice", "give all of its values at once")
        if axis.name in parameters:
            raise _wrong(
                f"{axis.name!r} is an axis and has one value by --set", "leave out one of them"
            )
        if not axis.name or not axis.values or not all(each.strip() for each in axis.values):
            raise _wrong(
                f"the axis {axis.name!r} has an empty value", "remove a comma, or the axis"
            )
        for value in axis.values:
            if axis.values.count(value) > 1:
                raise _wrong(
                    f"the value {value!r} of {axis.name!r} is given twice",
                    "each cell of a matrix is another build: give each value once",
                )
    number = 1
    for axis in axes:
        number *= len(axis.values)
    if not axes or number > MOST_CELLS:
        raise _wrong(
            f"the matrix has {number if axes else 0} cells", f"it may have 1 to {MOST_CELLS}"
        )
    names = [axis.name for axis in axes]
    return [
        dict(zip(names, values, strict=True))
        for values in itertools.product(*(axis.values for axis in axes))
    ]


def of_cell(source: ManifestSource, cell: Mapping[str, str]) -> ManifestSource:
    """The manifest with the choices of a cell."""
    values = {name: value for name, value in cell.items() if name != PROFILE}
    profiles = {*source.profiles, *([cell[PROFILE]] if PROFILE in cell else [])}
    return replace(
        source, parameters={**source.parameters, **values}, profiles=tuple(sorted(profiles))
    )


def label(cell: Mapping[str, str]) -> str:
    """A cell for people: `suite=trixie architecture=amd64`."""
    return " ".join(f"{name}={value}" for name, value in cell.items())


def ids(group: str, shown: Sequence[Mapping[str, str]]) -> list[str]:
    """The ids of a group's builds, from their cells without secrets."""
    found: list[str] = []
    for cell in shown:
        number = 0
        while True:
            digest = hashlib.sha256(canonical((sorted(cell.items()), number))).digest()
            ending = "".join(ID_ALPHABET[byte % len(ID_ALPHABET)] for byte in digest[:_ENDING])
            if (build := f"{group}-{ending}") not in found:
                break
            number += 1
        found.append(build)
    return found


async def planned_group(
    manifests: Manifests,
    source: ManifestSource,
    axes: Sequence[Axis],
    options: Options,
    actor: Actor,
    permit: Permit,
) -> dict[str, BuildSubmitted]:
    """The first events of a group's builds, by id. Raises what the plan of a cell raises, with all errors of
    all cells."""
    group, salt = new_id(), planning.new_salt()
    shown: list[dict[str, str]] = []

    async def submitted(of: ManifestSource, cell: dict[str, str]) -> BuildSubmitted:
        planned = await manifests.plan(of, actor, permit, options.pause_before)
        event = manifests.submitted(of, options, planned, salt)
        secret = WithSecrets(planned.canonical, of.parameters)
        plain = (await manifests.without_secrets(secret, actor)).parameters
        shown.append({name: plain.get(name, value) for name, value in cell.items()})
        return event

    events = await for_cells(source, axes, submitted)
    return {
        build: replace(
            event,
            group=group,
            cell=tuple(cell.items()),
            idempotency_key=options.idempotency_key if number == 0 else None,
        )
        for number, (build, (_, event), cell) in enumerate(
            zip(ids(group, shown), events, shown, strict=True)
        )
    }


async def checked_group(
    manifests: Manifests,
    source: ManifestSource,
    axes: Sequence[Axis],
    pause_before: str | None,
    actor: Actor,
) -> tuple[Diagnostic, ...]:
    """The warnings of all cells. Raises what the check of a cell raises, with all errors of all cells."""

    async def check(of: ManifestSource, _: dict[str, str]) -> tuple[Diagnostic, ...]:
        return await manifests.check(of, pause_before, actor)

    found = await for_cells(source, axes, check)
    everywhere = set(found[0][1]).intersection(*(warnings for _, warnings in found))
    some = (
        replace(each, message=f"{each.message} (with {label(cell)})")
        for cell, warnings in found
        for each in warnings
        if each not in everywhere
    )
    return tuple(in_order([*everywhere, *some]))


async def for_cells(
    source: ManifestSource,
    axes: Sequence[Axis],
    work: Callable[[ManifestSource, dict[str, str]], Awaitable[T]],
) -> list[tuple[dict[str, str], T]]:
    """Each cell, and the result of the work with its manifest. Raises what the work on a cell raises, with
    all errors of all cells."""
    chosen = cells(axes, source.parameters)
    found: list[tuple[dict[str, str], T]] = []
    faults: list[tuple[dict[str, str], ManifestError]] = []
    missing: list[InputsMissing] = []
    for cell in chosen:
        try:
            found.append((cell, await work(of_cell(source, cell), cell)))
        except InputsMissing as error:
            missing.append(error)
        except ManifestError as error:
            faults.append((cell, error))
        except (PermissionDenied, Unprepared) as error:
            raise type(error)(
                f"{error.brief} (with {label(cell)})", error.details, error.resolution
            ) from error
    if faults:
        lists = [list(_about(cell, error, len(faults) == len(chosen))) for cell, error in faults]
        sent = {each.path: each for _, error in faults for each in error.missing}
        every = list(itertools.chain.from_iterable(lists))
        raise ManifestError(in_order(every), tuple(sent.values()))
    if missing:
        wanted = {each.path: each for error in missing for each in error.missing}
        raise InputsMissing(tuple(wanted.values()))
    return found


def _about(cell: Mapping[str, str], error: ManifestError, everywhere: bool) -> Iterator[Diagnostic]:
    """The faults of a cell, which name it unless all cells have faults."""
    for each in error.diagnostics:
        suggestion = each.suggestion
        option, _, rest = suggestion.partition(" ")
        if option == "--profile" and PROFILE in cell:
            suggestion = f"--matrix {PROFILE}={rest},..."
        elif option == "--set" and any(f"{name!r}" in each.message for name in cell):
            suggestion = f"--matrix {rest.partition('=')[0]}=VALUE,..."
        message = each.message if everywhere else f"{each.message} (with {label(cell)})"
        yield replace(each, message=message, suggestion=suggestion)


def _wrong(brief: str, remedy: str) -> UsageError:
    return UsageError(brief, "a matrix is --matrix NAME=A,B for each axis", remedy)
