"""Layers shared with other build servers through a container registry, and in a farm captured files, logs and
artifacts.

A layer goes there, in the background, once its event is on disk, if making it again takes longer than moving
it (`dcd.farm.judging`). It comes from there when a build here lacks it. In a farm a layer counts when an
event of the farm's log names its content; without a common log, everybody who may write there is believed. In
both cases the launcher makes the layer only with the content that was named.

In a farm the outputs of each attempt that has ended, and each artifact, are sent as well, so that people find
them on every member (`dcd.farm.shared_outputs`). What was made with secrets stays, as layers do.

A registry that is down, slow or wrong costs a build a few seconds and fails nothing: what cannot be sent is
dropped, what does not come is made. What is on the way lies in files that the next start removes. Implements
`dcd.engine.sharing.Sharing`; `happened` and `bring` are called in the event loop's thread.
"""

import asyncio
import hashlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, TypeVar

import structlog

from dcd.configuration import Configuration
from dcd.engine.outputs import Outputs
from dcd.engine.sharing import SharedOutput, SharingState
from dcd.engine.stores import Stores
from dcd.farm.judging import (
    FIRST_RATE,
    MEASURED_BYTES,
    event_of,
    may_be_shared,
    products_of,
    reads_secrets,
    worth_sharing,
)
from dcd.farm.link import Link, Sender
from dcd.farm.shared_inputs import fetch_inputs, fetch_package, send_inputs, unneeded_inputs
from dcd.farm.shared_layers import (
    BadManifest,
    BlobOf,
    SharedLayer,
    key_of_tag,
    read_manifest,
    tag_of,
)
from dcd.farm.shared_outputs import (
    attempt_tag,
    build_of_tag,
    read_outputs,
    send_artifact,
    send_outputs,
)
from dcd.platform.publishing.http import Broken, Piece
from dcd.platform.publishing.registry import MANIFEST
from statemachine.build import BuildState
from statemachine.errors import DcdError, NotFound, Unavailable, Unprepared
from statemachine.events import (
    ArtifactPublished,
    CheckpointCompleted,
    CheckpointFailed,
    CheckpointInterrupted,
    Event,
    Payload,
)
from statemachine.plan import Locked
from statemachine.results import Artifact
from store.eventlog import EventLog
from store.layers import ExpectedLayer, Layer

logger = structlog.get_logger()

T = TypeVar("T")

THREADS = 32
"""The threads that wait for the registry, beside those that send."""

PUSHES = 2
"""How many layers are sent at once."""

OFFER_SECONDS = 60.0
"""How long a submit may wait until its captured files are in the registry; then the build stays here."""

MOST_BELOW = 200
"""How many layers may come below one that a build lacks."""

LEAST_PULL_SECONDS, MOST_PULL_SECONDS = 20.0, 3600.0
"""The bounds of the time for a layer to come; in between it is the time that it took to make."""


