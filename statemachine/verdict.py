"""The verdict of a rebuild: GOOD if its products have the same bytes as those of the other build, else BAD.

`judge_rebuild` compares by the events of the rebuild alone; `verdict_statement` says GOOD as a SLSA
verification summary (VSA v1) that the rebuilder can sign. Pure. Source:
https://slsa.dev/spec/v1.2/verification_summary.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from statemachine.events import CheckpointCompleted, CheckpointReused, Event
from statemachine.keys import changes
from statemachine.plan import Json
from statemachine.provenance import TIME_FORMAT, Results, public, results, text
from statemachine.rebuild import Rebuild
from statemachine.statements import STATEMENT, UNNAMED, VERIFICATION_SUMMARY

POLICY = "urn:dcd:rebuild:v1"
LEVEL = "DCD_REBUILT_IDENTICAL"


@dataclass(frozen=True, slots=True)
class Compared:
    """A product by its sha256 in the other build and in the rebuild ("": it does not exist there)."""

    name: str
    expected_sha256: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """`good`: all products are identical. `checkpoint` is the first whose result differs ("": none that is
    known); `changed` says what was not the same before: versions, tools, keys of checkpoints. `checked` and
    `unchecked` say for people what the verdict rests on."""

    good: bool
    build: str
    rebuild: str
    products: tuple[Compared, ...]
    checkpoint: str = ""
    changed: tuple[str, ...] = ()
    checked: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()


def judge_rebuild(events: Sequence[Event]) -> Verdict | None:
    """The verdict of a rebuild whose checkpoints have completed; None for another build. Raises Refused."""
    found = results(events)
    expected = found.state.rebuild
    if expected is None:
        return None
    made = {artifact.name: artifact.sha256 for artifact in found.products}
    # The delivered manifest is an input, in a form of its own where it came from an export.
    made.pop(f"{found.state.name}.xml", None)
    names = sorted({*expected.products, *made})
    products = tuple(
        Compared(name, expected.products.get(name, ""), made.get(name, "")) for name in names
    )
    contents = {
        event.data.checkpoint: event.data.content
        for event in found.events
        if isinstance(event.data, CheckpointCompleted | CheckpointReused)
    }
    differing = [
        record.name
        for record in found.state.checkpoints
        if (wanted := expected.contents.get(record.name))
        and contents[record.name]
        and wanted != contents[record.name]
    ]
    good = bool(products) and all(each.expected_sha256 == each.sha256 for each in products)
    return Verdict(
        good=good,
        build=expected.build,
        rebuild=found.state.id,
        products=products,
        checkpoint=differing[0] if differing else "",
        changed=tuple(_changed(found)),
        checked=tuple(_checked(expected, products)),
        unchecked=tuple(_unchecked(expected, found, contents)),
    )


def verdict_statement(events: Sequence[Event]) -> str | None:
    """The verdict GOOD as an in-toto statement about the products; None for BAD, and for another build."""
    verdict = judge_rebuild(events)
    if verdict is None or not verdict.good:
        return None
    found = results(events)
    assert found.state.rebuild is not None
    subject = [{"name": each.name, "digest": {"sha256": each.sha256}} for each in verdict.products]
    provenance: dict[str, Json] = {
        "uri": f"urn:dcd:provenance:{verdict.build}",
        "digest": {"sha256": found.state.rebuild.provenance},
    }
    if signed_by := found.state.rebuild.signed_by:
        provenance["annotations"] = {"signed_by": signed_by}
    started = found.started
    predicate = {
        "verifier": {"id": (started.data.builder if started else "") or UNNAMED},
        "timeVerified": found.events[-1].time.strftime(TIME_FORMAT),
        "resourceUri": f"urn:dcd:products:{verdict.build}",
        "policy": {"uri": POLICY},
        "inputAttestations": [provenance],
        "verificationResult": "PASSED",
        "verifiedLevels": [LEVEL],
        "slsaVersion": "1.2",
    }
    return text(
        {
            "_type": STATEMENT,
            "subject": subject,
            "predicateType": VERIFICATION_SUMMARY,
            "predicate": predicate,
        }
    )


def _checked(expected: Rebuild, products: Sequence[Compared]) -> Iterator[str]:
    yield f"{len(products)} products, by sha256"
    if not expected.vouched:
        yield "the events of this server, which name what the first build made"
        return
    yield "the export: its products, manifest, files, packages, time and keys are those of its provenance"
    if expected.signed_by:
        yield f"the signature of the provenance, by the key {expected.signed_by}"


def _unchecked(expected: Rebuild, found: Results, contents: Mapping[str, str]) -> Iterator[str]:
    if expected.vouched and not expected.signed_by:
        yield "the maker of the provenance: this server checked no signature of it"
    own = {record.name for record in found.state.checkpoints}
    if left := sorted(expected.contents.keys() - own):
        yield f"checkpoints that a rebuild leaves out: {', '.join(left)}"
    unknown = [name for name in contents if not (contents[name] and expected.contents.get(name))]
    if unknown:
        yield f"the content of results without a digest: {', '.join(unknown)}"


def _changed(found: Results) -> list[str]:
    expected = found.state.rebuild
    assert expected is not None
    version = found.started.data.version if found.started else ""
    said = []
    if expected.version != version:
        said.append(f"dcd is {version or 'unknown'}; the build was made by {expected.version}")
    before = {each.name: each for each in (expected.plan.checkpoints if expected.plan else ())}
    said += (
        f"{after.name}: {'; '.join(changes(before[after.name], after))}"
        for after in public(found.state.plan).checkpoints
        if after.name in before and before[after.name].ingredients != after.ingredients
    )
    return said
