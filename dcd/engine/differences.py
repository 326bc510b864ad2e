"""The differences between two builds: packages, manifest, files, sizes, and how the checkpoints ended."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import unified_diff

from dcd.engine.stores import Stores
from statemachine.build import BuildState, CheckpointRecord
from statemachine.errors import DcdError
from statemachine.results import Artifact
from store.captured import resolved_of
from store.layers.comparison import FileDifference

MOST_FILES = 1000
"""The number of different files that are named."""


@dataclass(frozen=True, slots=True)
class Changed:
    """Something by its values in both builds ("": it does not exist there): the version of a package, the
    sha256 of a captured file, the value of a parameter."""

    name: str
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class ChangedProduct:
    """A product by its sizes in bytes (None: it does not exist there); `identical`: the bytes are."""

    name: str
    first_bytes: int | None
    second_bytes: int | None
    identical: bool


@dataclass(frozen=True, slots=True)
class Ran:
    """A checkpoint in one build: its state, its duration, its error, and the evidence that it delivered, such
    as the console of a boot."""

    state: str
    seconds: float | None
    error: str
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ComparedRuns:
    """A checkpoint in both builds (None: it is not in that one)."""

    name: str
    first: Ran | None
    second: Ran | None


@dataclass(frozen=True, slots=True)
class Differences:
    """The differences between two builds. `manifest` are the lines of a unified diff. `files` are the first
    of the `different_files` in the layers of `compared`, the last checkpoint that both have completed.
    `unknown` says what could not be compared, and why."""

    first: str
    second: str
    packages: tuple[Changed, ...]
    manifest: tuple[str, ...]
    parameters: tuple[Changed, ...]
    inputs: tuple[Changed, ...]
    compared: str
    files: tuple[FileDifference, ...]
    different_files: int
    products: tuple[ChangedProduct, ...]
    checkpoints: tuple[ComparedRuns, ...]
    unknown: tuple[str, ...]


class ComparedBuilds:
    """Compares builds, with what the stores have of them."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    async def between(
        self,
        first: BuildState,
        second: BuildState,
        manifests: Sequence[str],
        parameters: Sequence[Mapping[str, str]],
    ) -> Differences:
        """The differences; `manifests` and `parameters` are those of both as the reader may see them."""
        return await asyncio.to_thread(self._between, first, second, manifests, parameters)

    def _between(
        self,
        first: BuildState,
        second: BuildState,
        manifests: Sequence[str],
        parameters: Sequence[Mapping[str, str]],
    ) -> Differences:
        unknown: list[str] = []
        packages = _changed(*(self._packages(state, unknown) for state in (first, second)))
        compared, files, count = self._files(first, second, unknown)
        before, after = (text.splitlines() for text in manifests)
        return Differences(
            first=first.id,
            second=second.id,
            packages=packages,
            manifest=tuple(unified_diff(before, after, first.id, second.id, n=1, lineterm="")),
            parameters=_changed(*map(_choices, parameters, (first, second))),
            inputs=_changed(*({i.path: i.sha256 for i in s.inputs} for s in (first, second))),
            compared=compared,
            files=files,
            different_files=count,
            products=tuple(_products(first, second)),
            checkpoints=tuple(_runs(first, second)),
            unknown=tuple(dict.fromkeys(unknown)),
        )

    def _packages(self, state: BuildState, unknown: list[str]) -> dict[str, str]:
        if not state.resolved:
            unknown.append(f"packages: build {state.id} has captured no list of them")
        try:
            resolved = resolved_of(self._stores.packages, state.resolved)
        except DcdError as error:
            unknown.append(f"packages of build {state.id}: {error.brief}")
            return {}
        return {f"{each.name}:{each.architecture}": each.version for each in resolved.packages}

    def _files(
        self, first: BuildState, second: BuildState, unknown: list[str]
    ) -> tuple[str, tuple[FileDifference, ...], int]:
        done = {each.name: each.key for each in second.checkpoints if each.done}
        both = [each for each in first.checkpoints if each.done and each.name in done]
        if not both:
            unknown.append("files: the builds have completed no checkpoint of the same name")
            return "", (), 0
        last = both[-1]
        try:
            found = self._stores.privileged.compare_layers(last.key, done[last.name], MOST_FILES)
        except DcdError as error:
            unknown.append(f"files: {error.brief}")
            return last.name, (), 0
        if found.unknown:
            unknown.append(f"files: {found.unknown}")
        return last.name, found.files, found.count


def _choices(parameters: Mapping[str, str], state: BuildState) -> dict[str, str]:
    """The values of parameters, and the selected profiles as the option that selects them."""
    profiles = {"--profile": " ".join(state.profiles)} if state.profiles else {}
    return {**parameters, **profiles}


def _changed(first: Mapping[str, str], second: Mapping[str, str]) -> tuple[Changed, ...]:
    names = sorted(first.keys() | second.keys())
    found = (Changed(name, first.get(name, ""), second.get(name, "")) for name in names)
    return tuple(each for each in found if each.first != each.second)


def _products(first: BuildState, second: BuildState) -> Iterator[ChangedProduct]:
    before, after = (_by_name(state) for state in (first, second))
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name), after.get(name)
        yield ChangedProduct(
            name,
            one.size_bytes if one else None,
            other.size_bytes if other else None,
            bool(one and other and one.sha256 == other.sha256),
        )


def _by_name(state: BuildState) -> dict[str, Artifact]:
    found = state.published or state.declared
    return {artifact.name: artifact for artifact in found if not artifact.evidence}


def _runs(first: BuildState, second: BuildState) -> Iterator[ComparedRuns]:
    before, after = ({each.name: each for each in state.checkpoints} for state in (first, second))
    for name in dict.fromkeys((*before, *after)):
        yield ComparedRuns(name, _ran(before.get(name)), _ran(after.get(name)))


def _ran(record: CheckpointRecord | None) -> Ran | None:
    if record is None:
        return None
    evidence = tuple(each.name for each in record.artifacts if each.evidence)
    return Ran(record.state, record.seconds, record.error.brief if record.error else "", evidence)
