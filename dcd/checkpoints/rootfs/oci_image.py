"""`OCIImage`: the image area as a container image.

Result: media/NAME.oci.tar, one tar that is an OCI image layout and an archive of `docker save` at once, as
Docker itself writes since version 25: podman, skopeo and umoci read the layout, `docker load` the file
manifest.json. The layers are those of the checkpoints `OCILayer` before it, and one with what has changed
since. Everything in it derives from the image area, the arguments and the build's time, so the same build
gives the same digests.
Source: the OCI image specification 1.0.2 (image-layout.md, config.md, annotations.md); Docker's image
specification 1.2, "Combined Image JSON + Filesystem Changeset Format".
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from dcd.checkpoints import products
from dcd.checkpoints.image.accounts import owner_ids
from dcd.checkpoints.image.compress import excluded_faults
from dcd.checkpoints.interface import Checkpoint, Context, Needs, Report
from dcd.checkpoints.media.deliver import deliver_file, media_name
from dcd.checkpoints.packages import architecture_of
from dcd.checkpoints.rootfs.compression import check_level, tools_of
from dcd.checkpoints.rootfs.oci_layers import Layer, add_layer, blob, layers_of
from dcd.checkpoints.rootfs.tree import completed_image
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.doc import DataObjectCache, distro
from dcd.manifest.forms import (
    ACCOUNT_PATH,
    ARCHITECTURE,
    ARGUMENT,
    EXCLUDED,
    IMAGE_TAG,
    LABEL,
    OWNER,
    PORT,
    VARIABLE,
    WORD,
)
from dcd.platform.inside import new_file, regular_file
from statemachine.errors import CheckpointError

_PLATFORMS: Mapping[str, tuple[str, str]] = {
    "i386": ("386", ""),
    "armel": ("arm", "v5"),
    "armhf": ("arm", "v7"),
    "arm64": ("arm64", "v8"),
    "ppc64el": ("ppc64le", ""),
    "mipsel": ("mipsle", ""),
    "mips64el": ("mips64le", ""),
}
"""Debian's architectures to those of Go, with the variant, where they differ."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"

Json = dict[str, Any]


@dataclass(frozen=True)
class OCIImage(Checkpoint):
    """Make a container image.

    The result is an OCI image layout in one tar, which `docker load` reads too.
    """

    DESCRIPTION = "Make the container image"
    EXPECTED_SECONDS = 15.0
    REQUIRES = (products.IMAGE,)
    PROVIDES = ()
    READS = ("//distro.name", "//distro.add_timestamp", "//distro.version")
    TOOLS = ("pack-gzip", "pack-zstd")
    DISK_BYTES = 2 << 30

    entrypoint: tuple[Annotated[str, ARGUMENT], ...] = ()
    """The program that the container runs, and its first arguments."""

    cmd: tuple[Annotated[str, ARGUMENT], ...] = ()
    """The arguments that follow, or without an entrypoint the program; the user of the image can give
    others."""

    env: tuple[Annotated[str, VARIABLE], ...] = ()
    """Variables of the environment, as NAME=VALUE. Without a PATH it has Debian's."""

    user: Annotated[str, OWNER] | None = None
    """The user, or USER:GROUP, that the program runs as; by default root."""

    workdir: Annotated[str, ACCOUNT_PATH] | None = None
    """The directory in which the program starts; by default the root."""

    ports: tuple[Annotated[str, PORT], ...] = ()
    """The ports on which the program listens: `80/tcp`."""

    volumes: tuple[Annotated[str, ACCOUNT_PATH], ...] = ()
    """Directories with data that outlives a container."""

    stop_signal: Annotated[str, WORD] | None = None
    """The signal that ends the program; by default SIGTERM."""

    labels: tuple[Annotated[str, LABEL], ...] = ()
    """Labels of the image, as KEY=VALUE: `org.opencontainers.image.licenses=MIT`."""

    tag: Annotated[str, IMAGE_TAG] | None = None
    """The name and tag of the image: `registry.example.org/team/app:1.2`. Default: the distribution's name,
    with the tag `latest`."""

    architecture: Annotated[str, ARCHITECTURE] | None = None
    """The architecture, as Debian names it; by default that of the image's packages."""

    compression: Literal["gzip", "zstd", "none"] = "gzip"
    """The compression of the layer. Every registry and runtime takes gzip."""

    level: int | None = None
    """The level of the compression: gzip 1 to 9, zstd 1 to 19; by default the compressor's own."""

    exclude: tuple[Annotated[str, EXCLUDED], ...] = ()
    """Paths of the image to leave out, as shell patterns: `var/cache/apt/*`."""

    def needs(self, doc: DataObjectCache) -> Needs:
        return Needs(tools=tools_of(self.compression), disk_bytes=self.DISK_BYTES)

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        yield from check_level(doc, self, self.compression, self.level)
        yield from excluded_faults(doc, self, self.exclude)

    def execute(self, context: Context) -> None:
        tree = completed_image(context, self.exclude)
        context.report(Report(0.1, "packing the layer"))
        add_layer(context, tree, self.name, self.compression, self.level)
        layers = layers_of(context)
        self._warn(context)
        config = self._config(context, layers, tree.epoch)
        context.report(Report(0.7, f"packing {len(layers)} layers"))
        result = new_file(context.media, f"{media_name(context.doc, tree.epoch)}.oci.tar")
        tag = self.tag or f"{_plain_name(distro(context.doc).name)}:latest"
        _write(context, result, config, layers, tag, tree.epoch)
        deliver_file(context, result, "oci")
        context.report(Report(1.0, f"{result.name}: {result.stat().st_size / (1 << 20):.1f} MiB"))

    @property
    def _environment(self) -> tuple[str, ...]:
        given = any(one.startswith("PATH=") for one in self.env)
        return self.env if given else (f"PATH={_PATH}", *self.env)

    def _config(self, context: Context, layers: Sequence[Layer], epoch: int) -> Json:
        """The configuration of the image."""
        described = distro(context.doc)
        debian = self.architecture or architecture_of(context.pkg_image)
        if debian == "all":
            raise CheckpointError(
                "the architecture of the image is unknown",
                "its package database names none",
                '<arg name="architecture">amd64</arg>',
            )
        architecture, variant = _PLATFORMS.get(debian, (debian, ""))
        created = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        labels = {"org.opencontainers.image.title": described.name}
        if described.version:
            labels["org.opencontainers.image.version"] = described.version
        labels.update((key, value) for key, _, value in (one.partition("=") for one in self.labels))
        running: Json = {"Env": list(self._environment), "Labels": labels}
        for key, value in (
            ("Entrypoint", list(self.entrypoint)),
            ("Cmd", list(self.cmd)),
            ("User", self.user),
            ("WorkingDir", self.workdir),
            ("StopSignal", self.stop_signal),
            ("ExposedPorts", {port: {} for port in self.ports}),
            ("Volumes", {path: {} for path in self.volumes}),
        ):
            if value:
                running[key] = value
        return {
            "architecture": architecture,
            **({"variant": variant} if variant else {}),
            "os": "linux",
            "created": created,
            "config": running,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{one.diff_id}" for one in layers]},
            "history": [{"created": created, "created_by": f"dcd {one.made_by}"} for one in layers],
        }

    def _warn(self, context: Context) -> None:
        """Warn of what keeps the container from starting."""
        program = next(iter((*self.entrypoint, *self.cmd)), None)
        if program is not None and not self._has_program(context.pkg_image, program):
            what = "entrypoint" if self.entrypoint else "cmd"
            context.warn(f"the image has no program {program!r}, its {what}")
        if self.user is not None:
            try:
                owner_ids(context.pkg_image, self.user)
            except CheckpointError as error:
                context.warn(f"{error.brief}, and the container runs as {self.user}")

    def _has_program(self, image: Path, program: str) -> bool:
        directories = [self.workdir or "/"]
        if "/" not in program:
            path = next(one for one in self._environment if one.startswith("PATH="))
            directories = path.removeprefix("PATH=").split(":")
        return any(
            (file := regular_file(image, PurePosixPath(one, program))) is not None
            and file.stat().st_mode & 0o111
            for one in directories
        )


