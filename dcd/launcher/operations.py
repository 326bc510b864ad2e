"""The operations that the launcher carries out, each a method.

The arguments come from a process that may be under an attacker's control. Names are checked by pattern, here
and in the stores; below the state directory only root may change the directories that they are looked up in
(`dcd.launcher.preparation`), so no name leads anywhere else. An in-process engine, as in tests, uses this
class directly. Blocking; safe for several threads.
"""

import base64
import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import subprocess
import sys
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dcd.launcher.bounds import check_names, granted
from dcd.launcher.orders import AttemptOrder, Bounds, Signing, bounds_of
from dcd.launcher.signatures import signatures
from dcd.platform import resources
from dcd.platform.control_group import Delegated
from dcd.worker.kinds import AUTO
from dcd.worker.recover import detach_loops, kill_leftovers
from dcd.worker.request import Grants, WorkerRequest
from statemachine.errors import DcdError, NotFound, PermissionDenied, Refused, UsageError
from statemachine.plan import Inputs
from statemachine.results import Artifact
from store.artifacts import Artifacts
from store.host.interpreter import module_command, module_environment
from store.host.mounts import file_system_of
from store.host.regular import open_regular, read_regular
from store.host.secret_files import MAX_BYTES, PREFIX, secret_file
from store.layers import ExpectedLayer, Layer, LayerRecord, LayerStore, Workspace
from store.layers.comparison import LayerDifferences, compare_layers
from store.layers.content import CONTENT, MOST_PACKED_BYTES
from store.layers.stream import pack, unpack
from store.layers.takeover import take_over
from store.logs import AttemptLogs
from store.packages import Lent, Packages

SHELL = re.compile(r"shell-[0-9a-f]{16}")
"""The names of shells' workspaces."""

