"""`python -m dcd.launcher FD`: the process of the launcher.

FD is its end of a socket pair with the daemon's main process, over which come the connected sockets of
conversations, one each. A thread serves each: it reads one request, an object with `operation` and
`arguments`, and replies. The first operation is `prepare`, which the main process sends at its start. What
is malformed, unknown or out of bounds is refused and logged, and stops nothing.

The process ends when the daemon's end of the pair closes, and all workers end with it. A parent-death signal
would not do: the kernel does not let the main process, without rights, signal this one. It ignores signals,
which are for the daemon.
"""

import contextlib
import os
import signal
import socket
import stat
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, get_type_hints

from dcd.launcher.namespaced import NamespacedWorkers
from dcd.launcher.operations import Operations
from dcd.launcher.orders import Asked, AttemptOrder, Prepared, Setup
from dcd.launcher.planners import run_planners
from dcd.launcher.portable import PortableWorkers
from dcd.launcher.preparation import prepare
from dcd.launcher.workers import Finished, Output, Workers, environment, run_worker
from dcd.launcher.zygote import Zygote
from dcd.worker.kinds import Kind
from statemachine.errors import DcdError, PermissionDenied, UsageError
from store.host.conversation import Ended, encoded, receive, send
from store.host.listening import Listener, Place
from store.host.plain import from_plain
from store.host.system_paths import code_places
from store.layers import Layers

MOST = 512
"""The maximum number of conversations at once."""

OPERATIONS = (
    *("commit", "publish", "write", "remove_results", "marker", "close_shell", "release"),
    *(
        "secret_digests",
        "allows_host_code",
        "examine_host",
        "host_labels",
        "reload",
        "remove_package",
        "sign",
    ),
    *("compare_layers", "take_over", "content_of", "place_of"),
)
"""The methods of `Operations` that may be requested."""

WITH_DESCRIPTOR = {"pack_layer": "sink", "unpack_layer": "source", "adopt_package": "source"}
"""Those that need a descriptor, and the argument that it becomes."""

LAYERS = (
    *("prepare", "begin", "branch", "release", "find", "stale", "touch", "document", "remove"),
    *("layers", "stale_layers", "workspaces", "reconcile", "check"),
)
"""The methods of `store.layers.Layers` that may be requested, of the back end that the argument `backend`
names."""

BEFORE_ATTEMPTS = ("find", "begin", "branch")
"""Those of them that show that an attempt may follow."""


class Launcher:
    """The state of the process: what it was prepared with, and the daemon's socket."""

    def __init__(self) -> None:
        self._setup: Setup | None = None
        self._operations: Operations | None = None
        self._zygote: Zygote | None = None
        self._workers: Workers = PortableWorkers()
        self._listener: Listener | None = None
        self._free = threading.BoundedSemaphore(MOST)
        self._binding = threading.Lock()

    def serve(self, control: socket.socket) -> None:
        """Serve conversations until the daemon ends."""
        while True:
            data, descriptors, _, _ = socket.recv_fds(control, 1, 4)
            if not data:
                return
            if self._free.acquire(blocking=False):
                try:
                    (descriptor,) = descriptors
                    connection = socket.socket(fileno=descriptor)
                    threading.Thread(target=self._converse, args=(connection,), daemon=True).start()
                    continue
                except (OSError, RuntimeError, ValueError) as error:
                    self._free.release()
                    _log("refused a conversation", reason=str(error))
            else:
                _log("refused a conversation", reason=f"there are {MOST}")
            for descriptor in descriptors:
                with contextlib.suppress(OSError):
                    os.close(descriptor)

    def _converse(self, connection: socket.socket) -> None:
        """Serve one conversation. Whatever happens in it, the process continues."""
        descriptors: list[int] = []
        try:
            with connection:
                try:
                    request, descriptors = receive(connection)
                    reply = {"result": self._carry_out(connection, request, descriptors)}
                except ValueError as error:
                    _log("refused a request", reason=str(error))
                    reply = {
                        "error": encoded(UsageError("the launcher refuses a request", str(error)))
                    }
                except DcdError as error:
                    if isinstance(error, PermissionDenied | UsageError):
                        _log("refused a request", reason=str(error).replace("\n", "; "))
                    reply = {"error": encoded(error)}
                except OSError as error:
                    reply = {"error": encoded(error)}
                send(connection, reply)
        except (Ended, OSError):
            pass  # nobody waits for the reply
        except Exception:  # noqa: BLE001 - a defect in one request does not end other builds
            traceback.print_exc()
        finally:
            for descriptor in descriptors:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
            self._free.release()

    def _carry_out(self, connection: socket.socket, request: Any, descriptors: list[int]) -> Any:
        """The result of a request. Raises ValueError for what is none, and the errors of the operation."""
        if not isinstance(request, dict) or set(request) != {"operation", "arguments"}:
            raise ValueError("a request has an operation and arguments")
        name, arguments = request["operation"], request["arguments"]
        if not isinstance(name, str) or not isinstance(arguments, dict):
            raise ValueError("an operation is text and its arguments have names")
        if name == "prepare":
            return self._prepare(from_plain(Setup, arguments))
        operations, setup = self._operations, self._setup
        if operations is None or setup is None:
            raise ValueError(f"{name} before the launcher is prepared")
        match name:
            case "attempt":
                messages = _only(descriptors)
                return _attempt(operations, self._workers, connection, arguments, messages)
            case "planners":
                asked = from_plain(Asked, arguments).paths
                configured = (*operations.bounds.paths, *code_places(operations.bounds.modules))
                return run_planners(connection, setup, configured, asked, _only(descriptors))
            case "listen":
                return self._listen(connection, setup)
            case "is_reachable":
                return self._listener is not None and self._listener.is_reachable()
            case "stop_listening" if self._listener is not None:
                return self._listener.remove()
            case _ if name in WITH_DESCRIPTOR:
                given = {**arguments, WITH_DESCRIPTOR[name]: _stream(descriptors)}
                return _called(getattr(operations, name), given)
            case _ if name in OPERATIONS:
                return _called(getattr(operations, name), arguments)
        start, _, method = name.partition(".")
        if start == "layers" and method in LAYERS:
            if method in BEFORE_ATTEMPTS and self._zygote is not None:
                self._zygote.expect()
            store = _back_end(operations, arguments.pop("backend", None))
            return _called(getattr(store, method), arguments, getattr(Layers, method))
        raise ValueError(f"there is no operation {name[:100]!r}")

    def _prepare(self, setup: Setup) -> Prepared:
        if self._setup is not None:
            raise ValueError("the launcher is prepared already")
        self._setup = setup
        self._operations, prepared = prepare(setup)
        if prepared.worker == Kind.NAMESPACES:
            self._zygote = Zygote(environment())
            self._workers = NamespacedWorkers(self._zygote)
        return prepared

    def _listen(self, connection: socket.socket, setup: Setup) -> None:
        """Bind the daemon's socket, and hand it over."""
        with self._binding:  # which changes the mask of new files for a moment
            listener = Listener(Place(setup.socket, setup.socket_mode, setup.socket_gid))
            self._listener = listener
        with listener.socket:
            send(connection, {"result": None}, [listener.socket.fileno()])


