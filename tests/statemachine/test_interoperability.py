"""Statements as others read them: in-toto's own protobufs, which refuse unknown fields and wrong types."""

import json
from pathlib import Path

from google.protobuf.json_format import Parse, ParseDict
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2

GOLDEN = Path(__file__).with_name("provenance.golden.json")


def test_statement_and_predicate_are_strictly_what_in_toto_and_slsa_define() -> None:
    text = GOLDEN.read_text()
    statement = Parse(text, statement_pb2.Statement())
    assert statement.predicate_type == "https://slsa.dev/provenance/v1"
    found = ParseDict(json.loads(text)["predicate"], provenance_pb2.Provenance())
    assert found.build_definition.build_type == "urn:dcd:build:v1"
    assert found.run_details.metadata.invocation_id == "b1"
