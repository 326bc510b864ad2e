"""Checking a signature of a statement with a public key that somebody gives, as a DSSE envelope has it.

Needs the extra `dcd[sign]`, whose libraries it loads when it is asked for the first time: `can_sign` says
whether they are there. Source: the DSSE protocol, https://github.com/secure-systems-lab/dsse.
"""

import base64
import binascii
import json

from dcd.signing.statements import PAYLOAD_TYPE
from statemachine.errors import UsageError

MOST_PARTS = 200_000
"""How many values and members a document may have: decoding takes this process time and memory for each."""


def require_modest(content: bytes) -> None:
    """Raise UsageError for JSON with more parts than a provenance has, before it is decoded."""
    if sum(content.count(sign) for sign in (b"{", b"[", b",")) > MOST_PARTS:
        raise UsageError(
            "the provenance has too many parts",
            f"at most {MOST_PARTS:,} values and members are read",
            "send an export as its publisher has it: dcctl rebuild FILE --key PEM",
        )


def signer_of(envelope: bytes, key: str, statement: bytes) -> str:
    """The id of the key in PEM, which has signed exactly this statement in the envelope. Raises UsageError
    when it has not, and for what is no envelope and no Ed25519 key."""
    # They take 150 ms, and most daemons never need them.
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey

    try:
        public = load_pem_public_key(key.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _unsigned("the key is no public key in PEM") from error
    if not isinstance(public, Ed25519PublicKey):
        raise _unsigned("the key is of another kind; Ed25519 is needed")
    name = SSlibKey.from_crypto(public).keyid
    payload, named, signature = _parts(envelope)
    if payload != statement:
        raise _unsigned("the envelope has another statement")
    if named != name:
        raise _unsigned(f"it names the key {named[:100]}, not {name}")
    kind = PAYLOAD_TYPE.encode()
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    try:
        public.verify(signature, signed)
    except InvalidSignature as error:
        raise _unsigned(f"the signature of the key {name} does not match") from error
    return name


def _parts(envelope: bytes) -> tuple[bytes, str, bytes]:
    """The payload, the name of the key and the signature."""
    require_modest(envelope)
    try:
        match json.loads(envelope):
            case {
                "payload": str(payload),
                "payloadType": str(kind),
                "signatures": [{"keyid": str(name), "sig": str(signature)}],
            } if kind == PAYLOAD_TYPE:
                decoded = (base64.b64decode(text, validate=True) for text in (payload, signature))
                return next(decoded), name, next(decoded)
    except (binascii.Error, RecursionError, UnicodeDecodeError, ValueError):
        pass
    raise _unsigned("it is no DSSE envelope with one signature")


def _unsigned(why: str) -> UsageError:
    return UsageError(
        "the provenance is not signed by the key that was given",
        why,
        "ask the publisher of the export which key is right",
    )