def _attempt(
    operations: Operations,
    workers: Workers,
    connection: socket.socket,
    arguments: dict[str, Any],
    messages: int,
) -> Finished:
    try:
        if not stat.S_ISFIFO(os.fstat(messages).st_mode):
            # A directory would lead out of the worker's view.
            raise ValueError("the messages of an attempt go through a pipe")
        order = from_plain(AttemptOrder, arguments)
        request = operations.attempt(order)
    except BaseException:
        os.close(messages)
        raise
    completed = False
    try:
        log = operations.logs.path(order.build, order.checkpoint, order.attempt)
        output = Output(log, operations.gid)
        ended = run_worker(connection, request, output, messages, workers, operations.groups)
        completed = ended.status == 0
        return ended
    finally:
        operations.ended(request, completed=completed)


def _back_end(operations: Operations, name: object) -> Layers:
    for store in (operations.layers, *operations.retired):
        if store.name == name:
            return store
    raise ValueError("there is no such back end of layers")


def _only(descriptors: list[int]) -> int:
    """The one descriptor of a request, which then belongs to the operation."""
    if len(descriptors) != 1:
        raise ValueError("the operation needs one descriptor")
    return descriptors.pop()


def _stream(descriptors: list[int]) -> int:
    """The one descriptor of a request, if it is a stream of bytes: to write to other things can need rights
    that the main process does not have."""
    kinds = (stat.S_ISREG, stat.S_ISFIFO, stat.S_ISSOCK)
    if len(descriptors) != 1 or not any(kind(os.fstat(descriptors[0]).st_mode) for kind in kinds):
        raise ValueError("the operation needs one descriptor, of a file, a pipe or a socket")
    return descriptors[0]


def _called(
    method: Callable[..., Any],
    arguments: dict[str, Any],
    described: Callable[..., Any] | None = None,
) -> Any:
    """The result of a method with arguments of its types. Raises ValueError for others."""
    hints = get_type_hints(described or method)
    hints.pop("return", None)
    if set(hints) != set(arguments):
        raise ValueError(f"the arguments are {sorted(hints)}, not {sorted(arguments)}")
    found = method(**{name: from_plain(hints[name], value) for name, value in arguments.items()})
    return list(found) if hasattr(found, "__next__") else found


def _log(what: str, **details: object) -> None:
    told = " ".join(f"{name}={value!r}" for name, value in details.items())
    print(f"dcd launcher: {what} {told}", file=sys.stderr, flush=True)


def main(control: int) -> None:
    """Serve until the daemon ends; see the module."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    Launcher().serve(socket.socket(fileno=control))
    # Past the threads: a worker ends with the thread that started it.
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
