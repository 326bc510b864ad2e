"""`dcctl verify`: a received file is proved by a signature, or refused for a named reason."""

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.main import main
from dcd.launcher.orders import Signing
from dcd.launcher.signatures import signatures
from dcd.signing.new import new_key
from store.artifacts import Artifacts

BUILDER = "https://builds.example.org/"
ALTERED, OTHER_KEY, OTHER_FILE, UNPROVED, OTHER_BUILDER = 21, 22, 23, 24, 25


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what is signed once for all tests: the artifacts of a build, and the key."""
    directory = tmp_path_factory.mktemp("signed")
    key = new_key(directory / "secret.pem")
    artifacts = Artifacts(directory / "artifacts")
    product = artifacts.write("b1", "live.iso", "iso", b"the image")
    subject = [{"name": "live.iso", "digest": {"sha256": product.sha256}}]
    head = {"_type": "https://in-toto.io/Statement/v1", "subject": subject}
    run = {"builder": {"id": BUILDER}, "metadata": {"invocationId": "b1"}}
    provenance = {
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {"runDetails": run},
    }
    boot = {
        "predicateType": "https://in-toto.io/attestation/test-result/v0.1",
        "predicate": {"result": "PASSED", "configuration": [], "passedTests": ["uefi"]},
    }
    rebuilt = {
        "predicateType": "https://slsa.dev/verification_summary/v1",
        "predicate": {
            "verifier": {"id": BUILDER},
            "verificationResult": "PASSED",
            "inputAttestations": [{"uri": "urn:x", "digest": {"sha256": "5" * 64}}],
        },
    }
    for name, about in (("provenance", provenance), ("boot", boot), ("rebuild", rebuilt)):
        text = json.dumps(head | about).encode()
        artifacts.write("b1", f"live.{name}.json", "in-toto", text)
    sums = f"{product.sha256}  live.iso\n".encode()
    artifacts.write("b1", "SHA256SUMS", "text", sums)
    signing = Signing(key=str(directory / "secret.pem"), builder=BUILDER)
    list(signatures(artifacts, signing, "b1", "live"))
    place = artifacts.directory / "b1"
    (place / "key.pem").write_text(key.pem)
    return directory


@pytest.fixture
def received(signed: Path, tmp_path: Path) -> Path:
    """A directory as a recipient has it: an image, its provenance, boot proof and key."""
    shutil.copytree(signed, tmp_path, dirs_exist_ok=True)
    return tmp_path / "artifacts/b1"


@pytest.fixture
def check(received: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs the command for the image with the publisher's key; returns the exit code and the output."""

    def run(*options: Any, key: Any = "key.pem", file: str = "live.iso") -> tuple[int, str, str]:
        given = [] if key is None else ["--key", received / key]
        code = main(list(map(str, ["verify", received / file, *given, *options])))
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_signed_image_is_verified_and_what_is_not_proved_is_printed(check: Any) -> None:
    code, out, _ = check()
    assert code == 0
    assert "live.iso: verified" in out
    assert BUILDER in out
    assert "booted     uefi" in out
    assert "This does not prove:" in out
    code, out, _ = check("--json")
    report = json.loads(out)
    assert (code, report["verified"], report["files"][0]["booted"]) == (0, True, ["uefi"])


@pytest.mark.parametrize("kept", [".sigstore.json", ".provenance.dsse.json"])
def test_one_signed_copy_of_the_provenance_is_enough(check: Any, received: Path, kept: str) -> None:
    for path in received.glob("live.*.json"):
        if not path.name.endswith(kept):
            path.unlink()
    assert check()[0] == 0
    assert check("--provenance", received / f"live{kept}")[0] == 0


def test_without_key_signature_or_provenance_nothing_is_proved(check: Any, received: Path) -> None:
    (received / "SHA256SUMS.sig").unlink()
    code, out, _ = check(key=None)
    assert code == UNPROVED
    assert "NOT CHECKED" in out
    for name in ("live.sigstore.json", "live.provenance.dsse.json"):
        (received / name).unlink()
    code, out, _ = check()
    assert code == UNPROVED
    assert "anybody could have written" in out
    (received / "live.provenance.json").unlink()
    assert check()[0] == UNPROVED


def test_another_key_is_named(check: Any, received: Path, tmp_path: Path) -> None:
    (received / "other.pem").write_text(new_key(tmp_path / "other").pem)
    code, _, err = check(key="other.pem")
    assert code == OTHER_KEY
    assert "another key" in err


def test_provenance_of_another_file_is_refused(check: Any, received: Path) -> None:
    (received / "live.iso").write_bytes(b"another image")
    code, _, err = check()
    assert code == OTHER_FILE
    assert "the provenance says" in err
    (received / "notes").write_text("x")
    assert check(file="notes")[0] == OTHER_FILE


def test_builder_that_is_not_expected_is_refused(check: Any) -> None:
    assert check("--builder", BUILDER)[0] == 0
    assert check("--builder", "https://elsewhere.example.org/")[0] == OTHER_BUILDER