class SharedLayers:
    """See the module. `host` is this member of the farm whose log is that of all servers that share the
    registry; "" without a common log."""

    def __init__(
        self,
        settings: Callable[[], Configuration],
        login: tuple[str, str] | None,
        stores: Stores,
        log: EventLog,
        host: str,
    ) -> None:
        self._settings = settings
        self._link = Link(settings().farm_registry, login)
        self._stores = stores
        self._log = log
        self._host = host
        self._layers = Sender(self._link, "layers", PUSHES)
        self._outputs = Sender(self._link, "outputs", 1)
        self._artifacts = Sender(self._link, "outputs", 1)
        self._threads = ThreadPoolExecutor(THREADS, "registry")
        """Apart from the daemon's: a slow registry holds up no command."""
        self._rate = FIRST_RATE
        self._bringing: dict[str, threading.Event] = {}
        self._wrong: set[str] = set()
        """The digests for which the registry has sent something else."""

    def close(self) -> None:
        """End with what is under way."""
        self._link.closed = True
        for sender in (self._layers, self._outputs, self._artifacts):
            sender.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _apart(self, work: Callable[..., T], *given: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *given)

    def state(self) -> SharingState:
        return self._link.state()

    def examine(self) -> SharingState:
        return self._link.examine()

    def happened(self, before: BuildState | None, event: Event) -> None:
        """Send what an event says was made, some time."""
        if before is None:
            return
        done = event.data
        if isinstance(done, CheckpointCompleted) and self._is_shareable(before, done):
            send = partial(self._send, event.build, done)
            self._layers.send(send, "a layer is not shared", done.key)
        if self._host:
            self._send_output(before, done)

    def _is_shareable(self, state: BuildState, done: CheckpointCompleted) -> bool:
        return bool(done.content) and may_be_shared(state, done.checkpoint, bool(self._host))

    def _send_output(self, state: BuildState, done: Payload) -> None:
        match done:
            case CheckpointCompleted() | CheckpointFailed() | CheckpointInterrupted():
                if not reads_secrets(state, done.checkpoint):
                    send = partial(self._send_attempt, state, done.checkpoint, done.attempt)
                    self._outputs.send(send, "the log of an attempt is not shared", state.id)
            case ArtifactPublished(artifact):
                if not reads_secrets(state, state.checkpoints[-1].name):
                    path = self._stores.artifacts.path(state.id, artifact)
                    send = partial(self._send_artifact, state.id, artifact, path)
                    self._artifacts.send(send, "an artifact is not shared", artifact.name)

    def _send_artifact(self, build: str, artifact: Artifact, path: Path) -> None:
        send_artifact(self._link.writing, build, artifact, path)
        self._link.succeeded("outputs", "sent")

    def _send_attempt(self, state: BuildState, checkpoint: str, attempt: int) -> None:
        outputs = Outputs(self._stores).of_attempt(state, checkpoint, attempt)
        tag = attempt_tag(state.id, checkpoint, attempt)
        if send_outputs(self._link.writing, tag, self._host, outputs):
            self._link.succeeded("outputs", "sent")

    def outputs(self, build: str, checkpoint: str, attempt: int) -> Sequence[SharedOutput]:
        if not self._host or self._link.is_quiet:
            return ()
        try:
            found = self._link.reading.get_manifest(attempt_tag(build, checkpoint, attempt))
            return tuple(read_outputs(found[1])) if found else ()
        except (BadManifest, DcdError, OSError) as error:
            self._link.failed("the log of an attempt does not come", build, error)
            return ()

    def has(self, digest: str) -> bool:
        if not self._host or self._link.is_quiet or digest in self._wrong:
            return False
        try:
            return self._link.reading.has_blob(digest)
        except (DcdError, OSError) as error:
            self._link.failed("an artifact does not come", digest, error)
            return False

    def read(self, digest: str, size_bytes: int) -> Iterator[bytes]:
        try:
            yield from self._link.reading.get_blob(digest, size_bytes)
        except DcdError as error:
            self._link.failed("what another member has sent does not come", digest, error)
            if not isinstance(error, Broken):
                self._wrong.add(digest)
            raise

    def _send(self, build: str, done: CheckpointCompleted) -> None:
        line = self._line(done)
        size = sum(layer.size_bytes for layer, _ in line)
        if not worth_sharing(done.seconds, size, self._rate):
            return
        for layer, content in line:
            self._send_layer(build, layer, content)

    def _line(self, done: CheckpointCompleted) -> list[tuple[Layer, str]]:
        """The layers to send, each with the content that the event names: the result, after its base. Raises
        NotFound."""
        named = [(done.base, done.base_content)] if done.base_content else []
        line = []
        for key, content in (*named, (done.key, done.content)):
            layer = self._stores.layers.find(key)
            if layer is None or layer.record.content != content:
                raise NotFound(f"layer {key} is not as the event names it any more")
            line.append((layer, content))
        return line

    def _send_layer(self, build: str, layer: Layer, content: str) -> None:
        record, backend = layer.record, self._stores.layers.name
        if layer.directory.parent != self._stores.layers.directory:
            raise NotFound("its back end is another one")
        tag = tag_of(record.key, backend)
        if self._link.writing.digest_of(tag):
            return
        began = time.monotonic()
        files = self._packages(record.resolved)
        self._require_space(layer.size_bytes)
        with self._stores.blobs.aside() as file:
            self._stores.privileged.pack_layer(record.key, file.fileno())
            file.seek(0)
            digest = f"sha256:{_sha256(file)}"
            pieces = {digest: Piece(Path(file.name), 0, file.seek(0, 2))}
            pieces |= {each: Piece(path, 0, path.stat().st_size) for each, path in files.items()}
            blobs = [BlobOf(each, piece.size_bytes) for each, piece in pieces.items()]
            shared = SharedLayer(
                record.key,
                record.parent or "",
                content,
                backend,
                build,
                record.seconds,
                *(blobs[0], tuple(blobs[1:])),
            )
            sent = self._link.writing.put_artifact(
                tag, MANIFEST, shared.manifest(), pieces, self._require_open
            )
        seconds = time.monotonic() - began
        self._measured(layer.size_bytes + sum(each.size_bytes for each in blobs[1:]), seconds)
        self._link.succeeded("layers", "sent")
        logger.info("layer shared", layer=record.key, sent_bytes=sent, seconds=round(seconds, 1))

    def _require_open(self) -> None:
        if self._link.closed:
            raise _GivenUp("the daemon ends")

    def _packages(self, resolved: str) -> dict[str, Path]:
        """The files of the package store that a layer needs, by their digests: its list, and what that names.
        Raises NotFound."""
        if not resolved:
            return {}
        store = self._stores.packages
        names = [resolved, *store.resolved(resolved).stored()]
        return {f"sha256:{name}": store.path(name) for name in names}

    def _measured(self, size_bytes: int, seconds: float) -> None:
        if size_bytes >= MEASURED_BYTES:
            self._rate += 0.3 * (size_bytes / max(seconds, 0.01) - self._rate)

    async def bring(self, build: str, key: str) -> bool:
        if self._link.is_quiet:
            return False
        stop = self._bringing[build] = threading.Event()
        try:
            return await self._apart(self._bring_quietly, key, stop)
        finally:
            stop.set()
            self._bringing.pop(build, None)

    def give_up(self, build: str) -> None:
        if stop := self._bringing.get(build):
            stop.set()

    def _bring_quietly(self, key: str, stop: threading.Event) -> bool:
        try:
            return self._bring(key, stop, set())
        except _GivenUp as error:
            logger.info("a layer does not come", layer=key, reason=str(error))
        except Unprepared as error:
            self._link.report(f"layer {key[:12]} does not come: {error}")
            logger.warning("a layer does not come", layer=key, error=str(error))
        except (Broken, OSError, Unavailable) as error:
            self._link.failed("a layer does not come", key, error)
        except (BadManifest, DcdError) as error:
            self._link.count("layers", "refused")
            self._link.report(f"layer {key[:12]} is refused: {error}")
            logger.error("a shared layer is refused; it is made again", layer=key, error=str(error))
        return False

    def _bring(self, key: str, stop: threading.Event, above: set[str]) -> bool:
        """Bring a layer after those below it. `above` are those that stand on it."""
        backend, layers = self._stores.layers.name, self._stores.layers
        found = self._link.reading.get_manifest(tag_of(key, backend))
        if found is None:
            return False
        shared = read_manifest(found[1])
        if (shared.key, shared.backend) != (key, backend) or shared.parent in {key, *above}:
            raise BadManifest("it describes another layer than its tag")
        if len(above) >= MOST_BELOW:
            raise BadManifest("it stands on too many others")
        named = event_of(self._log, shared)
        if named is None and not self._is_believed(shared):
            raise _GivenUp("no event of the log names its content")
        lacking = shared.parent and layers.find(shared.parent) is None
        if lacking and not self._bring(shared.parent, stop, {key, *above}):
            return False
        began = time.monotonic()
        products = products_of(named, key)
        made = named if products else None
        seconds = made.seconds if made else shared.seconds
        longest = min(max(seconds, LEAST_PULL_SECONDS), MOST_PULL_SECONDS)
        packed = shared.packed.size_bytes + sum(blob.size_bytes for blob in shared.packages)
        self._require_space(packed + max(packed, made.size_bytes if made else 0))

        def check() -> None:
            if stop.is_set() or self._link.closed:
                raise _GivenUp("its build needs it no more")
            if time.monotonic() - began > longest:
                raise _GivenUp(f"it takes more than {longest:g} s, as long as to make it")

        # What breaks off continues for as long.
        server = replace(self._link.reading.server, say=lambda _: check())
        registry = replace(self._link.reading, server=server)

        def receive(blob: BlobOf, file: IO[bytes]) -> None:
            for piece in registry.get_blob(blob.digest, blob.size_bytes):
                check()
                file.write(piece)
            file.flush()
            file.seek(0)

        for blob in shared.packages:
            fetch_package(self._stores, blob, receive)
        with self._stores.blobs.aside() as file:
            receive(shared.packed, file)
            check()
            expected = ExpectedLayer(
                *(key, shared.parent or None, shared.content, backend, products),
                max(LEAST_PULL_SECONDS, began + longest - time.monotonic()),
                self._settings().min_free_bytes,
            )
            self._stores.privileged.unpack_layer(file.fileno(), expected)
        self._link.succeeded("layers", "come")
        seconds = round(time.monotonic() - began, 1)
        logger.info("layer came from the registry", layer=key, build=shared.build, seconds=seconds)
        return True

    def _is_believed(self, shared: SharedLayer) -> bool:
        """Whether a layer that no event names may be used; see the module."""
        return not self._host and not self._log.known_builds([shared.build])

    def _require_space(self, size_bytes: int) -> None:
        settings = self._settings()
        free = shutil.disk_usage(settings.state_dir).free
        if free < size_bytes + settings.min_free_bytes:
            raise _GivenUp("there is no space for it")

    async def offer(self, digests: Sequence[str], locked: Locked | None) -> bool:
        if not self._host or self._link.is_quiet:
            return False
        began = time.monotonic()

        def check() -> None:
            if self._link.closed or time.monotonic() > began + OFFER_SECONDS:
                raise _GivenUp("nobody waits for it any more")

        given = self._link.offering, self._stores, digests, locked, check
        try:
            await asyncio.wait_for(self._apart(send_inputs, *given), OFFER_SECONDS)
        except (DcdError, OSError, TimeoutError) as error:
            self._link.failed("captured files are not shared", "", error)
            return False
        return True

    async def fetch(self, digests: Sequence[str], locked: Locked | None) -> bool:
        given = self._link.reading, self._stores, digests, locked, self._require_space
        if not self._host:
            return True
        try:
            await self._apart(fetch_inputs, *given)
        except (_GivenUp, Broken, OSError) as error:
            self._link.report(f"captured files of a build do not come: {error}")
            return False
        except (DcdError, BadManifest) as error:
            self._link.failed("captured files of a build are refused", "", error)
        return True

    async def collect(self) -> int:
        if self._link.is_quiet:
            return 0
        return await self._apart(self._collect_quietly)

    def _collect_quietly(self) -> int:
        try:
            return sum(1 for _ in self._collect())
        except (DcdError, OSError) as error:
            self._link.failed("shared layers are not removed", "", error)
            return 0

    def _collect(self) -> Iterator[str]:
        """Remove the layers that builds of this log have shared and that none of it names any more. Those of
        other logs are left to their servers."""
        tags = self._link.reading.tags()
        keys = {tag: key for tag in tags if (key := key_of_tag(tag))}
        named = self._log.known_keys(sorted(set(keys.values())))
        for tag, key in keys.items():
            if key in named:
                continue
            found = self._link.reading.get_manifest(tag)
            try:
                maker = read_manifest(found[1]).build if found else ""
            except BadManifest:
                continue
            if found is None or not self._log.known_builds([maker]):
                continue
            if not self._link.writing.delete_manifest(found[0]):
                self._link.report("the registry deletes nothing (storage.delete.enabled)")
                return
            logger.info("shared layer removed", layer=key, build=maker)
            yield key
        if self._host:
            for digest in self._unneeded(tags):
                self._link.writing.delete_manifest(digest)

    def _unneeded(self, tags: Sequence[str]) -> Iterator[str]:
        """The digests of the manifests of captured files and outputs that no build of the farm names."""
        named = self._log.inputs() | self._log.resolved_lists()
        yield from unneeded_inputs(self._link.reading, tags, named)
        outputs = {tag: build for tag in tags if (build := build_of_tag(tag))}
        removed = self._log.removed_among(set(outputs.values()))
        for tag, build in outputs.items():
            if build in removed and (digest := self._link.reading.digest_of(tag)):
                yield digest


class _GivenUp(DcdError):
    """A layer is not moved, and nothing is wrong."""


def _sha256(file: IO[bytes]) -> str:
    found = hashlib.sha256()
    while piece := file.read(1 << 20):
        found.update(piece)
    return found.hexdigest()
