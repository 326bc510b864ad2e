"""The main process's side of the launcher: its start, and its operations as objects.

Each call is a conversation over a socket of its own, so slow operations do not wait for each other. Blocking;
safe for several threads.
"""

import contextlib
import os
import socket
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from dcd.launcher.orders import Asked, AttemptOrder, Prepared, Setup
from statemachine.errors import Unavailable
from statemachine.plan import Inputs
from statemachine.results import Artifact
from store.host.conversation import Ended, gone, receive, result_of, send
from store.host.interpreter import module_command, module_environment
from store.host.plain import as_plain, from_plain
from store.layers import Check, ExpectedLayer, Layer, LayerRecord, Layers, Workspace
from store.layers.comparison import LayerDifferences

T = TypeVar("T")

END_SECONDS = 5.0
"""The time for the launcher to end with the daemon."""


class Privileged(Protocol):
    """What the engine has others do that have the rights for it: `dcd.launcher.operations` describes the
    methods."""

    @property
    def layers(self) -> Layers:
        """The layers in use."""
        ...

    @property
    def retired(self) -> Sequence[Layers]:
        """Back ends used earlier that still have files."""
        ...

    def commit(self, name: str, record: LayerRecord, document: str | None) -> Layer: ...

    def take_over(self, record: LayerRecord, source: str, inputs: Inputs, name: str) -> Layer: ...

    def publish(self, build: str, artifact: Artifact, key: str) -> Artifact: ...

    def write(self, build: str, name: str, file_format: str, content: str) -> Artifact: ...

    def sign(self, build: str, name: str) -> tuple[Artifact, ...]: ...
    def compare_layers(self, first: str, second: str, most: int) -> LayerDifferences: ...

    def content_of(self, key: str) -> str: ...

    def pack_layer(self, key: str, sink: int) -> None: ...

    def unpack_layer(self, source: int, expected: ExpectedLayer) -> Layer: ...

    def place_of(self, key: str) -> str: ...

    def remove_results(self, build: str) -> None: ...

    def remove_package(self, sha256: str) -> None: ...

    def adopt_package(self, sha256: str, source: int) -> None: ...

    def marker(self, build: str, name: str) -> str: ...

    def close_shell(self, build: str, name: str) -> None: ...

    def release(self, kind: str, name: str) -> None: ...

    def secret_digests(self, names: tuple[str, ...]) -> dict[str, str]: ...

    def allows_host_code(self) -> bool: ...

    def examine_host(self) -> list[dict[str, str]]: ...

    def host_labels(self) -> list[str]: ...

    def start_worker(self, order: AttemptOrder, messages: int) -> socket.socket:
        """Start the worker of an attempt, whose messages go to a descriptor that stays open here. Returns
        the conversation, from which its end comes (`dcd.launcher.workers`)."""
        ...


