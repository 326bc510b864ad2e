"""Registries for tests: Debian's docker-registry, and one in memory."""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcd.platform.publishing.http import Piece
from tests.dcd.checkpoints.publishing import answers, free_port
from tests.docker_registry import digest, registry_command


@dataclass
class RunningRegistry:
    """A registry that takes `me` with the password `word`."""

    directory: Path
    port: int = 0
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/dcd"

    def start(self) -> None:
        command = registry_command(self.directory)
        for _ in range(5):
            self.port = self.port or free_port()
            self.process = subprocess.Popen(
                command(self.port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            if answers(self.process, self.port):
                return
            self.port = 0
        raise AssertionError("the registry does not start")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def tags(self) -> list[str]:
        place = self.directory / "docker/registry/v2/repositories/dcd/_manifests/tags"
        return sorted(path.name for path in place.iterdir()) if place.exists() else []

    def blobs(self) -> list[Path]:
        """The files of all blobs, the largest last."""
        found = (self.directory / "docker/registry/v2/blobs").glob("sha256/*/*/data")
        return sorted(found, key=lambda path: path.stat().st_size)


class Offered:
    """A registry in memory."""

    def __init__(self) -> None:
        self.manifests: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.deleted: list[str] = []

    def digest_of(self, tag: str) -> str:
        content = self.manifests.get(tag)
        return digest(content) if content else ""

    def put_artifact(
        self, tag: str, media_type: str, manifest: bytes, blobs: Mapping[str, Piece], *_: Any
    ) -> int:
        self.blobs |= {digest: b"".join(piece.chunks()) for digest, piece in blobs.items()}
        self.manifests[tag] = manifest
        return len(blobs)

    def delete_manifest(self, digest: str) -> bool:
        self.deleted.append(digest)
        return True

    def get_manifest(self, tag: str) -> tuple[str, bytes] | None:
        return (self.digest_of(tag), self.manifests[tag]) if tag in self.manifests else None

    def get_blob(self, digest: str, size_bytes: int) -> Iterator[bytes]:
        yield self.blobs[digest]


@contextmanager
def registry(directory: Path) -> Iterator[RunningRegistry]:
    running = RunningRegistry(directory)
    running.start()
    try:
        yield running
    finally:
        with suppress(ProcessLookupError):
            running.kill()