def _plain_name(name: str) -> str:
    """A distribution's name as that of a container image, which has small letters and no blanks."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _encoded(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _write(
    context: Context, result: Path, config: Json, layers: Sequence[Layer], tag: str, epoch: int
) -> None:
    """Write the layout into one tar."""
    small: dict[str, bytes] = {}

    def described(content: bytes, media_type: str) -> Json:
        digest = hashlib.sha256(content).hexdigest()
        small[_blob_name(digest)] = content
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    configured = described(_encoded(config), _CONFIG_TYPE)
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST_TYPE,
        "config": configured,
        "layers": [
            {"mediaType": one.media_type, "digest": f"sha256:{one.digest}", "size": one.size}
            for one in layers
        ],
    }
    named = described(_encoded(manifest), _MANIFEST_TYPE)
    named["annotations"] = {
        "org.opencontainers.image.ref.name": tag.rpartition(":")[2],
        "io.containerd.image.name": tag,
    }
    platform = {key: config[key] for key in ("architecture", "os", "variant") if key in config}
    index = {"schemaVersion": 2, "manifests": [{**named, "platform": platform}]}
    docker = [
        {
            "Config": _blob_name(configured["digest"].removeprefix("sha256:")),
            "RepoTags": [tag],
            "Layers": [_blob_name(one.digest) for one in layers],
        }
    ]
    small |= {
        "oci-layout": _encoded({"imageLayoutVersion": "1.0.0"}),
        "index.json": _encoded(index),
        "manifest.json": _encoded(docker),
    }
    large = {_blob_name(one.digest): blob(context, one) for one in layers}
    with tarfile.open(result, "w", format=tarfile.PAX_FORMAT) as tar:
        for directory in ("blobs", "blobs/sha256"):
            member = tarfile.TarInfo(directory)
            member.type, member.mode, member.mtime = tarfile.DIRTYPE, 0o755, epoch
            tar.addfile(member)
        for name in sorted({*small, *large}):
            member = tarfile.TarInfo(name)
            member.mode, member.mtime = 0o644, epoch
            if name in small:
                member.size = len(small[name])
                tar.addfile(member, io.BytesIO(small[name]))
            else:
                member.size = large[name].stat().st_size
                with large[name].open("rb") as file:
                    tar.addfile(member, file)


def _blob_name(digest: str) -> str:
    return f"blobs/sha256/{digest}"