AS_ORDERED = (
    *(
        "build",
        "checkpoint",
        "attempt",
        "mod_path",
        "checkpoint_class",
        "args",
        "kwargs",
        "manifest",
    ),
    *("manifest_path", "places", "environment", "external", "network", "stage"),
    *("below", "handed"),
    *("host_files", "products", "artifacts", "locked", "variation"),
)
"""The fields of a worker's request that are as the main process orders them. The launcher finds or bounds the
others."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_BUILD = re.compile(r"[A-Za-z0-9_-]{1,64}")
_EXAMINATION_SECONDS = 60


@dataclass(slots=True)
class Operations:
    """See the module. `state_id` marks what belongs to the state directory, `key` is the key of digests of
    secrets, `retired` are back ends used earlier that still have files, `gid` is the group that may read
    logs, `worker` the setting of that name."""

    layers: LayerStore
    artifacts: Artifacts
    logs: AttemptLogs
    blobs: Path
    packages: Packages
    state_id: str
    key: bytes = b""
    retired: tuple[LayerStore, ...] = ()
    bounds: Bounds = field(default_factory=Bounds)
    groups: Delegated | None = None
    gid: int = -1
    settings_command: tuple[str, ...] = ()
    worker: str = AUTO
    signing: Signing = field(default_factory=Signing)
    _taking_in: dict[str, threading.Thread] = field(default_factory=dict, init=False)
    """By build: what takes in the packages of its last completed attempt."""

    def commit(self, name: str, record: LayerRecord, document: str | None) -> Layer:
        """Turn an open workspace into the layer `record.key`, with the DOC's persistent part as XML text
        (None: unchanged), and its artifacts ready to be published without a copy. Raises NotFound,
        Refused, DiskFull, and DcdError when the package store lacks a file that the list `record.resolved`
        names as captured."""

        def require_packages() -> None:
            self._wait_for_packages(record.made_by)
            if record.resolved:
                self.packages.require(record.resolved)

        workspace = self.layers.hold(name)
        try:
            for artifact in record.artifacts:
                if (file := self.layers.own_file(workspace, artifact.path)) is not None:
                    self.artifacts.adopt(file)
            return self.layers.commit(workspace, record, document, require_packages)
        finally:
            self.layers.let_go(name)

    def take_over(self, record: LayerRecord, source: str, inputs: Inputs, name: str) -> Layer:
        """Make the layer `record.key` from the result `source` on another layer, in a workspace of that name.
        Raises Refused with the reason when its inputs differ; NotFound, DiskFull, OSError."""
        return take_over(self.layers, record, source, inputs, name)

    def publish(self, build: str, artifact: Artifact, key: str) -> Artifact:
        """Publish a declared artifact of the layer `key`. Returns it with its path. Raises NotFound,
        UsageError, DiskFull."""
        with self.layers.lent(key, artifact.path) as source:
            return self.artifacts.publish(_build(build), artifact, source)

    def write(self, build: str, name: str, file_format: str, content: str) -> Artifact:
        """Publish a text as an artifact. Raises UsageError, DiskFull."""
        return self.artifacts.write(_build(build), name, file_format, content.encode())

    def sign(self, build: str, name: str) -> tuple[Artifact, ...]:
        """Sign the statements about the published artifacts of a build named `name`, and publish the
        signatures. Returns them; none without a key. Raises PermissionDenied, BadKey, DiskFull."""
        return tuple(signatures(self.artifacts, self.signing, _build(build), name))

    def compare_layers(self, first: str, second: str, most: int) -> LayerDifferences:
        """The differences between the contents of the layers of two keys, at most `most` of them."""
        found = [self.layers.find(key) for key in (first, second)]
        if found[0] is None or found[1] is None:
            return LayerDifferences((), 0, "a layer was removed")
        differences = compare_layers(found[0].directory, found[1].directory, most)
        path = next((one.path for one in differences.files if "content" in one.kinds), None)
        if path is None:
            return differences
        with contextlib.suppress(NotFound, ValueError):
            example = tuple(str(self.layers.file(key, path)) for key in (first, second))
            return replace(differences, example=example)
        return differences

    def pack_layer(self, key: str, sink: int) -> None:
        """Write the layer of that key as one stream to a descriptor, of a regular file, a pipe or a socket,
        which blocks and stays open. Raises NotFound; Refused for a layer that cannot be moved; Unprepared
        when the host lacks zstd(1), or nobody takes the stream."""
        self._require_sharing()
        pack(self.layers, key, sink)

    def unpack_layer(self, source: int, expected: ExpectedLayer) -> Layer:
        """Make the layer from a stream that `pack_layer` wrote, read from a descriptor as there. A layer that
        exists with this content is returned without reading. Raises Refused, leaving nothing, for another
        layer than expected, and for a stream that is damaged or holds what no layer can; NotFound without
        the parent; DiskFull; Unprepared; DcdError when the package store lacks a file of its list."""
        self._require_sharing()
        if (layer := self.layers.find(expected.key)) is not None:
            return _as_expected(layer, expected)
        workspace = self.layers.begin(expected.parent, f"unpacking-{secrets.token_hex(8)}")
        try:
            self.layers.hold(workspace.name)
            try:
                record = unpack(workspace, source, expected)
            finally:
                self.layers.let_go(workspace.name)
            made = self.commit(workspace.name, replace(record, brought=True), None)
            return _as_expected(made, expected)
        finally:
            self.layers.release(workspace.name)

    def _require_sharing(self) -> None:
        if not self.bounds.shares_layers:
            raise PermissionDenied(
                "the launcher refuses to hand out layers, and to take any",
                "this server shares none: the setting farm_registry is empty",
            )

    def place_of(self, key: str) -> str:
        """The back end and the file system of the layer `key`, for people; "" without one."""
        if (layer := self.layers.find(key)) is None:
            return ""
        return f"{layer.directory.parent.name} on {file_system_of(layer.directory).type}"

    def content_of(self, key: str) -> str:
        """The content manifest of the layer `key` as it is stored, compressed, in base64; "" without one."""
        if (layer := self.layers.find(key)) is None:
            return ""
        try:
            packed = read_regular(layer.directory / CONTENT, MOST_PACKED_BYTES)
        except OSError:
            return ""
        return base64.b64encode(packed).decode()

    def remove_results(self, build: str) -> None:
        """Remove the artifacts and logs of a build, if there are any."""
        self.artifacts.remove(_build(build))
        self.logs.remove(_build(build))

    def attempt(self, order: AttemptOrder) -> WorkerRequest:
        """The request to the worker of an attempt, within the bounds, with its places prepared. Until `ended`
        the attempt has its workspace to itself. Raises PermissionDenied, NotFound, Refused, DiskFull."""
        check_names(order)
        self._wait_for_packages(order.build)
        grants = granted(order, self.bounds)
        workspace = self.layers.hold(order.workspace)
        try:
            return self._request(order, grants, workspace)
        except BaseException:
            self.layers.let_go(workspace.name)
            raise

    def _request(self, order: AttemptOrder, grants: Grants, workspace: Workspace) -> WorkerRequest:
        evidence = self.logs.begin(order.build, order.checkpoint, order.attempt, self.gid)
        return WorkerRequest(
            **{name: getattr(order, name) for name in AS_ORDERED},
            state_id=self.state_id,
            layers=workspace.place,
            workspace=workspace,
            evidence=evidence,
            inputs={path: self._blob(digest) for path, digest in order.inputs.items()},
            allowed=self.bounds.modules,
            packages=self.packages.lend(workspace.name, order.capture) if order.packages else None,
            resolved=tuple(
                self.packages.path(name) for name in order.resolved if self.packages.has(name)
            ),
            grants=grants,
            portable=self.bounds.portable,
        )

    def ended(self, request: WorkerRequest, *, completed: bool = False) -> None:
        """Take back what an attempt had, whatever its outcome, when all its processes have ended. Packages
        that it has downloaded are kept; the build does not depend on it. Those of a completed one are taken
        in while its layer is described; `commit` and the next attempt of the build wait for that."""
        self.layers.let_go(request.workspace.name)
        if request.packages is None:
            return
        if not completed:
            self._take_in(request.packages)
            return
        taking = threading.Thread(target=self._take_in, args=(request.packages,), daemon=True)
        taking.start()
        self._taking_in[request.build] = taking

    def _take_in(self, lent: Lent) -> None:
        try:
            self.packages.take_in(lent)
        except OSError as error:
            print(f"dcd launcher: packages are not kept: {error}", file=sys.stderr, flush=True)

    def _wait_for_packages(self, build: str) -> None:
        """Wait until what an attempt of the build has downloaded is in the package store, or cannot be."""
        if (taking := self._taking_in.get(build)) is not None:
            taking.join()
            self._taking_in.pop(build, None)

    def remove_package(self, sha256: str) -> None:
        """Remove a package from the store if it exists."""
        self.packages.remove(sha256)

    def adopt_package(self, sha256: str, source: int) -> None:
        """Put what comes from a descriptor, which stays open, into the package store. Raises DcdError for
        another digest, DiskFull."""
        if not _DIGEST.fullmatch(sha256):
            raise UsageError(f"{sha256!r} is not a sha256")
        with os.fdopen(os.dup(source), "rb") as content:
            self.packages.adopt(content, sha256)

    def _blob(self, digest: str) -> Path:
        """A captured file. The main process owns these files; the worker looks again at what it shows."""
        path = self.blobs / digest
        try:
            open_regular(path).close()
        except OSError as error:
            raise NotFound(
                f"the captured file {digest} cannot be read",
                str(error),
                "submit the build again; in a farm, `dcctl resume BUILD` on the member that it was submitted"
                " to offers its files to the others again",
            ) from error
        return path

    def marker(self, build: str, name: str) -> str:
        """The mark of the processes of a shell in an open workspace of that name."""
        if not SHELL.fullmatch(name):
            raise UsageError(f"{name!r} is not the workspace of a shell")
        return f"{self.state_id}:{_build(build)}:{name}:0"

    def close_shell(self, build: str, name: str) -> None:
        """End the remaining processes of a shell and remove its workspace. Idempotent."""
        kill_leftovers(self.marker(build, name))
        with contextlib.suppress(NotFound):
            detach_loops(self.layers.opened(name).directory)
        self.layers.release(name)

    def release(self, kind: str, name: str) -> None:
        """Release a claimed resource. Raises DcdError."""
        if kind not in resources.RELEASE or not resources.is_claimed_name(kind, name):
            raise UsageError(
                f"the launcher refuses to release {kind} {name!r}", "it is not a claim's name"
            )
        resources.release(kind, name)

    def secret_digests(self, names: tuple[str, ...]) -> dict[str, str]:
        """The keyed digests of secrets, files or variables; of those that exist. Source: RFC 2104."""
        contents = {name: _secret(name) for name in names}
        return {
            name: hmac.new(self.key, content, hashlib.sha256).hexdigest()
            for name, content in contents.items()
            if content is not None
        }

    def allows_host_code(self) -> bool:
        """Whether code of users may run outside images."""
        return self.bounds.host_code

    def examine_host(self) -> list[Any]:
        """The checks of `dcd doctor`, which this process only passes on."""
        place = str(self.layers.directory.parents[1])
        command = (*module_command("dcd.main"), "doctor", "--json", "--state-dir", place)
        command += ("--worker", self.worker)
        if self.signing.key:
            command += ("--signing-key", self.signing.key)
        return list(_printed(command)["checks"])

    def host_labels(self) -> list[Any]:
        """The labels of this host, as a program prints them."""
        return list(_printed((*module_command("dcd.platform.host_labels"),)))

    def reload(self) -> None:
        """Read the settings again. Raises DcdError when they are invalid; then they stay as they are."""
        if self.settings_command:
            settings = _printed(self.settings_command)
            found = bounds_of(
                lambda name: settings[name]["value"],
                private=self.bounds.private,
                hidden=tuple(p for p in self.bounds.hidden if p not in self.bounds.keys),
                keys=self.bounds.keys,
            )
            # The kind of workers changes with a restart only.
            self.bounds = replace(found, portable=self.bounds.portable)


def _printed(command: tuple[str, ...]) -> Any:
    done = subprocess.run(
        command,
        env={**os.environ, **module_environment()},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_EXAMINATION_SECONDS,
        check=False,
    )
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise DcdError(f"{command[2]} failed", done.stderr.strip()) from None


def _as_expected(layer: Layer, expected: ExpectedLayer) -> Layer:
    if layer.record.content != expected.content:
        raise Refused(
            f"layer {expected.key} is not taken from another host",
            "there is one with other content here already",
        )
    return layer


def _build(name: str) -> str:
    if not _BUILD.fullmatch(name):
        raise UsageError(f"{name!r} is not the id of a build")
    return name


def _secret(name: str) -> bytes | None:
    if name.startswith(PREFIX):
        value = os.environ.get(name)
        return None if value is None else value.encode("utf-8", "surrogateescape")
    try:
        with open_regular(secret_file(Path(name))) as file:
            return file.read(MAX_BYTES + 1)
    except (DcdError, OSError):
        return None
