"""Provenance is a function of the events: complete, the same at each delivery, and without secrets."""

import json
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from statemachine.commands import Pause, Remove, Resume, Start, repeated
from statemachine.errors import Refused
from statemachine.events import (
    ArtifactPublished,
    BuildCompleted,
    BuildRemoved,
    CheckpointReused,
    Event,
    InputFile,
)
from statemachine.keys import chain, with_epoch, with_salt
from statemachine.plan import Ingredient, Plan, PlannedCheckpoint
from statemachine.provenance import boot_proof, provenance, public
from statemachine.results import Artifact
from store.eventlog import SqliteLog

GOLDEN = Path(__file__).with_name("provenance.golden.json")
CORPUS = Path(__file__).parents[1] / "faults" / "corpus"

SHA = {name: name[0] * 64 for name in ("a", "b", "c", "d", "e", "f")}
ISO = Artifact("live.iso", "media/live.iso", "iso", 5, SHA["a"])
LOG = Artifact("verify-uefi.log", "media/verify-uefi.log", "text", 3, SHA["b"], evidence=True)
XML = Artifact("live.xml", "artifacts/b1/live.xml", "xml", 7, SHA["c"])
SUMS = Artifact("SHA256SUMS", "artifacts/b1/SHA256SUMS", "text", 9, SHA["d"])

SECRET = "known only to the server"
HOST = "mksquashfs of the host"
REPOSITORY = "http://user:word@deb.example.org/debian bookworm"


def planned(name: str, kind: str, *parts: Ingredient) -> PlannedCheckpoint:
    return PlannedCheckpoint(name, name, f"dcd/checkpoints/{name}", kind, "", parts)


def numbered(events: list[Event]) -> list[Event]:
    """Events whose hashes do not change when payloads get new fields."""
    return [replace(event, hash=f"{event.sequence:064x}") for event in events]


def live_plan(password: str = "0" * 64, secret: str = "1" * 64, salt: str = "") -> Plan:
    """A plan with one ingredient of each kind."""
    plan = chain(
        (
            planned(
                "transfer",
                "TransferDEB",
                Ingredient("code", "", "code-1"),
                Ingredient("argument", "login", password, 3),
                Ingredient("manifest", "configuration 1", password, 8),
                Ingredient("external", REPOSITORY, f"{SHA['e']} 2026-01-01", 4),
                Ingredient("external", "secret /etc/dcd/secrets/root of the host", secret),
                Ingredient("external", HOST, f"{SHA['f']} squashfs-tools 4.5"),
            ),
            planned("iso", "CreateISO", Ingredient("code", "", "code-2")),
            planned("verify", "VerifyBoot", Ingredient("code", "", "code-3")),
        )
    )
    plan = with_epoch(plan, 1767225600)
    return with_salt(plan, 0, salt) if salt else plan


@pytest.fixture
def delivered(begin: Callable[..., Any]) -> Any:
    """A build whose checkpoints have completed and whose products are published."""
    driver = begin(live_plan(), inputs=(InputFile("motd", SHA["b"], 0o640),))
    driver.do(Start("https://builds.example.org/", "0.2.0", "overlay"))
    for content, artifacts in (("a", ()), ("b", (ISO,)), ("c", (LOG,))):
        driver.start_next()
        resolved = SHA["f"] if content == "a" else ""
        driver.complete(artifacts=artifacts, content=SHA[content], resolved=resolved)
    for artifact in (ISO, LOG, XML, SUMS):
        driver.do(ArtifactPublished(artifact))
    return driver


def test_statement_is_the_golden_one(delivered: Any) -> None:
    package = {"uri": "pkg:deb/debian/bash@5.2", "digest": {"sha256": SHA["d"]}}
    made = provenance(numbered(delivered.events), {"mirror": "near"}, {SHA["f"]: [package]})
    assert made == GOLDEN.read_text()


def test_statement_is_the_same_at_each_repetition_of_the_delivery(delivered: Any) -> None:
    first = provenance(delivered.events, {})
    written = Artifact("live.provenance.json", "x", "in-toto", 1, SHA["a"], evidence=True)
    after = []
    for change in (
        ArtifactPublished(written),
        ArtifactPublished(XML),
        ArtifactPublished(SUMS),
        Pause("no space left", "no-space"),
        Resume(),
        Start("https://elsewhere.example.org/", "9", "copy"),
        ArtifactPublished(written),
        ArtifactPublished(replace(SUMS, name="SHA256SUMS.evidence")),
        BuildCompleted(3.0),
        Remove(),
    ):
        delivered.do(change)
        after.append(provenance(delivered.events, {}))
    assert isinstance(delivered.events[-1].data, BuildRemoved)
    assert set(after) == {first}


