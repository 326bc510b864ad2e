"""Sending an export to a daemon, to be rebuilt there, after all of it was checked."""

import hashlib
from os.path import normpath
from pathlib import Path, PurePosixPath

from cli.client import ClientError, Json, request, upload
from cli.exported import Exported, bad, read_export
from cli.signature import PublicKey, read_envelope, read_key, strict_json, verify

UNNAMED = "urn:dcd:builder:unnamed"
"""The builder of a server without a `builder_id`."""


def import_export(socket: str, path: Path, key: Path | None) -> Json:
    """Send an export to the daemon. Returns the rebuild. Raises ClientError."""
    export = read_export(path)
    index = export.index
    public = None if key is None else read_key(key)
    _check_provenance(export, public)
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
    said = export.text("provenance.json")
    upload(socket, index["rebuild"]["provenance"], iter([said]), len(said))
    body = {
        "manifest": {"path": str(place), "text": manifest.decode("utf-8", "replace")},
        "files": files,
        "source_date_epoch": index["source_date_epoch"],
        "fresh": True,
        "lists": index["lists"],
        "rebuild": index["rebuild"],
    }
    if public is not None:
        signed = export.text("provenance.dsse.json")
        digest = hashlib.sha256(signed).hexdigest()
        upload(socket, digest, iter([signed]), len(signed))
        body["signature"] = {"envelope": digest, "key": public.pem.decode("ascii")}
    return request(socket, "POST", "/v1/builds", body=body)


def _check_provenance(export: Exported, public: PublicKey | None) -> None:
    """Raise ClientError unless the index says what the provenance says, which the key has signed, if one is
    given."""
    text = export.text("provenance.json")
    expected = export.index["rebuild"]
    if hashlib.sha256(text).hexdigest() != expected.get("provenance"):
        raise bad(export.path, "its provenance is not the one of its index")
    if public is not None:
        signed = export.text("provenance.dsse.json")
        envelope = read_envelope(export.path, signed) if signed else None
        if envelope is None:
            raise ClientError("unproved", f"the provenance in {export.path} is not signed")
        verify(envelope, public)
        if envelope.payload != text:
            raise bad(export.path, "its signed provenance is another one")
    try:
        vouched = _vouched(strict_json(export.path, text))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise bad(export.path, "its provenance is none") from None
    try:
        said = _said(export)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise bad(export.path, "its index is not as dcd writes it") from None
    for what, given in said.items():
        if given != vouched[what]:
            raise bad(export.path, f"its index names other {what} than its provenance")


def _said(export: Exported) -> dict[str, Json]:
    """What the index says that the provenance has to say, too."""
    index, rebuild = export.index, export.index["rebuild"]
    given = [(each["path"], each["sha256"], each["mode"]) for each in index["inputs"]]
    packed = rebuild.get("manifests") or {}
    if not set(packed.values()) <= set(export.names("contents")):
        raise bad(export.path, "a content manifest of its index is missing")
    return {
        "products": {**(rebuild.get("products") or {}), f"{index['name']}.xml": None},
        "manifests": hashlib.sha256(export.text("manifest.xml")).hexdigest(),
        "times": index["source_date_epoch"],
        "packages": [*index["lists"]],
        "files": sorted(given),
        "builds": rebuild.get("build"),
        "builders": rebuild.get("builder") or UNNAMED,
        "versions": rebuild.get("version"),
        "results": rebuild.get("contents"),
        "plans": _keys(rebuild.get("plan")),
    }


def _vouched(statement: Json) -> dict[str, Json]:
    """The same by the provenance."""
    definition, run = (statement["predicate"][x] for x in ("buildDefinition", "runDetails"))
    external, used = definition["externalParameters"], definition["resolvedDependencies"]
    own = external["manifest"]["name"]
    inputs = [each for each in used if each.get("uri") == "urn:dcd:input"]
    manifest = external.get("exported_manifest") or {"digest": {"sha256": ""}}
    lists = [x["digest"]["sha256"] for x in used if x.get("uri") == "urn:dcd:packages"]
    return {
        "products": {
            each["name"]: None if each["name"] == own else each["digest"]["sha256"]
            for each in statement["subject"]
        },
        "manifests": manifest["digest"]["sha256"],
        "times": external.get("source_date_epoch"),
        "packages": [*dict.fromkeys(lists)],
        "files": sorted(
            (each["name"], each["digest"]["sha256"], int(each["annotations"]["mode"], 8))
            for each in inputs
        ),
        "builds": run["metadata"]["invocationId"],
        "builders": run["builder"]["id"],
        "versions": run["builder"].get("version", {}).get("dcd", ""),
        "results": {
            each["name"]: each["digest"]["sha256"]
            for each in run["byproducts"]
            if each.get("uri") == "urn:dcd:checkpoint" and "digest" in each
        },
        "plans": [
            (each["name"], each["class"], each["key"])
            for each in definition["internalParameters"]["checkpoints"]
        ],
    }


def _keys(plan: Json) -> list[Json]:
    """The checkpoints of a plan, each with its class and its key; the daemon chains the keys again."""
    return [
        (each["name"], f"{each['mod_path']}:{each['checkpoint_class']}", each["key"])
        for each in plan["checkpoints"]
    ]