class Launcher:
    """The process of the launcher, as its parent uses it. Implements `Privileged`."""

    def __init__(self) -> None:
        self._control, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self.process = _started(other)
        self._layers: Layers | None = None
        self.retired: Sequence[Layers] = ()

    def prepare(self, setup: Setup) -> Prepared:
        """Make the state directory ready. Raises DcdError and OSError."""
        prepared = self._call(Prepared, "prepare", **as_plain(setup))
        place = setup.state_dir / "layers"
        self._layers = RemoteLayers(self, prepared.backend, place / prepared.backend)
        self.retired = tuple(RemoteLayers(self, name, place / name) for name in prepared.retired)
        return prepared

    def fileno(self) -> int:
        """The descriptor that is readable when the launcher has ended."""
        return self._control.fileno()

    def close(self) -> None:
        """End the process."""
        self._control.close()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            # This process may have no right to kill it. The next launcher waits for its end.
            with contextlib.suppress(PermissionError):
                self.process.kill()

    @property
    def layers(self) -> Layers:
        assert self._layers is not None
        return self._layers

    def commit(self, name: str, record: LayerRecord, document: str | None) -> Layer:
        return self._call(Layer, "commit", name=name, record=record, document=document)

    def take_over(self, record: LayerRecord, source: str, inputs: Inputs, name: str) -> Layer:
        given = {"record": record, "source": source, "inputs": inputs, "name": name}
        return self._call(Layer, "take_over", **given)

    def publish(self, build: str, artifact: Artifact, key: str) -> Artifact:
        return self._call(Artifact, "publish", build=build, artifact=artifact, key=key)

    def write(self, build: str, name: str, file_format: str, content: str) -> Artifact:
        given = {"build": build, "name": name, "file_format": file_format, "content": content}
        return self._call(Artifact, "write", **given)

    def sign(self, build: str, name: str) -> tuple[Artifact, ...]:
        return self._call(tuple[Artifact, ...], "sign", build=build, name=name)

    def compare_layers(self, first: str, second: str, most: int) -> LayerDifferences:
        given = {"first": first, "second": second, "most": most}
        return self._call(LayerDifferences, "compare_layers", **given)

    def content_of(self, key: str) -> str:
        return self._call(str, "content_of", key=key)

    def pack_layer(self, key: str, sink: int) -> None:
        self._call_with(sink, "pack_layer", key=key)

    def unpack_layer(self, source: int, expected: ExpectedLayer) -> Layer:
        return from_plain(Layer, self._call_with(source, "unpack_layer", expected=expected))

    def place_of(self, key: str) -> str:
        return self._call(str, "place_of", key=key)

    def remove_results(self, build: str) -> None:
        self.call("remove_results", build=build)

    def remove_package(self, sha256: str) -> None:
        self.call("remove_package", sha256=sha256)

    def adopt_package(self, sha256: str, source: int) -> None:
        self._call_with(source, "adopt_package", sha256=sha256)

    def marker(self, build: str, name: str) -> str:
        return self._call(str, "marker", build=build, name=name)

    def close_shell(self, build: str, name: str) -> None:
        self.call("close_shell", build=build, name=name)

    def release(self, kind: str, name: str) -> None:
        self.call("release", kind=kind, name=name)

    def secret_digests(self, names: tuple[str, ...]) -> dict[str, str]:
        return dict(self.call("secret_digests", names=names))

    def allows_host_code(self) -> bool:
        return bool(self.call("allows_host_code"))

    def examine_host(self) -> list[dict[str, str]]:
        """The checks of `dcd doctor`, with root's rights."""
        return list(self.call("examine_host"))

    def host_labels(self) -> list[str]:
        """The labels of this host (`dcd.platform.host_labels`)."""
        return list(self.call("host_labels"))

    def reload(self) -> None:
        """Have the settings read again."""
        self.call("reload")

    def start_worker(self, order: AttemptOrder, messages: int) -> socket.socket:
        return self._started("attempt", order, messages)

    def start_planners(self, control: int, asked: tuple[Path, ...]) -> socket.socket:
        """Start a process that forks planners, with its end of a socket, which stays open here. Returns the
        conversation: it ends with that process."""
        return self._started("planners", Asked(asked), control)

    def _started(self, operation: str, arguments: object, descriptor: int) -> socket.socket:
        connection = self._converse()
        try:
            send(connection, {"operation": operation, "arguments": arguments}, [descriptor])
            _answer(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _call(self, kind: type[T], operation: str, **arguments: Any) -> T:
        return from_plain(kind, self.call(operation, **arguments))

    def call(self, operation: str, **arguments: Any) -> Any:
        """The plain result of an operation. Raises its error."""
        return self.call_for_descriptors(operation, **arguments)[0]

    def call_for_descriptors(
        self, operation: str, *given: int, **arguments: Any
    ) -> tuple[Any, list[int]]:
        """The same with the descriptors that come with it. Those that are `given` stay open here."""
        with self._converse() as connection:
            with contextlib.suppress(BrokenPipeError):
                send(connection, {"operation": operation, "arguments": arguments}, given)
            return _answer(connection)

    def _call_with(self, descriptor: int, operation: str, **arguments: Any) -> Any:
        return self.call_for_descriptors(operation, descriptor, **arguments)[0]

    def _converse(self) -> socket.socket:
        mine, its = socket.socketpair()
        with its:
            try:
                socket.send_fds(self._control, [b"C"], [its.fileno()])
            except OSError as error:
                mine.close()
                raise gone("the launcher") from error
        return mine


def _started(control: socket.socket) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*module_command("dcd.launcher"), str(control.fileno())],
        env={**os.environ, **module_environment()},
        cwd="/",
        stdin=subprocess.DEVNULL,
        pass_fds=(control.fileno(),),
        start_new_session=True,
    )


