"""Sending an export to a daemon, to be rebuilt there, after all of it was checked."""

import hashlib
from os.path import normpath
from pathlib import Path, PurePosixPath

from cli.client import ClientError, Json, request, upload
from cli.exported import Exported, bad, read_export
from cli.signature import read_envelope, read_key, strict_json, verify


def import_export(socket: str, path: Path, key: Path | None) -> Json:
    """Send an export to the daemon. Returns the rebuild. Raises ClientError."""
    export = read_export(path)
    index = export.index
    _check_provenance(export, key)
    manifest = export.text("manifest.xml")
    place = PurePosixPath(index["manifest_path"])
    if not place.is_absolute():
        raise bad(path, "its manifest has no absolute path")
    files = {
        normpath(place.parent / each["path"]): {"sha256": each["sha256"], "mode": each["mode"]}
        for each in index["inputs"]
    }
    for directory in ("inputs", "packages", "contents"):
        for digest in export.names(directory):
            name = f"{directory}/{digest}"
            upload(socket, digest, export.pieces(name), export.size_bytes(name))
    body = {
        "manifest": {"path": str(place), "text": manifest.decode("utf-8", "replace")},
        "files": files,
        "source_date_epoch": index["source_date_epoch"],
        "fresh": True,
        "lists": index["lists"],
        "rebuild": index["rebuild"],
    }
    return request(socket, "POST", "/v1/builds", body=body)


def _check_provenance(export: Exported, key: Path | None) -> None:
    """Raise ClientError unless the index says what the provenance says, which the key has signed, if one is
    given."""
    text = export.text("provenance.json")
    expected = export.index["rebuild"]
    if hashlib.sha256(text).hexdigest() != expected.get("provenance"):
        raise bad(export.path, "its provenance is not the one of its index")
    if key is not None:
        public = read_key(key)
        signed = export.text("provenance.dsse.json")
        envelope = read_envelope(export.path, signed) if signed else None
        if envelope is None:
            raise ClientError("unproved", f"the provenance in {export.path} is not signed")
        verify(envelope, public)
        if envelope.payload != text:
            raise bad(export.path, "its signed provenance is another one")
    statement = strict_json(export.path, text)
    try:
        products = {each["name"]: each["digest"]["sha256"] for each in statement["subject"]}
        used = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
        named = {each["digest"]["sha256"] for each in used if "digest" in each}
        inputs = {
            (each["name"], each["digest"]["sha256"], int(each["annotations"]["mode"], 8))
            for each in used
            if each.get("uri") == "urn:dcd:input"
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        raise bad(export.path, "its provenance is none") from None
    products.pop(f"{export.index['name']}.xml", None)
    if products != expected.get("products"):
        raise bad(export.path, "its index names other products than its provenance")
    given = {(each["path"], each["sha256"], each["mode"]) for each in export.index["inputs"]}
    if not (set(export.index["lists"]) <= named and given == inputs):
        raise bad(export.path, "its index names other files than its provenance")
