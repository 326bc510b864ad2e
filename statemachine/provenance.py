"""Provenance: what a build was made from, how and by whom, as attestations that others can read.

`provenance` gives an in-toto statement (v1) with SLSA provenance (v1), `boot_proof` one with a test result
(v0.1), each as the text of the delivered file. Both are functions of the build's events up to the last
result of a checkpoint, and of the digests of the published products: delivering again after a crash, or
years later, gives the same bytes. What the events of an earlier version do not record is left out.
docs/reference/provenance.md describes every field. Pure.

Keys of checkpoints are chained over ingredients that may derive from secrets (a manifest's password, a
secret of the server), from which a reader could guess them; and salts differ in each build. The keys here
are chained without both. Source: https://slsa.dev/spec/v1.2/build-provenance,
https://github.com/in-toto/attestation/tree/main/spec/v1.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import reduce
from types import MappingProxyType

import msgspec

from statemachine.build import BuildState, Lifecycle
from statemachine.errors import Refused
from statemachine.events import (
    ArtifactPublished,
    BuildRemoved,
    BuildStarted,
    CheckpointCompleted,
    CheckpointReused,
    Event,
)
from statemachine.fold import evolve
from statemachine.keys import EXTERNAL, GROWN, SALT, canonical, chain, epoch_of, grown_from
from statemachine.plan import Ingredient, Json, Plan, PlannedCheckpoint
from statemachine.results import Artifact
from statemachine.statements import (
    PROVENANCE,
    STATEMENT,
    TEST_RESULT,
    UNNAMED,
)

BUILD_TYPE = "urn:dcd:build:v1"

TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
"""RFC 3339, of a time in UTC."""

_SUMS = "SHA256SUMS"
_OF_HOST = " of the host"
_SECRET = "secret "  # noqa: S105 - the beginning of an ingredient's name
_DIGEST = re.compile(r"([0-9a-f]{64})(?: (.*))?", re.DOTALL)
_LOGIN = re.compile(r"(?<=://)[^/?#@\s]+@")
_MAY_BE_SECRET = frozenset({"argument", "manifest", GROWN, SALT})
"""Kinds of ingredients that are no part of the keys in provenance. The digest of the whole manifest, without
its secrets, is in the document."""


@dataclass(frozen=True, slots=True)
class Started:
    """The start of a build."""

    time: datetime
    data: BuildStarted


@dataclass(frozen=True, slots=True)
class Results:
    """The results of a build's checkpoints: the state after the last, the events up to it, and the products
    that were published then or later. `exported` is the sha256 of the manifest in an export ("": unknown)."""

    state: BuildState
    events: Sequence[Event]
    products: Sequence[Artifact]
    exported: str

    @property
    def started(self) -> "Started | None":
        """When the build started for the first time, and what is recorded of the builder that finished it."""
        found = [(e.time, e.data) for e in self.events if isinstance(e.data, BuildStarted)]
        return Started(found[0][0], found[-1][1]) if found else None


def provenance(
    events: Sequence[Event],
    parameters: Mapping[str, str],
    lists: Mapping[str, Iterable[Json]] = MappingProxyType({}),
) -> str:
    """The provenance of a build, from all its events. `parameters` are the build's without secrets; `lists`
    has the entries of the lists of packages that the events name by their sha256. Raises Refused for a build
    whose checkpoints have not all completed."""
    result = results(events)
    state, started = result.state, result.started
    predicate = {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": _external_parameters(result, parameters),
            "internalParameters": _internal_parameters(result),
            "resolvedDependencies": [*_dependencies(result), *_packages(result, lists)],
        },
        "runDetails": {
            "builder": _builder(result),
            "metadata": {
                "invocationId": state.id,
                "startedOn": _time(started.time if started else events[0].time),
                "finishedOn": _time(result.events[-1].time),
            },
            "byproducts": list(_byproducts(result)),
        },
    }
    return _statement(map(_named, result.products), PROVENANCE, predicate)


def boot_proof(events: Sequence[Event]) -> str | None:
    """The statement that the products boot; None for a build without a checkpoint that has booted any."""
    result = results(events)
    tests: list[str] = []
    tested: list[Artifact] = []
    before: dict[str, Artifact] = {}
    for record, planned in zip(
        result.state.checkpoints, result.state.plan.checkpoints, strict=True
    ):
        proofs = [a for a in record.artifacts if a.evidence]
        if planned.checkpoint_class.endswith("VerifyBoot") and proofs:
            tests += [a.name.removesuffix(".log") for a in proofs if a.name.endswith(".log")]
            tested += before.values()
        before |= {a.name: a for a in record.artifacts if not a.evidence}
    if not tests:
        return None
    published = {a.name: a for a in result.products}
    subjects = {a.name: published[a.name] for a in tested if a.name in published}
    predicate = {
        "result": "PASSED",
        "configuration": [_manifest(result)],
        "passedTests": sorted(tests),
    }
    return _statement(map(_named, subjects.values()), TEST_RESULT, predicate)


def reserved(name: str) -> tuple[str, ...]:
    """The names of files about the products of a build named `name`: statements and signatures."""
    statements = [f"{name}.{about}" for about in ("provenance", "boot", "rebuild")]
    ends = (".json", ".dsse.json")
    bundle, sums = f"{name}.sigstore.json", (f"{_SUMS}.sig", f"{_SUMS}.gpg")
    return (*(each + end for each in statements for end in ends), bundle, *sums)


def results(events: Sequence[Event]) -> Results:
    """The results of a build, from all its events. Raises Refused unless its checkpoints have completed."""
    kept = [event for event in events if not isinstance(event.data, BuildRemoved)]
    whole = reduce(evolve, kept, None)
    assert whole is not None
    if whole.next is not None or whole.lifecycle is Lifecycle.CANCELLED:
        raise Refused(
            f"build {whole.id} has no provenance: it is {whole.lifecycle}",
            "provenance describes how delivered products were made",
            f"wait until the build is completed: dcctl follow {whole.id}",
        )
    last = max(
        index
        for index, event in enumerate(kept)
        if isinstance(event.data, CheckpointCompleted | CheckpointReused)
    )
    upto = kept[: last + 1]
    state = reduce(evolve, upto, None)
    assert state is not None
    about = (_SUMS, f"{_SUMS}.evidence", *reserved(whole.name))
    products = [a for a in whole.published if not a.evidence and a.name not in about]
    exported = [
        event.data.exported
        for event in kept
        if isinstance(event.data, ArtifactPublished)
        and event.data.artifact.name == f"{whole.name}.xml"
    ]
    named = sorted(products, key=lambda artifact: artifact.name)
    return Results(state, upto, named, exported[-1] if exported else "")


def _statement(subject: Iterable[Json], kind: str, predicate: Json) -> str:
    value = {
        "_type": STATEMENT,
        "subject": list(subject),
        "predicateType": kind,
        "predicate": predicate,
    }
    return text(value)


def text(statement: Json) -> str:
    """A statement as the text of a file: the same for the same statement."""
    return msgspec.json.format(canonical(statement), indent=2).decode() + "\n"


def _named(artifact: Artifact) -> Json:
    return {"name": artifact.name, "digest": {"sha256": artifact.sha256}}


def _manifest(result: Results) -> Json:
    """The delivered manifest, which is without secrets: by digest when it is published."""
    name = f"{result.state.name}.xml"
    found = [_named(artifact) for artifact in result.products if artifact.name == name]
    return found[0] if found else {"name": name, "uri": f"urn:dcd:manifest:{result.state.id}"}


def _external_parameters(result: Results, parameters: Mapping[str, str]) -> Json:
    found = {"manifest": _manifest(result), "parameters": dict(parameters)}
    if result.state.profiles:
        found["profiles"] = list(result.state.profiles)
    if result.exported:
        found["exported_manifest"] = {
            "name": "manifest.xml",
            "digest": {"sha256": result.exported},
        }
    if (epoch := epoch_of(result.state.plan)) is not None:
        found["source_date_epoch"] = epoch
    return found


def _internal_parameters(result: Results) -> Json:
    plan = result.state.plan
    pairs = zip(plan.checkpoints, public(plan).checkpoints, strict=True)
    found: dict[str, Json] = {
        "checkpoints": [
            {
                "name": planned.name,
                "class": f"{planned.mod_path}:{planned.checkpoint_class}",
                "key": shown.key,
                "host_code": planned.host_code,
                **({"grown": True} if grown_from(planned) else {}),
                **({"varies": list(_variances(planned))} if planned.variances else {}),
            }
            for planned, shown in pairs
        ]
    }
    started = result.started
    if started is not None and started.data.backend:
        found["layers"] = started.data.backend
    return found


def _variances(planned: PlannedCheckpoint) -> Iterator[Json]:
    """Why two results of the checkpoint may differ."""
    for variance in planned.variances:
        yield {"certain": variance.certain, "reason": variance.reason}


def public(plan: Plan) -> Plan:
    """The plan with keys that tell nothing about secrets, and that equal those of another build from the same
    inputs with the same tools."""
    return chain(
        replace(planned, ingredients=tuple(_public(planned))) for planned in plan.checkpoints
    )


def _public(planned: PlannedCheckpoint) -> Iterator[Ingredient]:
    for part in planned.ingredients:
        secret = part.kind == EXTERNAL and part.name.startswith(_SECRET)
        if part.kind not in _MAY_BE_SECRET and not secret:
            yield replace(part, name=_without_login(part.name), line=0)


def _dependencies(result: Results) -> Iterator[Json]:
    state = result.state
    yield _manifest(result)
    for file in sorted(state.inputs, key=lambda file: file.path):
        yield {
            "name": file.path,
            "uri": "urn:dcd:input",
            "digest": {"sha256": file.sha256},
            "annotations": {"mode": f"{file.mode:04o}"},
        }
    external = {
        part.name: part.digest
        for planned in public(state.plan).checkpoints
        for part in planned.ingredients
        if part.kind == EXTERNAL
    }
    for name, text in sorted(external.items()):
        yield from _external(name, text)


def _packages(result: Results, lists: Mapping[str, Iterable[Json]]) -> Iterator[Json]:
    """The lists that the events name, and what is in those that are still there, each once."""
    found: dict[bytes, Json] = {}
    for record in result.state.checkpoints:
        if not record.resolved:
            continue
        named = {
            "name": f"packages of {record.name}",
            "uri": "urn:dcd:packages",
            "digest": {"sha256": record.resolved},
        }
        for entry in (named, *lists.get(record.resolved, ())):
            found.setdefault(canonical(entry), entry)
    yield from found.values()


def _external(name: str, text: str) -> Iterator[Json]:
    """External state with a digest; text without one is no dependency."""
    if (match := _DIGEST.fullmatch(text)) is None:
        return
    found: dict[str, Json] = {"name": name, "digest": {"sha256": match[1]}}
    if name.endswith(_OF_HOST):
        found["uri"] = "urn:dcd:host"
    elif "://" in name:
        uri, _, suite = name.partition(" ")
        found["uri"] = f"{uri.rstrip('/')}/dists/{suite}/InRelease" if suite else uri
    if match[2]:
        found["annotations"] = {"state": match[2]}
    yield found


def _builder(result: Results) -> Json:
    started = result.started
    builder = started.data if started is not None else BuildStarted()
    found: dict[str, Json] = {"id": builder.builder or UNNAMED}
    versions = {
        part.name.removesuffix(_OF_HOST): match[2]
        for planned in public(result.state.plan).checkpoints
        for part in planned.ingredients
        if part.kind == EXTERNAL and part.name.endswith(_OF_HOST)
        if (match := _DIGEST.fullmatch(part.digest)) and match[2]
    }
    if builder.version:
        versions["dcd"] = builder.version
    if versions:
        found["version"] = versions
    return found


def _byproducts(result: Results) -> Iterator[Json]:
    state = result.state
    ended = {
        event.data.checkpoint: event
        for event in result.events
        if isinstance(event.data, CheckpointCompleted | CheckpointReused)
    }
    for record in state.checkpoints:
        event = ended[record.name]
        notes = {"event": event.hash, "state": str(record.state)}
        found: dict[str, Json] = {
            "name": record.name,
            "uri": "urn:dcd:checkpoint",
            "annotations": notes,
        }
        assert isinstance(event.data, CheckpointCompleted | CheckpointReused)
        if event.data.content:
            found["digest"] = {"sha256": event.data.content}
        yield found
        for each in record.publications:
            yield {
                "name": record.name,
                "uri": each.url,
                "digest": {"sha256": each.sha256},
                "annotations": {"size_bytes": str(each.size_bytes)},
            }
    proofs = {a.name: a for record in state.checkpoints for a in record.artifacts if a.evidence}
    for name in sorted(proofs):
        yield {**_named(proofs[name]), "uri": "urn:dcd:evidence"}
    head = result.events[-1]
    yield {
        "name": "events",
        "uri": "urn:dcd:events",
        "digest": {"sha256": head.hash},
        "annotations": {"sequence": str(head.sequence)},
    }


def _time(time: datetime) -> str:
    return time.astimezone(UTC).strftime(TIME_FORMAT)


def _without_login(name: str) -> str:
    return _LOGIN.sub("", name)