def test_manifest_of_an_export_is_named(delivered: Any) -> None:
    delivered.do(ArtifactPublished(XML, exported=SHA["e"]))
    assert parameters(delivered)["exported_manifest"] == {
        "name": "manifest.xml",
        "digest": {"sha256": SHA["e"]},
    }
    delivered.do(ArtifactPublished(XML))
    assert "exported_manifest" not in parameters(delivered)


def parameters(driver: Any) -> Any:
    statement = json.loads(provenance(driver.events, {}))
    return statement["predicate"]["buildDefinition"]["externalParameters"]


def test_subjects_are_the_products(delivered: Any) -> None:
    statement = json.loads(provenance(delivered.events, {}))
    assert [(s["name"], s["digest"]["sha256"]) for s in statement["subject"]] == [
        ("live.iso", SHA["a"]),
        ("live.xml", SHA["c"]),
    ]


def test_nothing_in_it_derives_from_secrets_or_from_salts(begin: Callable[..., Any]) -> None:
    def keys(plan: Plan) -> list[str]:
        return [each.key for each in public(plan).checkpoints]

    assert keys(live_plan()) == keys(live_plan("2" * 64, "3" * 64, "declined"))
    changed = live_plan().checkpoints
    other = replace(changed[0], ingredients=(Ingredient("code", "", "code-9"),))
    assert keys(live_plan())[2] != keys(chain((other, *changed[1:])))[2]

    driver = begin(live_plan("2" * 64, "3" * 64, "declined")).run_to(3)
    text = provenance(driver.events, {})
    assert not [word for word in ("2" * 64, "3" * 64, "user:word", "secrets/root") if word in text]


def test_result_of_another_build_is_named_as_reused(begin: Callable[..., Any]) -> None:
    driver = begin()
    driver.do(Start())
    for record in driver.state.checkpoints:
        driver.do(CheckpointReused(record.name, record.key, "earlier"))
    statement = json.loads(provenance(driver.events, {}))
    made = statement["predicate"]["runDetails"]["byproducts"][:3]
    assert [each["annotations"]["state"] for each in made] == ["reused"] * 3


def test_build_that_has_not_completed_its_checkpoints_has_none(begin: Callable[..., Any]) -> None:
    driver = begin().run_to(2)
    with pytest.raises(Refused, match="has no provenance: it is running"):
        provenance(driver.events, {})


def test_boot_proof_names_the_tests_and_the_products_that_booted(delivered: Any) -> None:
    text = boot_proof(delivered.events)
    assert text is not None
    statement = json.loads(text)
    assert statement["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert [each["name"] for each in statement["subject"]] == ["live.iso"]
    assert statement["predicate"] == {
        "result": "PASSED",
        "configuration": [{"name": "live.xml", "digest": {"sha256": SHA["c"]}}],
        "passedTests": ["verify-uefi"],
    }


def test_build_that_boots_nothing_has_no_boot_proof(begin: Callable[..., Any]) -> None:
    assert boot_proof(begin().run_to(3).events) is None


@pytest.mark.parametrize("revision", ["0001", "0001-pause-withdrawn"])
def test_builds_of_earlier_versions_have_one_too(tmp_path: Path, revision: str) -> None:
    path = tmp_path / "events.db"
    with sqlite3.connect(path) as database:
        database.executescript((CORPUS / f"{revision}.sql").read_text())
    database.close()
    found = 0
    with SqliteLog(path) as log:
        for build in {event.build for event in log.read()}:
            try:
                statement = json.loads(provenance(log.read_build(build), {}))
            except Refused:
                continue
            found += 1
            builder = statement["predicate"]["runDetails"]["builder"]
            assert builder["id"] == "urn:dcd:builder:unnamed"
            assert "source_date_epoch" not in json.dumps(statement)
    assert found or revision != "0001"


def test_selected_profiles_are_named(begin: Callable[..., Any]) -> None:
    driver = begin(live_plan(), profiles=("ci", "dev"))
    driver.do(Start())
    for _ in range(3):
        driver.start_next()
        driver.complete()
    assert parameters(driver)["profiles"] == ["ci", "dev"]
    assert repeated(driver.state, driver.state.plan).profiles == ("ci", "dev")
