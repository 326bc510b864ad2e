"""What the launcher signs: statements about the artifacts of the build, and nothing else."""

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcd.launcher.orders import Signing
from dcd.launcher.signatures import signatures
from dcd.signing.new import new_key
from dcd.signing.statements import check_statement, check_sums
from statemachine.errors import PermissionDenied
from store.artifacts import Artifacts

PRODUCT = b"the product"
SHA256 = hashlib.sha256(PRODUCT).hexdigest()
BUILDER = "https://builds.example.org/"


def statement(**changes: Any) -> Any:
    value = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "live.iso", "digest": {"sha256": SHA256}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "runDetails": {"builder": {"id": BUILDER}, "metadata": {"invocationId": "b1"}}
        },
    }
    return value | changes


def digest_of(name: str) -> str:
    if name != "live.iso":
        raise PermissionDenied(f"no artifact {name}")
    return SHA256


def check(text: str) -> None:
    check_statement(text, "b1", BUILDER, digest_of)


def test_statement_about_the_artifacts_of_the_build_is_signed() -> None:
    check(json.dumps(statement()))
    check(json.dumps(statement(predicateType="https://in-toto.io/attestation/test-result/v0.1")))
    summary = {"verifier": {"id": BUILDER}}
    kind = "https://slsa.dev/verification_summary/v1"
    check(json.dumps(statement(predicateType=kind, predicate=summary)))


def subject(name: str = "live.iso", **digest: str) -> list[Any]:
    return [{"name": name, "digest": digest or {"sha256": SHA256}}]


WRONG = {
    "no JSON": "no JSON",
    "no object": "[]",
    "deep": "[" * 100_000,
    "a field twice": json.dumps(statement()).replace('"_type"', '"_type": "x", "_type"'),
    "no number": json.dumps(statement(predicate={"x": float("nan")})),
    "another field": json.dumps(statement(more=1)),
    "another type": json.dumps(statement(_type="https://in-toto.io/Statement/v0.1")),
    "no subject": json.dumps(statement(subject=[])),
    "another digest": json.dumps(statement(subject=subject(sha256="0" * 64))),
    "another file": json.dumps(statement(subject=subject("other.iso"))),
    "a path": json.dumps(statement(subject=subject("../b2/live.iso"))),
    "another algorithm": json.dumps(statement(subject=subject(sha1="0" * 40))),
    "a second digest": json.dumps(statement(subject=subject(sha256=SHA256, sha512="0" * 128))),
    "another builder": json.dumps(statement()).replace(BUILDER, "https://evil.example.org/"),
    "another build": json.dumps(statement()).replace('"b1"', '"b2"'),
    "another predicate": json.dumps(statement(predicateType="https://spdx.dev/Document")),
    "another verifier": json.dumps(
        statement(predicateType="https://slsa.dev/verification_summary/v1")
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_anything_else_is_refused(wrong: str) -> None:
    with pytest.raises(PermissionDenied):
        check(WRONG[wrong])


@pytest.mark.parametrize(
    "text", ["", "noise\n", f"{'0' * 64}  live.iso\n", f"{SHA256}  other\n", f"{SHA256}  live.iso"]
)
def test_list_of_other_digests_is_refused(text: str) -> None:
    check_sums(f"{SHA256}  live.iso\n", digest_of)
    with pytest.raises(PermissionDenied):
        check_sums(text, digest_of)


@pytest.fixture
def published(tmp_path: Path) -> Callable[..., Any]:
    """Publishes the files of a build, signs them, and returns the directory."""
    new_key(tmp_path / "key.pem")
    artifacts = Artifacts(tmp_path / "artifacts")

    def publish(product: bytes = PRODUCT, said: Any = None) -> Path:
        artifacts.write("b1", "live.iso", "iso", product)
        text = json.dumps(said or statement()).encode()
        artifacts.write("b1", "live.provenance.json", "in-toto", text)
        artifacts.write("b1", "SHA256SUMS", "text", f"{SHA256}  live.iso\n".encode())
        signing = Signing(key=str(tmp_path / "key.pem"), builder=BUILDER)
        list(signatures(artifacts, signing, "b1", "live"))
        return artifacts.directory / "b1"

    return publish


def pae(payload: bytes) -> bytes:
    kind = b"application/vnd.in-toto+json"
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def verified_by_openssl(tmp_path: Path, content: bytes, signature: bytes) -> bool:
    (tmp_path / "content").write_bytes(content)
    (tmp_path / "signature").write_bytes(signature)
    key = subprocess.run(
        ["openssl", "pkey", "-in", tmp_path / "key.pem", "-pubout"], capture_output=True, check=True
    ).stdout
    (tmp_path / "public.pem").write_bytes(key)
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", tmp_path / "public.pem"]
    command += ["-rawin", "-in", tmp_path / "content", "-sigfile", tmp_path / "signature"]
    return subprocess.run(command, capture_output=True).returncode == 0


def test_openssl_verifies_all_signatures(tmp_path: Path, published: Callable[..., Path]) -> None:
    from base64 import b64decode

    place = published()
    envelope = json.loads((place / "live.provenance.dsse.json").read_text())
    payload, (signature,) = b64decode(envelope["payload"]), envelope["signatures"]
    assert payload == (place / "live.provenance.json").read_bytes()
    assert verified_by_openssl(tmp_path, pae(payload), b64decode(signature["sig"]))
    sums, raw = (place / "SHA256SUMS").read_bytes(), (place / "SHA256SUMS.sig").read_bytes()
    assert verified_by_openssl(tmp_path, sums, raw)
    assert not verified_by_openssl(tmp_path, sums + b"\n", raw)


def test_bundle_holds_the_same_envelope(published: Callable[..., Path]) -> None:
    place = published()
    envelope = json.loads((place / "live.provenance.dsse.json").read_text())
    bundle = json.loads((place / "live.sigstore.json").read_text())
    assert bundle == {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {
            "publicKey": {"hint": envelope["signatures"][0]["keyid"]},
            "tlogEntries": [],
        },
        "dsseEnvelope": envelope,
    }


def test_securesystemslib_verifies_the_envelope_with_the_public_key(
    tmp_path: Path, published: Callable[..., Path]
) -> None:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import SSlibKey

    envelope = json.loads((published() / "live.provenance.dsse.json").read_text())
    private = load_pem_private_key((tmp_path / "key.pem").read_bytes(), None)
    key = SSlibKey.from_crypto(private.public_key())
    assert list(Envelope.from_dict(envelope).verify([key], 1)) == [key.keyid]


def test_signing_again_gives_the_same_bytes(published: Callable[..., Path]) -> None:
    first = {path.name: path.read_bytes() for path in published().iterdir()}
    assert {path.name: path.read_bytes() for path in published().iterdir()} == first


def test_nothing_is_signed_for_a_file_that_differs(published: Callable[..., Path]) -> None:
    with pytest.raises(PermissionDenied, match="another digest"):
        published(b"another product")
    said = statement(subject=subject(sha256="0" * 64))
    with pytest.raises(PermissionDenied, match="another digest"):
        published(said=said)
