"""The OpenAPI document: current, and kept by the application, whatever is sent."""

import re
from importlib.metadata import version
from pathlib import Path

import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from dcd.api import schemas
from dcd.api.app import OPERATIONS
from dcd.api.openapi import render
from dcd.api.reference import NOTES, page

DOCUMENT = Path(__file__).parents[3] / "docs" / "reference" / "openapi.json"
REFERENCE = DOCUMENT.with_name("api.md")


def test_committed_document_is_current():
    assert DOCUMENT.read_text() == render(OPERATIONS, version("dcd")), (
        "run: python -m dcd.api.reference docs/reference"
    )


def test_document_does_not_depend_on_the_version_of_msgspec(monkeypatch):
    def as_before(types, ref_template):
        references, components = components_of(types, ref_template=ref_template)
        for component in components.values():
            for field in component.get("properties", {}).values():
                if field.get("default") == {}:
                    del field["default"]
            component["description"] = component["description"].replace("\n", "\n    ")
        return references, components

    components_of = msgspec.json.schema_components
    expected = render(OPERATIONS, version("dcd"))
    monkeypatch.setattr(msgspec.json, "schema_components", as_before)
    assert render(OPERATIONS, version("dcd")) == expected


@pytest.mark.slow
def test_application_keeps_its_document(app):
    # A request that fits the schema can still be refused: a manifest that is none, a wrong digest.
    document = schemathesis.openapi.from_asgi("/v1/openapi.json", app)

    for found in document.get_all_operations():
        operation = found.ok()
        if operation.path == "/v1/doctor":
            continue  # examines the host, which takes seconds, and takes no input

        @settings(
            max_examples=15,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def answers_as_described(case):
            case.call_and_validate(excluded_checks=[positive_data_acceptance])

        answers_as_described()


def test_the_reference_page_is_made_from_the_operations():
    text = REFERENCE.read_text()
    assert text == page(text, OPERATIONS), "run: python -m dcd.api.reference docs/reference"
    assert set(NOTES) <= {operation.name for operation in OPERATIONS}


def test_the_bodies_on_the_reference_page_are_taken_as_it_says():
    blocks = re.findall(r"Body of .*?```json\n(.*?)```", REFERENCE.read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        for schema in (schemas.SubmitRequest, schemas.ManifestRequest):
            msgspec.json.decode(block.replace("…", "0" * 64), type=schema, strict=True)