def test_the_verdict_of_a_rebuilder_is_verified_as_the_provenance_is(
    check: Any, received: Path, tmp_path: Path
) -> None:
    verdict = received / "live.rebuild.dsse.json"
    code, out, _ = check("--provenance", verdict, "--builder", BUILDER)
    assert code == 0
    assert f"rebuilt by {BUILDER}" in out
    assert "the provenance 5555" in out
    assert check("--provenance", verdict, key=None)[0] == UNPROVED
    assert check("--provenance", verdict, "--builder", "urn:other")[0] == OTHER_BUILDER
    (received / "other.pem").write_text(new_key(tmp_path / "other").pem)
    assert check("--provenance", verdict, key="other.pem")[0] == OTHER_KEY
    unsigned = received / "live.rebuild.json"
    unsigned.write_text(unsigned.read_text().replace("PASSED", "FAILED"))
    assert check("--provenance", verdict)[0] == ALTERED
    verdict.unlink()
    assert check("--provenance", unsigned)[0] == ALTERED
    assert check("--provenance", verdict)[0] == ALTERED
    (received / "live.iso").write_bytes(b"another image")
    assert check("--provenance", unsigned)[0] == OTHER_FILE


def test_every_altered_byte_of_a_document_is_refused(
    received: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each character, every bit; openssl is asked once for each distinct content."""
    from cli import signature
    from cli.client import ClientError
    from cli.signature import PublicKey, read_envelope, read_key, verify

    key: PublicKey = read_key(received / "key.pem")
    place = received / "live.sigstore.json"
    value = json.loads(place.read_text())
    # One line, so that there is no white space whose change means nothing.
    text = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    asked = signature.verified_by_openssl
    known: dict[tuple[bytes, bytes], bool] = {}

    def once(content: bytes, signed: bytes, key: PublicKey) -> bool:
        good = base64.b64decode(value["dsseEnvelope"]["signatures"][0]["sig"])
        # openssl has its say on a sample; what differs from what was signed is not signed.
        if (content, signed) not in known and len(known) < 40:
            known[content, signed] = asked(content, signed, key)
        differs = signed != good or value["dsseEnvelope"]["payload"].encode() != base64.b64encode(
            content[content.index(b"{") :]
        )
        assert known.get((content, signed), not differs) is not differs
        return not differs

    monkeypatch.setattr(signature, "verified_by_openssl", once)
    envelope = read_envelope(place, text)
    assert envelope is not None
    verify(envelope, key)
    passed = []
    for index in range(len(text)):
        for bit in range(8):
            changed = bytearray(text)
            changed[index] ^= 1 << bit
            try:
                found = read_envelope(place, bytes(changed))
                assert found is None or verify(found, key) is None
                passed.append((index, bit))
            except ClientError as error:
                assert error.kind in ("altered", "other-key")
    assert passed == []
    assert len(known) == 40


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("live.provenance.json", lambda text: text.replace(b"b1", b"b2")),
        ("live.provenance.json", lambda text: text + b"\n"),
        ("live.provenance.dsse.json", lambda text: text.replace(b'"sig": "', b'"sig": "A')),
        ("live.provenance.dsse.json", lambda text: b""),
        ("live.sigstore.json", lambda text: text.replace(b"v0.3", b"v0.2")),
        ("live.sigstore.json", lambda text: b"{}"),
        ("live.sigstore.json", lambda text: b"[" * 100_000),
        ("live.boot.dsse.json", lambda text: text.replace(b'"payload": "', b'"payload": "A')),
    ],
)
def test_any_altered_copy_is_refused(check: Any, received: Path, name: str, change: Any) -> None:
    path = received / name
    path.chmod(0o600)
    path.write_bytes(change(path.read_bytes()))
    assert check()[0] == ALTERED


def test_signature_for_the_boot_is_none_for_the_provenance(check: Any, received: Path) -> None:
    for path in received.glob("live.*.json"):
        if "boot.dsse" not in path.name:
            path.unlink()
    assert check("--provenance", received / "live.boot.dsse.json")[0] == ALTERED


@pytest.mark.parametrize("content", ["", "noise", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END"])
def test_file_that_is_no_public_key_is_refused(check: Any, received: Path, content: str) -> None:
    (received / "bad.pem").write_text(content)
    assert check(key="bad.pem")[0] == 20


def test_provenance_that_no_builder_writes_gives_no_traceback(check: Any, received: Path) -> None:
    for path in received.glob("live.*.json"):
        path.unlink()
    sha256 = "8f8d3c8d0c7d6e2b0d7ab3b8b3a0a3a3e5f7c0d0b1f2e3d4c5b6a7980f1e2d3c"
    subject = [{"name": "live.iso", "digest": {"sha256": sha256}}]
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subject,
        "predicateType": "https://slsa.dev/provenance/v1",
    }
    for predicate in ({}, {"runDetails": []}, {"runDetails": {"builder": 3}}, []):
        text = json.dumps({**statement, "predicate": predicate})
        (received / "live.provenance.json").write_text(text)
        assert check()[0] in (OTHER_FILE, ALTERED)
