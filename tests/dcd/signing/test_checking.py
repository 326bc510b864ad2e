"""A signature of a statement, checked with a key that somebody gives."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcd.signing.checking import require_modest, signer_of
from dcd.signing.new import Public, new_key
from dcd.signing.process import sign
from statemachine.errors import UsageError

STATEMENT = '{"a": "statement"}'


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Public, dict[str, Any]]:
    """A key, and the envelope of a statement that it has signed."""
    path = tmp_path_factory.mktemp("keys") / "key.pem"
    return new_key(path), sign(path, [STATEMENT]).envelopes[0]


def test_the_key_of_a_signature_is_named(signed: tuple[Public, dict[str, Any]]) -> None:
    public, envelope = signed
    found = signer_of(json.dumps(envelope).encode(), public.pem, STATEMENT.encode())
    assert found == public.key_id


def flipped(text: str) -> str:
    content = bytearray(base64.b64decode(text))
    content[3] ^= 1
    return base64.b64encode(content).decode()


WRONG: dict[str, Callable[[Any], Any]] = {
    "payload": lambda it: {**it, "payload": flipped(it["payload"])},
    "type": lambda it: {**it, "payloadType": "text/plain"},
    "signature": lambda it: {
        **it,
        "signatures": [{**it["signatures"][0], "sig": flipped(it["signatures"][0]["sig"])}],
    },
    "name": lambda it: {**it, "signatures": [{**it["signatures"][0], "keyid": "0" * 64}]},
    "two": lambda it: {**it, "signatures": it["signatures"] * 2},
    "none": lambda it: {**it, "signatures": []},
    "base64": lambda it: {**it, "payload": "="},
    "list": lambda it: [it],
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_the_key_has_not_signed_is_refused(
    signed: tuple[Public, dict[str, Any]], wrong: str
) -> None:
    public, envelope = signed
    text = json.dumps(WRONG[wrong](envelope)).encode()
    with pytest.raises(UsageError, match="not signed by the key"):
        signer_of(text, public.pem, STATEMENT.encode())


def test_other_keys_other_statements_and_other_texts_are_refused(
    signed: tuple[Public, dict[str, Any]], tmp_path: Path
) -> None:
    public, envelope = signed
    text = json.dumps(envelope).encode()
    other = new_key(tmp_path / "other.pem").pem
    for given in (
        (text, other, STATEMENT.encode()),
        (text, public.pem, b"another"),
        (text, "no key", STATEMENT.encode()),
        (text, public.pem.replace("MCow", "MCox"), STATEMENT.encode()),
        (b"\xff", public.pem, STATEMENT.encode()),
        (b"[" * 100_000, public.pem, STATEMENT.encode()),
    ):
        with pytest.raises(UsageError, match="not signed by the key"):
            signer_of(*given)


@pytest.mark.parametrize("content", [b"[],", b"{}", b"[{" * 2, b',""'])
def test_documents_of_more_parts_than_a_provenance_has_are_not_decoded(content: bytes) -> None:
    require_modest(content * 50_000)
    with pytest.raises(UsageError, match="too many parts"):
        require_modest(content * 200_001)