def _answer(connection: socket.socket) -> tuple[Any, list[int]]:
    try:
        reply, descriptors = receive(connection)
    except (Ended, ConnectionError):
        raise gone("the launcher") from None
    return result_of(reply), descriptors


@dataclass(frozen=True, slots=True)
class RemoteLayers:
    """The layers of a back end, in the launcher. Implements `Layers`."""

    launcher: Launcher
    name: str
    directory: Path

    def prepare(self) -> None:
        self._call("prepare")

    def begin(self, parent: str | None, name: str) -> Workspace:
        return from_plain(Workspace, self._call("begin", parent=parent, name=name))

    def branch(self, source: str, name: str) -> Workspace:
        return from_plain(Workspace, self._call("branch", source=source, name=name))

    def release(self, name: str) -> None:
        self._call("release", name=name)

    def find(self, key: str) -> Layer | None:
        found = self._call("find", key=key)
        return None if found is None else from_plain(Layer, found)

    def stale(self, key: str) -> bool:
        return bool(self._call("stale", key=key))

    def check(self, key: str, whole: bool, idle: bool, expected: str) -> Check:
        given = {"key": key, "whole": whole, "idle": idle, "expected": expected}
        return from_plain(Check, self._call("check", **given))

    def touch(self, key: str) -> None:
        self._call("touch", key=key)

    def document(self, key: str) -> str | None:
        found = self._call("document", key=key)
        return None if found is None else str(found)

    def remove(self, key: str) -> None:
        self._call("remove", key=key)

    def layers(self) -> Sequence[Layer]:
        return [from_plain(Layer, each) for each in self._call("layers")]

    def stale_layers(self) -> Sequence[Layer]:
        return [from_plain(Layer, each) for each in self._call("stale_layers")]

    def workspaces(self) -> Sequence[tuple[str, int]]:
        return [(name, size_bytes) for name, size_bytes in self._call("workspaces")]

    def reconcile(self, known_keys: Collection[str], living: Collection[str]) -> Sequence[str]:
        given = {"known_keys": sorted(known_keys), "living": sorted(living)}
        return list(self._call("reconcile", **given))

    def _call(self, method: str, **arguments: Any) -> Any:
        return self.launcher.call(f"layers.{method}", backend=self.name, **arguments)


class Planners:
    """A process that forks planners, which the launcher has started. A `dcd.planner.process.Process`."""

    def __init__(self, launcher: Launcher, control: int, asked: tuple[Path, ...]) -> None:
        self._conversation = launcher.start_planners(control, asked)

    def end(self) -> None:
        """Wait until it has ended; the launcher kills it when that takes too long."""
        with self._conversation, contextlib.suppress(Ended, OSError):
            self._conversation.shutdown(socket.SHUT_WR)
            receive(self._conversation)


class Listening:
    """The daemon's socket, which the launcher binds."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        _, descriptors = launcher.call_for_descriptors("listen")
        if len(descriptors) != 1:
            raise Unavailable("the launcher has not handed over the daemon's socket")
        self.socket = socket.socket(fileno=descriptors[0])

    def is_reachable(self) -> bool:
        """Whether the file at the path belongs to this socket."""
        return bool(self._launcher.call("is_reachable"))

    def remove(self) -> None:
        """Remove the file, unless it belongs to another socket now."""
        self._launcher.call("stop_listening")
