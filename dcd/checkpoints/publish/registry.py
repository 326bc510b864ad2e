"""`PublishRegistry`: a container image, or any products, pushed to a registry.

A product of format `oci` (the checkpoint OCIImage) is pushed as an image with its own digest. Other products
are pushed together as one artifact, as ORAS does: a manifest that lists each file as a layer with its name.
Blobs come first, manifests then, and the tag last, so the tag never leads to a part.
Source: the OCI image and distribution specifications 1.1, "Guidelines for Artifact Usage".
"""

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from dcd.checkpoints.interface import Checkpoint, Context, Needs, Report
from dcd.checkpoints.publish.parts import (
    Product,
    check_credentials,
    check_place,
    login_of,
    products_of,
    record,
    secrets_of,
)
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.forms import ENTRY, IMAGE_TAG, LINE
from dcd.platform.publishing.http import Piece, server_of
from dcd.platform.publishing.registry import (
    EMPTY,
    EMPTY_CONFIG,
    MANIFEST,
    Registry,
    content_digest,
)
from statemachine.errors import CheckpointError

INDEX = "application/vnd.oci.image.index.v1+json"
_MOST_BYTES = 4 << 20
"""Size limit of a manifest, as of registries."""


@dataclass(frozen=True)
class PublishRegistry(Checkpoint):
    """Push a container image, or other products as an artifact, to a registry.

    It runs after everything else, in every build, and sends only what the registry does not have.
    """

    DESCRIPTION = "Push the products to a registry"
    EXPECTED_SECONDS = 30.0
    PROVIDES = ()
    REUSABLE = False

    reference: Annotated[str, IMAGE_TAG]
    """Where to push: registry, repository and tag, as `registry.example.org/team/app:1.2`."""

    tags: tuple[Annotated[str, LINE], ...] = ()
    """Further tags for the same digest."""

    files: tuple[Annotated[str, ENTRY], ...] = ()
    """Patterns of the names of the products, as `*.iso`; by default the image of OCIImage if there is one,
    else all products."""

    artifact_type: Annotated[str, LINE] = "application/vnd.dcd.products"
    """The type of the artifact, if products other than an image are pushed."""

    credentials: Annotated[str, LINE] | None = None
    """The secret with USER:PASSWORD: a file below /etc/dcd/secrets, or a variable of the daemon
    (DCD_SECRET_...)."""

    insecure: bool = False
    """Use http instead of https."""

    timeout_seconds: float = 60.0
    """How long the registry may take for each step of a request."""

    unverified: bool = False
    """Nothing has to verify the products before."""

    def needs(self, doc: DataObjectCache) -> Needs:
        return Needs(
            network=True, capabilities=(), secrets=secrets_of(self.credentials), contents=True
        )

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        yield from check_place(self, doc, self.unverified)
        yield from check_credentials(self, doc, self.credentials)
        if "/" not in self.reference:
            yield self.fault(
                doc,
                "reference",
                f"{self.reference!r} names no registry",
                "",
                f"registry.example.org/{self.reference}",
            )

    def execute(self, context: Context) -> None:
        host, _, rest = self.reference.partition("/")
        name, _, tag = rest.rpartition(":")

        def say(text: str) -> None:
            context.report(Report(message=text))

        url = f"{'http' if self.insecure else 'https'}://{host}"
        server, _ = server_of(url, self.timeout_seconds, say)
        registry = Registry(server, name, login_of(self.credentials))
        products = products_of(context, self.files)
        images = [each for each in products if each.kind == "oci"]
        if not self.files and images:
            products = images
        if len(products) == 1 and images:
            manifests, media_type = _image(products[0].path)
        else:
            manifests, media_type = _artifact(products, self.artifact_type)
        *below, (digest, content, _) = manifests
        tags = dict.fromkeys((tag, *self.tags))
        left = [each for each in tags if registry.digest_of(each) != digest]
        if left:
            done = 0
            blobs = {one: piece for _, _, found in manifests for one, piece in found.items()}
            for number, (one, piece) in enumerate(blobs.items()):
                context.report(Report(fraction=number / (len(blobs) + 1)))
                if not registry.has_blob(one):
                    say(f"sending {one}, {piece.size_bytes} bytes")
                    registry.put_blob(one, piece)
                    done += 1
            say(f"{done} of {len(blobs)} blobs sent")
            for one, text, _ in below:
                registry.put_manifest(one, MANIFEST, text)
            for each in left:
                registry.put_manifest(each, media_type, content)
        size = sum(piece.size_bytes for _, _, found in manifests for piece in found.values())
        whole = Product(
            name, Path(), digest.removeprefix("sha256:"), size + len(content), media_type
        )
        for each in tags:
            record(context, f"{host}/{name}:{each}@{digest}", whole, uploaded=each in left)
        context.report(Report(fraction=1.0))


Manifest = tuple[str, bytes, Mapping[str, Piece]]
"""A manifest: its digest, its content, and the blobs that it names."""


def _image(path: Path) -> tuple[list[Manifest], str]:
    """The manifests in an image layout in a tar, the top one last, and the type of that. Raises
    CheckpointError for a damaged layout."""
    try:
        with tarfile.open(path) as tar:
            members = {each.name.removeprefix("./"): each for each in tar if each.isreg()}

            def content_of(name: str) -> bytes:
                file = tar.extractfile(members[name])
                assert file is not None
                return file.read(_MOST_BYTES)

            index = content_of("index.json")
            named = json.loads(index)["manifests"]
            manifests = [_manifest(path, each, members, content_of) for each in named]
    except (tarfile.TarError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path.name} is not an OCI image layout", str(error)) from error
    if len(manifests) == 1:
        return manifests, named[0]["mediaType"]
    return [*manifests, (content_digest(index), index, {})], INDEX


def _manifest(
    path: Path, named: Any, members: Mapping[str, tarfile.TarInfo], content_of: Any
) -> Manifest:
    def place(digest: str) -> str:
        return f"blobs/{digest.replace(':', '/')}"

    content = content_of(place(named["digest"]))
    if content_digest(content) != named["digest"]:
        raise ValueError(f"{named['digest']} has another content")
    manifest = json.loads(content)
    blobs = {}
    for each in (manifest["config"], *manifest["layers"]):
        member = members[place(each["digest"])]
        if member.size != each["size"]:
            raise ValueError(f"{each['digest']} has {member.size} bytes instead of {each['size']}")
        blobs[each["digest"]] = Piece(path, member.offset_data, member.size)
    return named["digest"], content, blobs


def _artifact(products: Sequence[Product], artifact_type: str) -> tuple[list[Manifest], str]:
    """The manifest of an artifact of these files."""
    layers = [
        {
            "mediaType": "application/octet-stream",
            "digest": f"sha256:{each.sha256}",
            "size": each.size_bytes,
            "annotations": {"org.opencontainers.image.title": each.name},
        }
        for each in products
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": artifact_type,
        "config": EMPTY_CONFIG,
        "layers": layers,
    }
    content = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    blobs = {f"sha256:{each.sha256}": Piece(each.path, 0, each.size_bytes) for each in products}
    return [
        (
            content_digest(content),
            content,
            {content_digest(EMPTY): Piece(Path(), 0, len(EMPTY), EMPTY), **blobs},
        )
    ], MANIFEST
