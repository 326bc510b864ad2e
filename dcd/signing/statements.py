"""What may be signed: statements about the published artifacts of one build, by this builder.

The launcher asks this about each text of the main process, which an attacker may control: a signature then
says at least that the files with these digests are products of this build, on this builder. What else the
statement says is the word of the main process. Standard library only.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from statemachine.errors import PermissionDenied
from statemachine.statements import PROVENANCE, STATEMENT, TEST_RESULT, VERIFICATION_SUMMARY

PAYLOAD_TYPE = "application/vnd.in-toto+json"
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"

MOST_BYTES = 16 * 1024**2
"""The size of a statement that is signed."""

_LINE = re.compile(r"([0-9a-f]{64})  ([^\n]+)")
_SHA256 = re.compile(r"[0-9a-f]{64}")

DigestOf = Callable[[str], str]
"""The sha256 of an artifact of the build, as its file is now."""


def check_statement(text: str, build: str, builder: str, digest_of: DigestOf) -> None:
    """Raise PermissionDenied unless `text` is a statement about artifacts of this build by this builder."""
    statement = _object(_parsed(text), "the statement")
    _require(set(statement) == {"_type", "subject", "predicateType", "predicate"}, "its fields")
    _require(statement["_type"] == STATEMENT, "its type")
    _check_subjects(statement["subject"], digest_of)
    predicate = _object(statement["predicate"], "the predicate")
    match statement["predicateType"]:
        case kind if kind == PROVENANCE:
            run = _object(predicate.get("runDetails"), "runDetails")
            _require(_object(run.get("builder"), "builder").get("id") == builder, "its builder")
            metadata = _object(run.get("metadata"), "metadata")
            _require(metadata.get("invocationId") == build, "its build")
        case kind if kind == VERIFICATION_SUMMARY:
            verifier = _object(predicate.get("verifier"), "verifier")
            _require(verifier.get("id") == builder, "its verifier")
        case kind:
            _require(kind == TEST_RESULT, f"a predicate of the type {str(kind)[:100]!r}")


def check_sums(text: str, digest_of: DigestOf) -> None:
    """Raise PermissionDenied unless `text` is a list of digests of artifacts, as of sha256sum(1)."""
    _require(text.endswith("\n") and len(text) <= MOST_BYTES, "the list of digests")
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        _require(match is not None and digest_of(match[2]) == match[1], f"the line {line[:100]!r}")


def _check_subjects(subjects: Any, digest_of: DigestOf) -> None:
    _require(isinstance(subjects, list) and subjects, "a statement about nothing")
    for each in subjects:
        subject = _object(each, "a subject")
        _require(set(subject) == {"name", "digest"}, "the fields of a subject")
        name, digest = subject["name"], _object(subject["digest"], "a digest")
        _require(set(digest) == {"sha256"} and isinstance(name, str), "the form of a subject")
        sha256 = digest["sha256"]
        _require(isinstance(sha256, str) and _SHA256.fullmatch(sha256), "the form of a digest")
        _require(digest_of(name) == sha256, f"another digest of {name[:100]!r}")


def _parsed(text: str) -> Any:
    """The JSON value. Raises PermissionDenied when readers could understand it differently."""
    _require(len(text) <= MOST_BYTES, "its size")
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        _require(False, f"what is not JSON ({str(error)[:100]})")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a field is given twice")
    return found


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _object(value: Any, what: str) -> Mapping[str, Any]:
    _require(isinstance(value, dict), f"{what} that is no object")
    return value  # type: ignore[no-any-return]


def _require(allowed: object, what: str) -> None:
    if not allowed:
        raise PermissionDenied(
            f"the launcher does not sign {what}",
            "it signs statements about the published artifacts of a build only",
            "see docs/reference/provenance.md",
        )


def bundle(envelope: Mapping[str, Any], key_id: str) -> str:
    """A DSSE envelope as a Sigstore bundle (v0.3) whose key the reader has."""
    value = {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {"publicKey": {"hint": key_id}, "tlogEntries": []},
        "dsseEnvelope": envelope,
    }
    return json.dumps(value, sort_keys=True, indent=2) + "\n"


def digest(content: bytes) -> str:
    """sha256 (hex)."""
    return hashlib.sha256(content).hexdigest()
