"""Statements about a received file: found beside it, and checked with it and a key. No daemon is needed."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from cli.client import CHUNK_BYTES, ClientError, Json
from cli.signature import (
    MOST_BYTES,
    Envelope,
    PublicKey,
    altered,
    read_envelope,
    strict_json,
    verify,
)

STATEMENT = "https://in-toto.io/Statement/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"

SUFFIXES = (".sigstore.json", ".provenance.dsse.json", ".provenance.json")
"""The files with the provenance of a build, by the end of their names."""

VERIFICATION_SUMMARY = "https://slsa.dev/verification_summary/v1"

REBUILD_SUFFIXES = (".rebuild.dsse.json", ".rebuild.json")
"""The files with the verdict of a rebuilder of the products."""

BOOT_SUFFIXES = (".boot.dsse.json", ".boot.json")


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement, all of whose copies agree. `signed_by` is the id of the key whose signature was checked
    ("": none was), `envelopes` are its signed copies."""

    stem: str
    value: Json
    envelopes: tuple[Envelope, ...]
    signed_by: str = ""

    def at(self, *names: str) -> str:
        """The text at a place of the predicate; "" without one."""
        value = self.value["predicate"]
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        return value if isinstance(value, str) else ""

    @property
    def subjects(self) -> dict[str, str]:
        """The products: name to sha256."""
        return {each["name"]: each["digest"]["sha256"] for each in self.value["subject"]}


def statements_beside(file: Path) -> list[str]:
    """The stems of the provenance in a file's directory."""
    stems = {
        str(path)[: -len(suffix)]
        for suffix in SUFFIXES
        for path in file.absolute().parent.glob(f"*{suffix}")
    }
    return sorted(stems)


def stem_of(path: Path, suffixes: tuple[str, ...] = SUFFIXES) -> str | None:
    """The stem of a file of provenance, or of another kind; None for another name."""
    found = (suffix for suffix in suffixes if path.name.endswith(suffix))
    suffix = next(found, None)
    return None if suffix is None else str(path.absolute())[: -len(suffix)]


def load(stem: str, paths: list[Path], kind: str, key: PublicKey | None) -> Statement:
    """The statement of which the files are copies. With a key, every signed copy is checked. Raises
    ClientError."""
    texts = {path: read_document(path) for path in paths}
    envelopes = []
    payloads: dict[bytes, Path] = {}
    for path, text in texts.items():
        envelope = read_envelope(path, text)
        if envelope is not None:
            envelopes.append(envelope)
            if key is not None:
                verify(envelope, key)
        payloads.setdefault(text if envelope is None else envelope.payload, path)
    if len(payloads) > 1:
        first, second, *_ = payloads.values()
        raise altered(second, f"it does not say the same as {first.name}")
    payload, place = next(iter(payloads.items()))
    value = strict_json(place, payload)
    _check(place, value, kind)
    signed_by = key.key_id if key is not None and envelopes else ""
    return Statement(stem, value, tuple(envelopes), signed_by)


def sha256_of(file: Path) -> str:
    """The sha256 of a file. Raises ClientError."""
    try:
        with file.open("rb") as opened:
            digest = hashlib.sha256()
            while piece := opened.read(16 * CHUNK_BYTES):
                digest.update(piece)
    except OSError as error:
        raise ClientError("not-found", f"{file} cannot be read", error.strerror or "") from None
    return digest.hexdigest()


def read_document(path: Path) -> bytes:
    """The content of a file, of limited size. Raises ClientError."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ClientError("not-found", f"{path} cannot be read", error.strerror or "") from None
    if len(content) > MOST_BYTES:
        raise altered(path, f"it has more than {MOST_BYTES} bytes")
    return content


def _check(place: Path, value: Json, kind: str) -> None:
    """Raise ClientError for what is no statement of that kind."""
    match value:
        case {
            "_type": str(statement),
            "subject": [*subjects],
            "predicateType": str(found),
            "predicate": dict(),
        } if statement == STATEMENT and subjects and all(map(_is_subject, subjects)):
            if found == kind:
                return
            raise altered(place, f"it is a statement of another kind: {found[:200]}")
    raise altered(place, "it is no in-toto statement (v1) about files")


def _is_subject(value: Json) -> bool:
    match value:
        case {"name": str(), "digest": {"sha256": str()}}:
            return True
    return False
