"""Signatures of programs for UEFI firmware, with a user's own key.

A key and its certificate are compared before anything is signed: sbsign does not. The key goes to tools on
standard input, so it is in no file, on no command line, and in no message. sbsign puts the time into a
signature, so it runs at a fixed one; a signature with RSA has no other changing part, and so the same
program, key and time give the same bytes.
Source: sbsign(1); UEFI specification 2.10, 32.2.4; RFC 8017, 8.2 (RSASSA-PKCS1-v1_5); faketime(1).
"""

from base64 import b64decode
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from statemachine.errors import CheckpointError, Unprepared
from store.host.process import ToolFailed, run
from store.host.tools import tool_named

TOOLS = ("sbsign", "libfaketime", "openssl")
"""The tools that it needs, as named in `store.host.tools`."""

_STDIN = "/proc/self/fd/0"
_RSA = bytes.fromhex("06092a864886f70d010101")
"""The object identifier rsaEncryption, in DER."""


@dataclass(frozen=True, slots=True, repr=False)
class Pair:
    """A private key (PEM), and the file of its certificate (PEM)."""

    key: str
    certificate: Path


def checked_pair(name: str, key: str, certificate: Path, certificate_name: str) -> Pair:
    """The pair of a private key and a certificate that belong together. `name` and `certificate_name` are
    their names in messages. Raises `CheckpointError`, without a part of the key."""
    public = _public(
        ["openssl", "pkey", "-in", _STDIN, "-passin", "pass:", "-pubout"],
        key,
        CheckpointError(
            f"the signing key {name} cannot be used",
            "it is no private key in PEM, or it has a passphrase",
            f"write it without a passphrase: openssl pkey -in KEY -out {name}",
        ),
    )
    certified = _public(
        ["openssl", "x509", "-in", _STDIN, "-noout", "-pubkey"],
        certificate.read_text("utf-8", "replace"),
        CheckpointError(
            f"{certificate_name} is no certificate",
            "the firmware's keys are certificates (X.509) in PEM",
            f"openssl req -x509 -newkey rsa:2048 -nodes -keyout KEY -out {certificate_name} -days 3650",
        ),
    )
    if public != certified:
        raise CheckpointError(
            f"the signing key {name} does not belong to the certificate {certificate_name}",
            "their public keys differ, so firmware with this certificate would refuse what the key signs",
            "name the certificate that was made for this key, or the key of this certificate",
        )
    if _RSA not in b64decode("".join(public.splitlines()[1:-1])):
        raise CheckpointError(
            f"the signing key {name} is no RSA key",
            "UEFI firmware checks signatures of RSA keys only",
            "make one: openssl req -x509 -newkey rsa:2048 ...",
        )
    return Pair(key, certificate)


def sign(pair: Pair, program: Path, result: Path, epoch: int) -> None:
    """Write the program with a signature of the Unix time `epoch` to another file. Raises
    `CheckpointError`."""
    library = tool_named("libfaketime").find()
    if library is None:
        raise Unprepared("libfaketime is not installed", "", "apt-get install libfaketime")
    frozen = f"{datetime.fromtimestamp(epoch, UTC):%Y-%m-%d %H:%M:%S}"
    run(
        ["sbsign", "--key", _STDIN, "--cert", pair.certificate, "--output", result, program],
        env={"LD_PRELOAD": str(library), "FAKETIME": frozen, "TZ": "UTC"},
        stdin=pair.key.encode(),
        timeout_seconds=60,
    )


def _public(argv: list[str], text: str, failure: CheckpointError) -> str:
    """The public key that openssl prints. Raises `failure`."""
    try:
        return run(
            argv, stdin=text.encode(), capture=True, log_errors=False, timeout_seconds=30
        ).stdout.strip()
    except ToolFailed:
        raise failure from None
