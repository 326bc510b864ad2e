"""The registry of a simulated farm: blobs and manifests in memory. It can be away, and lose what it has."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from dcd.farm import link, shared_registry, sharing
from dcd.platform.publishing.http import Broken, Piece
from dcd.platform.publishing.registry import Registry, content_digest


class Shelf:
    """What the registry has. `reaches` says whether the host that asks can reach it."""

    def __init__(self, reaches: Callable[[], bool]) -> None:
        self._reaches = reaches
        self.away = False
        self.keeps = True
        """Without it the registry loses at once what it has taken."""
        self.manifests: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}

    def empty(self) -> None:
        """Lose everything, as when its disk is replaced."""
        self.manifests.clear()
        self.blobs.clear()

    def require(self) -> None:
        """Raise Broken while it cannot be reached."""
        if self.away or not self._reaches():
            raise Broken("the registry cannot be reached", "connection refused")


class SimulatedRegistry(Registry):
    """The client of the registry, without the network."""

    __slots__ = ()
    shelf: ClassVar[Shelf]
    """Set by the farm."""

    def check(self) -> None:
        self.shelf.require()

    def has_blob(self, digest: str) -> bool:
        self.shelf.require()
        return digest in self.shelf.blobs

    def digest_of(self, reference: str) -> str:
        found = self.get_manifest(reference)
        return found[0] if found else ""

    def put_artifact(
        self,
        tag: str,
        media_type: str,
        manifest: bytes,
        blobs: Mapping[str, Piece],
        check: Callable[[], object] = lambda: None,
    ) -> int:
        self.shelf.require()
        check()
        if self.shelf.keeps:
            self.shelf.blobs |= {digest: b"".join(blob.chunks()) for digest, blob in blobs.items()}
            self.shelf.manifests[tag] = manifest
        return sum(blob.size_bytes for blob in blobs.values())

    def get_manifest(self, reference: str) -> tuple[str, bytes] | None:
        self.shelf.require()
        content = self.shelf.manifests.get(reference)
        return (content_digest(content), content) if content else None

    def get_blob(self, digest: str, size_bytes: int) -> Iterator[bytes]:
        self.shelf.require()
        if digest not in self.shelf.blobs:
            raise Broken("the registry has lost a blob", digest)
        yield self.shelf.blobs[digest]

    def delete_manifest(self, digest: str) -> bool:
        self.shelf.require()
        for tag, content in tuple(self.shelf.manifests.items()):
            if content_digest(content) == digest:
                del self.shelf.manifests[tag]
        return True

    def tags(self) -> list[str]:
        self.shelf.require()
        return sorted(self.shelf.manifests)


def patched(patch: Any, shelf: Shelf, pool: Callable[..., Any], clock: Any) -> None:
    """Let the product's code find this registry; `pool` makes its threads, `clock` is its `time`."""
    for module in (link, shared_registry):
        patch(module, "Registry", SimulatedRegistry)
    for module in (link, sharing):
        patch(module, "ThreadPoolExecutor", pool)
        patch(module, "time", clock)
    patch(SimulatedRegistry, "shelf", shelf, raising=False)
