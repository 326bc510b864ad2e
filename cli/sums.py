"""Checking a received list of digests, `SHA256SUMS`, and the files that it lists, for `dcctl verify`.

The list is signed twice at most: `SHA256SUMS.sig` is an Ed25519 signature, which openssl(1) checks with the
publisher's key, and `SHA256SUMS.gpg` one of gpg, which gpgv(1) checks with the publisher's keyring. The first
names no key; the signed statements beside it do. Source: sha256sum(1); doc/DETAILS of GnuPG.
"""

import base64
import binascii
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cli.client import ClientError, Json
from cli.signature import (
    SIGNATURE_BYTES,
    PublicKey,
    altered,
    other_key,
    read_envelope,
    verified_by_openssl,
)
from cli.statements import read_document, sha256_of

LIST = "SHA256SUMS"
_STATEMENTS = ("*.sigstore.json", "*.dsse.json")
_LINE = re.compile(r"([0-9a-f]{64})  ([^/\x00-\x1f\x7f]+)")
_ARMOUR = b"-----BEGIN PGP"


@dataclass(frozen=True, slots=True)
class Keys:
    """What the caller trusts: a public key, a keyring of gpg, each or neither."""

    key: PublicKey | None = None
    keyring: Path | None = None


@dataclass(frozen=True, slots=True)
class List:
    """A list of digests by file name. `signed_by` are the keys whose signatures were checked, `unchecked` the
    signatures for which no key was given."""

    path: Path
    digests: dict[str, str]
    signed_by: tuple[str, ...]
    unchecked: tuple[str, ...]

    @property
    def signature(self) -> str:
        """`verified`, `not checked` or `none`."""
        if self.signed_by:
            return "verified"
        return "not checked" if self.unchecked else "none"


def list_beside(file: Path, keys: Keys) -> List | None:
    """The list in a file's directory, if it names the file. Raises ClientError as `read_list`."""
    path = file.absolute().parent / LIST
    if not path.is_file():
        return None
    found = read_list(path, keys)
    return found if file.name in found.digests else None


def read_list(path: Path, keys: Keys) -> List:
    """A list, its signatures checked with the keys that are given. Raises ClientError: `altered`,
    `other-key`, `unprepared` without the tool that checks, `not-found`."""
    content = read_document(path)
    signed_by: list[str] = []
    unchecked: list[str] = []
    for suffix, check in ((".sig", _by_key), (".gpg", _by_gpg)):
        signature = path.with_name(path.name + suffix)
        if signature.exists():
            name = check(path, content, signature, keys)
            (signed_by if name else unchecked).append(name or signature.name)
    return List(path, _parsed(path, content), tuple(signed_by), tuple(unchecked))


def check_list(path: Path, keys: Keys, *, ignore_missing: bool) -> Json:
    """The report about a list and all files that it names, which are beside it. Raises ClientError when
    anything contradicts it, and `not-found` for a missing file unless these are ignored."""
    found = read_list(path, keys)
    files = []
    for name, expected in found.digests.items():
        file = path.parent / name
        here = file.is_file()
        if here:
            check_listed(file, sha256_of(file), found)
        elif not ignore_missing:
            raise ClientError(
                "not-found",
                f"{name} is missing",
                f"{path} lists it, but it is not beside it",
                "get it from the publisher of the image, or give --ignore-missing",
            )
        files.append({"name": name, "sha256": expected, "state": "same" if here else "missing"})
    if not any(each["state"] == "same" for each in files):
        raise ClientError("not-found", f"no file of {path} is beside it")
    return {
        "file": str(path),
        "sha256": sha256_of(path),
        "subject": LIST,
        "verified": bool(found.signed_by),
        "signature": found.signature,
        "key_id": ", ".join(found.signed_by),
        "files": files,
    }


def check_listed(file: Path, sha256: str, found: List) -> None:
    """Raise ClientError unless a file of that digest is the one of the list."""
    expected = found.digests[file.name]
    if sha256 != expected:
        raise ClientError(
            "other-file",
            f"{file} is not the file that {found.path.name} lists",
            f"its sha256 is {sha256}, the list says {expected}",
            "the file is altered or of another build: do not use it",
        )


def _parsed(path: Path, content: bytes) -> dict[str, str]:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise altered(path, f"it is not text: {error}") from None
    digests: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        match = _LINE.fullmatch(line)
        if match is None or match[2] in digests or match[2] in (".", ".."):
            raise altered(path, f"line {number} is none of sha256sum's: {line[:100]!r}")
        digests[match[2]] = match[1]
    if not digests:
        raise altered(path, "it lists no file")
    return digests


def _by_key(path: Path, content: bytes, signature: Path, keys: Keys) -> str:
    """The id of the key whose signature the file has; "" without a key to check it."""
    if keys.key is None:
        return ""
    signed = read_document(signature)
    if len(signed) != SIGNATURE_BYTES:
        raise altered(signature, f"it has {len(signed)} bytes, not {SIGNATURE_BYTES}")
    if not verified_by_openssl(content, signed, keys.key):
        for name in _key_ids(path.parent):
            if name != keys.key.key_id:
                raise other_key(signature, name, keys.key)
        raise altered(path, f"{signature.name} is no signature of it by the key {keys.key.key_id}")
    return keys.key.key_id


def _key_ids(directory: Path) -> list[str]:
    """The keys that the signed statements in a directory name."""
    found = []
    for path in sorted(each for form in _STATEMENTS for each in directory.glob(form)):
        try:
            envelope = read_envelope(path, read_document(path))
        except ClientError:
            continue
        if envelope is not None:
            found.append(envelope.key_id)
    return found


def _by_gpg(path: Path, content: bytes, signature: Path, keys: Keys) -> str:
    """The fingerprint of the key whose signature the file has; "" without a keyring to check it."""
    if keys.keyring is None:
        return ""
    if (gpgv := shutil.which("gpgv")) is None:
        raise ClientError("unprepared", "gpgv is not installed", "", "install gpgv")
    signed = read_document(signature)
    with tempfile.TemporaryDirectory(prefix="dcctl-") as directory:
        place = Path(directory)
        keyring = _dearmoured(keys.keyring, read_document(keys.keyring))
        for name, data in (("list", content), ("signature", signed), ("keyring", keyring)):
            (place / name).write_bytes(data)
        done = subprocess.run(
            [
                *(gpgv, "--homedir", place, "--status-fd", "1", "--keyring", place / "keyring"),
                *(place / "signature", place / "list"),
            ],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    said = {words[1]: words[2:] for line in done.stdout.splitlines() if (words := line.split())[1:]}
    if done.returncode == 0 and said.get("VALIDSIG"):
        return str(said["VALIDSIG"][0])
    if "NO_PUBKEY" in said and "BADSIG" not in said:
        raise ClientError(
            "other-key",
            f"{signature} is signed by another key",
            f"it names the key {said['NO_PUBKEY'][0]}, which {keys.keyring} does not have",
            "ask the publisher of the image which key is right, over a channel that you trust",
        )
    raise altered(path, f"gpgv: {done.stderr.strip()[-500:]}")


def _dearmoured(path: Path, content: bytes) -> bytes:
    """A keyring as gpgv reads it: not as text. Source: RFC 4880, 6.2. Raises ClientError."""
    if not content.lstrip().startswith(_ARMOUR):
        return content
    lines = content.strip().splitlines()
    try:
        body = lines[lines.index(b"") + 1 : -1]
        return base64.b64decode(b"".join(line for line in body if not line.startswith(b"=")))
    except (ValueError, binascii.Error):
        raise ClientError("bad-key", f"{path} holds no keyring of gpg") from None
