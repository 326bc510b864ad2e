"""The verdict of a rebuild: by the products' bytes alone, with the first result that differs."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.json_format import Parse, ParseDict
from in_toto_attestation.predicates.vsa.v1 import vsa_pb2
from in_toto_attestation.v1 import statement_pb2

from statemachine.commands import Pause, Replacement, Resume, Start
from statemachine.errors import Refused
from statemachine.events import ArtifactPublished
from statemachine.keys import chain
from statemachine.plan import Ingredient, Plan
from statemachine.provenance import public
from statemachine.rebuild import Rebuild
from statemachine.results import Artifact
from statemachine.verdict import judge_rebuild, verdict_statement

ISO = Artifact("live.iso", "media/live.iso", "iso", 5, "a" * 64)
XML = Artifact("live.xml", "x", "xml", 5, "9" * 64)
CONTENTS = {"a": "1" * 64, "b": "2" * 64, "c": "3" * 64}


def with_grub(plan: Plan, version: str) -> Plan:
    """The plan on a host with this GRUB."""
    first, *others = plan.checkpoints
    part = Ingredient("external", "GRUB of the host", f"{version[-1] * 64} grub-pc-bin {version}")
    return chain((replace(first, ingredients=(*first.ingredients, part)), *others))


@pytest.fixture
def rebuilt(begin: Callable[..., Any], make_plan: Callable[..., Plan]) -> Callable[..., Any]:
    """Rebuilds a build of these products and contents, on a host with this GRUB."""

    def rebuild(product: str = "a" * 64, second: str = "2" * 64, grub: str = "2.1") -> Any:
        plan = make_plan("a", "b", "c")
        expected = Rebuild(
            build="b0",
            builder="https://builds.example.org/",
            version="0.2.0",
            provenance="5" * 64,
            products={"live.iso": "a" * 64},
            contents=CONTENTS,
            plan=public(with_grub(plan, "2.1")),
        )
        driver = begin(with_grub(plan, grub), rebuild=expected)
        driver.do(Start("https://rebuilder.example.org/", "0.2.0", "copy"))
        iso = replace(ISO, sha256=product)
        for name, artifacts in (("a", ()), ("b", ()), ("c", (iso,))):
            driver.start_next()
            content = second if name == "b" else CONTENTS[name]
            driver.complete(artifacts=artifacts, content=content)
        for artifact in (iso, XML):
            driver.do(ArtifactPublished(artifact))
        return driver

    return rebuild


def test_same_bytes_are_good_and_the_statement_is_a_verification_summary(
    rebuilt: Callable[..., Any],
) -> None:
    driver = rebuilt()
    verdict = judge_rebuild(driver.events)
    assert verdict is not None
    assert (verdict.good, verdict.checkpoint, verdict.changed) == (True, "", ())
    assert (len(verdict.checked), verdict.unchecked) == (2, ())
    text = verdict_statement(driver.events)
    assert text is not None
    statement = Parse(text, statement_pb2.Statement())
    assert [each.name for each in statement.subject] == ["live.iso"]
    predicate = json.loads(text)["predicate"]
    # The protobuf has one level where the specification has a list.
    assert predicate.pop("verifiedLevels") == ["DCD_REBUILT_IDENTICAL"]
    summary = ParseDict(predicate, vsa_pb2.VerificationSummary())
    assert (summary.verification_result, summary.verifier.id) == (
        "PASSED",
        "https://rebuilder.example.org/",
    )


def test_other_bytes_are_bad_with_the_first_checkpoint_that_differs(
    rebuilt: Callable[..., Any],
) -> None:
    driver = rebuilt("b" * 64, "4" * 64)
    verdict = judge_rebuild(driver.events)
    assert verdict is not None
    assert (verdict.good, verdict.checkpoint) == (False, "b")
    assert verdict_statement(driver.events) is None


def test_another_tool_of_the_host_is_named(rebuilt: Callable[..., Any]) -> None:
    verdict = judge_rebuild(rebuilt("b" * 64, "2" * 64, "2.2").events)
    assert verdict is not None
    (changed,) = verdict.changed
    assert changed.startswith("a: GRUB of the host changed")
    assert "2.1" in changed
    assert "2.2" in changed


def test_a_product_that_is_missing_or_more_is_bad(rebuilt: Callable[..., Any]) -> None:
    driver = rebuilt()
    driver.do(ArtifactPublished(Artifact("more.img", "x", "raw", 1, "7" * 64)))
    verdict = judge_rebuild(driver.events)
    assert verdict is not None
    assert not verdict.good
    assert [each.name for each in verdict.products if each.expected_sha256 != each.sha256] == [
        "more.img"
    ]


def test_a_rebuild_has_no_other_manifest(rebuilt: Callable[..., Any]) -> None:
    driver = rebuilt()
    driver.do(Pause("no space left", "no-space"))
    other = Replacement("<dc>other</dc>", "/live.xml", driver.state.plan)
    with pytest.raises(Refused, match="is a rebuild"):
        driver.do(Resume(replacement=other))
    assert driver.do(Resume()) == ["BuildResumed"]


def test_a_build_that_is_no_rebuild_has_no_verdict(begin: Callable[..., Any]) -> None:
    driver = begin().run_to(3)
    assert judge_rebuild(driver.events) is None
    assert verdict_statement(driver.events) is None
