"""Checking signatures of statements about products: DSSE envelopes and Sigstore bundles, by openssl(1).

dcctl itself holds no cryptography: openssl, which is on every host, checks the one Ed25519 signature. Every
byte counts: base64 has one spelling only, a field appears once, and what is not understood is refused.
Source: the DSSE protocol (https://github.com/secure-systems-lab/dsse), RFC 8410.
"""

import base64
import binascii
import hashlib
import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cli.client import ClientError, Json

PAYLOAD_TYPE = "application/vnd.in-toto+json"
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"

MOST_BYTES = 64 * 1024**2
"""The size of a document that is read."""

_ED25519 = bytes.fromhex("302a300506032b6570032100")
"""The beginning of an Ed25519 key in DER (SubjectPublicKeyInfo); 32 bytes follow."""

SIGNATURE_BYTES = 64


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key: its PEM text, and the id by which signatures name it."""

    pem: bytes
    key_id: str


@dataclass(frozen=True, slots=True)
class Envelope:
    """A signed statement: its bytes, and the key's id and the signature. `place` is its file."""

    place: Path
    payload: bytes
    key_id: str
    signature: bytes


def altered(place: Path, details: str) -> ClientError:
    """The error for a document whose bytes are not those that were signed."""
    return ClientError(
        "altered",
        f"{place} is altered or damaged",
        details,
        "do not use the image; get the files again from their publisher",
    )


def other_key(place: Path, named: str, key: PublicKey) -> ClientError:
    """The error for a document that the key `named` has signed."""
    return ClientError(
        "other-key",
        f"{place} is signed by another key",
        f"it names the key {named[:100]}; yours is {key.key_id}",
        "ask the publisher of the image which key is right, over a channel that you trust",
    )


def read_key(path: Path) -> PublicKey:
    """The public key in a file. Raises ClientError."""
    try:
        pem = path.read_bytes()
        lines = pem.decode("ascii").strip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a PEM file"
        raise ClientError("bad-key", f"the key {path} cannot be read", str(reason)) from None
    remedy = "give the public key: `dcd key show FILE` prints it on the build server"
    if not lines or lines[0] != "-----BEGIN PUBLIC KEY-----":
        raise ClientError("bad-key", f"{path} holds no public key in PEM", "", remedy)
    try:
        der = base64.b64decode("".join(lines[1:-1]), validate=True)
    except binascii.Error:
        der = b""
    if len(der) != len(_ED25519) + 32 or not der.startswith(_ED25519):
        raise ClientError("bad-key", f"{path} holds no Ed25519 public key", "", remedy)
    # The id that securesystemslib gives a key: sha256 of its canonical JSON.
    public = der[len(_ED25519) :].hex()
    described = {"keytype": "ed25519", "keyval": {"public": public}, "scheme": "ed25519"}
    text = json.dumps(described, sort_keys=True, separators=(",", ":"))
    return PublicKey(pem, hashlib.sha256(text.encode()).hexdigest())


def read_envelope(place: Path, text: bytes) -> Envelope | None:
    """The envelope in a document, which is one itself or a bundle; None for another document. Raises
    ClientError for one that is not exactly as it was written."""
    value = strict_json(place, text)
    if not isinstance(value, dict):
        raise altered(place, "it is no JSON object")
    if "dsseEnvelope" in value or "mediaType" in value:
        return _bundled(place, value)
    return _envelope(place, value) if "payload" in value or "signatures" in value else None


def strict_json(place: Path, text: bytes) -> Json:
    """The value of a JSON text that has one meaning only. Raises ClientError."""
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise altered(place, f"it is not JSON: {error}") from None


def verify(envelope: Envelope, key: PublicKey) -> None:
    """Raise ClientError unless the key has signed the statement."""
    kind = PAYLOAD_TYPE.encode()
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(envelope.payload), envelope.payload)
    valid = verified_by_openssl(signed, envelope.signature, key)
    if envelope.key_id != key.key_id:
        raise other_key(envelope.place, envelope.key_id, key)
    if not valid:
        raise altered(envelope.place, f"the signature of the key {key.key_id} does not match")


def verified_by_openssl(content: bytes, signature: bytes, key: PublicKey) -> bool:
    """Whether the key has signed the content. Raises ClientError without an openssl that can tell."""
    openssl = shutil.which("openssl")
    if openssl is None:
        raise ClientError(
            "unprepared", "openssl is not installed", "it checks signatures", "install openssl 3"
        )
    with tempfile.TemporaryDirectory(prefix="dcctl-") as directory:
        place = Path(directory)
        for name, data in (("content", content), ("signature", signature), ("key", key.pem)):
            (place / name).write_bytes(data)
        done = subprocess.run(
            [
                *(openssl, "pkeyutl", "-verify", "-pubin", "-inkey", place / "key"),
                *("-rawin", "-in", place / "content", "-sigfile", place / "signature"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode == 0:
        return True
    if "Verification Failure" not in done.stdout + done.stderr:
        raise ClientError(
            "unprepared",
            "openssl cannot check Ed25519 signatures",
            done.stderr.strip()[-500:],
            "install openssl 3",
        )
    return False


def _bundled(place: Path, value: dict[str, Json]) -> Envelope:
    envelope = value.get("dsseEnvelope")
    if set(value) != {"mediaType", "verificationMaterial", "dsseEnvelope"} or not isinstance(
        envelope, dict
    ):
        raise altered(place, "it is no bundle of a DSSE envelope")
    found = _envelope(place, envelope)
    material = {"publicKey": {"hint": found.key_id}, "tlogEntries": []}
    if (value["mediaType"], value["verificationMaterial"]) != (BUNDLE_TYPE, material):
        raise altered(place, "its type or its key is not that of the signature")
    return found


def _envelope(place: Path, value: dict[str, Json]) -> Envelope:
    match value:
        case {
            "payload": str(payload),
            "payloadType": str(kind),
            "signatures": [{"keyid": str(key_id), "sig": str(text), **more}],
            **rest,
        } if not more and not rest and kind == PAYLOAD_TYPE:
            signature = _decoded(place, text)
            if len(signature) != SIGNATURE_BYTES:
                raise altered(place, "its signature is incomplete")
            return Envelope(place, _decoded(place, payload), key_id, signature)
    raise altered(place, "it is no DSSE envelope of a statement with one signature")


def _decoded(place: Path, text: str) -> bytes:
    """The bytes in base64. Raises ClientError for another spelling of the same bytes, too."""
    try:
        content = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise altered(place, "it is not base64") from None
    if base64.b64encode(content).decode() != text:
        raise altered(place, "its base64 has a bit that does not count")
    return content


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a field is given twice")
    return found
