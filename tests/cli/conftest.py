"""A daemon for dcctl to talk to: a real HTTP server on a private Unix socket, standard library only.

It keeps builds whose events are the project's own types, streams them as docs/reference/api.md says, and
can be killed (every connection is cut, the socket file stays behind) and started again.
"""

import hashlib
import json
import shutil
import socket
import socketserver
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
import pytest

from cli.main import main
from statemachine import events as ev
from statemachine.plan import Plan, PlannedCheckpoint

BEGIN = datetime(2025, 1, 1, 12, 0, 0, tzinfo=UTC)

STATES = {
    "BuildStarted": "running",
    "PauseRequested": "pausing",
    "BuildPaused": "paused",
    "BuildResumed": "queued",
    "BuildFailed": "failed",
    "BuildCompleted": "completed",
    "CancelRequested": "cancelling",
    "BuildCancelled": "cancelled",
}
CHECKPOINT_STATES = {
    "CheckpointStarted": "running",
    "CheckpointCompleted": "completed",
    "CheckpointReused": "reused",
    "CheckpointFailed": "failed",
    "CheckpointInterrupted": "interrupted",
}
AT_REST = {"paused", "failed", "completed", "cancelled"}


class Request(NamedTuple):
    """A request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Answer = tuple[int, Any]
"""Status and JSON value; str or bytes are sent as text/plain."""


def problem(kind: str, status: int, title: str, **extra: Any) -> Answer:
    """An answer with problem details."""
    return status, {"type": f"urn:dcd:problem:{kind}", "title": title, "status": status, **extra}


class FakeBuild:
    """A build whose story a test tells, event by event."""

    def __init__(self, daemon: "FakeDaemon", identity: str, name: str, estimates: dict[str, float]):
        self.daemon = daemon
        self.id = identity
        self.events: list[dict[str, Any]] = []
        self.progress: tuple[int, dict[str, Any]] = (0, {})
        self.logs: dict[tuple[str, int], bytes] = {}
        self.files: dict[str, bytes] = {}
        self.view: dict[str, Any] = {
            "id": identity,
            "name": name,
            "state": "queued",
            "reason": "",
            "submitted_at": BEGIN.isoformat().replace("+00:00", "Z"),
            "updated_at": BEGIN.isoformat().replace("+00:00", "Z"),
            "actor": {"uid": 0, "gid": 0, "pid": 811, "user": "root"},
            "priority": 0,
            "pause_before": None,
            "parameters": {},
            "checkpoints": [
                {
                    "name": checkpoint,
                    "description": "",
                    "state": "pending",
                    "attempts": 0,
                    "key": "k" * 64,
                    "seconds": None,
                    "estimate_seconds": seconds,
                    "reused_from": None,
                    "error": None,
                    "warnings": [],
                    "variances": [],
                    "publications": [],
                    "base": "",
                    "grown_from": "",
                    "taken_from": "",
                    "elapsed_seconds": None,
                    "place": "",
                }
                for checkpoint, seconds in estimates.items()
            ],
            "artifacts": [],
            "error": None,
            "source_date_epoch": 0,
            "time_origin": "request",
            "manifest_path": "/m.xml",
            "inputs": [],
            "undelivered": [],
            "removed_at": None,
            "removed_by": None,
            "reproduces": "",
            "profiles": [],
            "fraction": 0.0,
            "elapsed_seconds": 0.0,
            "remaining_seconds": None,
            "group": "",
            "cell": {},
            "requires": ["amd64"],
            "host": "",
        }
        planned = tuple(
            PlannedCheckpoint(checkpoint, "", "dcd/x", "X", "k" * 64, (), estimate_seconds=seconds)
            for checkpoint, seconds in estimates.items()
        )
        self.tell(ev.BuildSubmitted(name, "<dc/>", "/m.xml", Plan(planned)))

    def tell(self, *payloads: ev.Payload) -> None:
        """Append events, and move the build's view accordingly."""
        with self.daemon.changed:
            for payload in payloads:
                self._append(payload)
            self.daemon.changed.notify_all()

    def write(self, checkpoint: str, content: bytes, attempt: int = 1) -> None:
        """Add to the log of an attempt."""
        with self.daemon.changed:
            key = (checkpoint, attempt)
            self.logs[key] = self.logs.get(key, b"") + content
            self.daemon.changed.notify_all()

    def report(self, checkpoint: str, fraction: float | None, message: str = "") -> None:
        """Broadcast progress."""
        data = {
            "checkpoint": checkpoint,
            "attempt": 1,
            "fraction": fraction,
            "message": message,
            "elapsed_seconds": 1.0,
            "estimate_seconds": 10.0,
            "build_fraction": 0.5,
        }
        with self.daemon.changed:
            self.progress = (self.progress[0] + 1, data)
            self.daemon.changed.notify_all()

    def _append(self, payload: ev.Payload) -> None:
        self.daemon.position += 1
        kind = type(payload).__name__
        event = ev.Event(
            position=self.daemon.position,
            build=self.id,
            sequence=len(self.events) + 1,
            type=kind,
            version=1,
            time=BEGIN + timedelta(seconds=self.daemon.position),
            actor=ev.Actor(0, 0, 811, "root"),
            data=payload,
            hash="h" * 64,
        )
        data = msgspec.json.decode(msgspec.json.encode(event))
        self.events.append(data)
        self.view["state"] = STATES.get(kind, self.view["state"])
        if kind == "BuildFailed":
            self.view["error"] = data["data"]["error"]
        if kind in CHECKPOINT_STATES:
            self._move(data["data"], CHECKPOINT_STATES[kind])

    def _move(self, data: dict[str, Any], state: str) -> None:
        for checkpoint in self.view["checkpoints"]:
            if checkpoint["name"] == data["checkpoint"]:
                checkpoint["state"] = state
                for field in ("attempts", "seconds", "reused_from", "error"):
                    name = "attempt" if field == "attempts" else field
                    checkpoint[field] = data.get(name, checkpoint[field])


class FakeDaemon:
    """The server, what it holds, and what it was asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.builds: dict[str, FakeBuild] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.headers: dict[str, str] = {}
        self.answers: dict[tuple[str, str], Answer | Callable[[Request], Answer]] = {}
        self.position = 0
        self.changed = threading.Condition()
        self.alive = False
        self.cut_streams_after: int | None = None
        """Cut each event stream after so many messages, as a dying daemon does."""
        self._server: _Server | None = None

    @property
    def socket(self) -> str:
        return str(self.path)

    def start(self) -> None:
        self.path.unlink(missing_ok=True)
        self._server = _Server(str(self.path), self)
        self.alive = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def kill(self) -> None:
        """Die like a killed process: connections break, the socket file stays."""
        server = self._server
        if server is None:
            return
        self._server = None
        self.alive = False
        with self.changed:
            self.changed.notify_all()
        server.shutdown()
        server.server_close()
        for connection in server.connections:
            with suppress(OSError):  # the client has hung up already
                connection.shutdown(socket.SHUT_RDWR)

    def build(
        self, identity: str = "k2p7abcd", name: str = "live", **estimates: float
    ) -> FakeBuild:
        """A queued build with these checkpoints (underscores stand for dashes)."""
        named = {key.replace("_", "-"): value for key, value in estimates.items()}
        self.builds[identity] = FakeBuild(self, identity, name, named or {"transfer-deb": 45.0})
        return self.builds[identity]

    def respond(self, request: Request) -> Answer:
        """The answer to a request that is not for a stream."""
        canned = self.answers.get((request.method, request.path))
        if callable(canned):
            return canned(request)
        if canned is not None:
            return canned
        match request.method, [unquote(part) for part in request.path.strip("/").split("/")[1:]]:
            case "PUT", ["blobs", digest]:
                if hashlib.sha256(request.body).hexdigest() != digest:
                    return problem("usage", 400, "the digest differs")
                self.blobs[digest] = request.body
                return 201, {}
            case "GET", ["builds", prefix, *rest]:
                if build := self.find(prefix):
                    return self._respond_for(build, rest, request)
                return problem("not-found", 404, f"there is no build {prefix}")
        return problem("not-found", 404, f"nothing at {request.path}")

    def find(self, prefix: str) -> FakeBuild | None:
        return next((build for name, build in self.builds.items() if name.startswith(prefix)), None)

    def _respond_for(self, build: FakeBuild, rest: list[str], request: Request) -> Answer:
        match rest:
            case []:
                return 200, build.view
            case ["events"]:
                after, limit = (
                    int(request.query.get("after", 0)),
                    int(request.query.get("limit", 2)),
                )
                page = [event for event in build.events if event["position"] > after][:limit]
                return 200, {"events": page, "next": page[-1]["position"] if page else None}
            case ["logs"]:
                logs = [
                    {
                        "checkpoint": checkpoint,
                        "attempt": attempt,
                        "path": f"/logs/{checkpoint}.{attempt}.log",
                        "size_bytes": len(content),
                    }
                    for (checkpoint, attempt), content in build.logs.items()
                ]
                return 200, {"logs": logs}
            case ["logs", checkpoint, attempt] if (checkpoint, int(attempt)) in build.logs:
                content = build.logs[checkpoint, int(attempt)]
                return 200, content[int(request.query.get("offset", 0)) :]
            case ["logs", _, _, "files"]:
                files = [
                    {
                        "name": name,
                        "size_bytes": len(content),
                        "changed_at": BEGIN.isoformat(),
                        "media_type": "image/png" if name.endswith(".png") else "text/plain",
                    }
                    for name, content in build.files.items()
                ]
                return 200, {"files": files, "running": False}
            case ["logs", _, _, "files", name]:
                return 200, build.files[name][int(request.query.get("offset", 0)) :]
            case ["artifacts"]:
                return 200, {"artifacts": build.view["artifacts"]}
        return problem("not-found", 404, f"nothing at {request.path}")


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, path: str, daemon: FakeDaemon) -> None:
        self.daemon = daemon
        self.connections: list[socket.socket] = []
        super().__init__(path, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.append(request)
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no error here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def handle_any(self) -> None:
        daemon = self.server.daemon
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        query = dict(parse_qsl(parts.query))
        request = Request(self.command, parts.path, query, dict(self.headers), body)
        daemon.requests.append(request)
        build = daemon.find(parts.path.split("/")[3]) if parts.path.endswith("/events") else None
        if query.get("follow") == "true":
            self._follow_log(request)
        elif build is not None and request.headers.get("Accept") == "text/event-stream":
            self._stream(build, int(request.headers.get("Last-Event-ID", 0)))
        else:
            self._send(*daemon.respond(request))

    do_GET = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815

    def log_message(self, *args: Any) -> None:
        """Silence."""

    def _send(self, status: int, value: Any) -> None:
        if isinstance(value, (str, bytes)):
            content = value.encode() if isinstance(value, str) else value
            kind = "text/plain"
        else:
            content = json.dumps(value).encode()
            kind = "application/json" if status < 400 else "application/problem+json"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, text in self.server.daemon.headers.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(content)

    def _follow_log(self, request: Request) -> None:
        """Send the log, then what is added, until its attempt has ended."""
        *_, identity, _, checkpoint, attempt = request.path.split("/")
        daemon, key = self.server.daemon, (checkpoint, int(attempt))
        build = daemon.builds[identity]
        offset = int(request.query.get("offset", 0))
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while daemon.alive:
            with daemon.changed:
                (item,) = [c for c in build.view["checkpoints"] if c["name"] == checkpoint]
                runs = (item["state"], item["attempts"]) == ("running", int(attempt))
                piece = build.logs.get(key, b"")[offset:]
                if not piece and runs:
                    daemon.changed.wait(0.2)
                    continue
            if piece:
                self._chunk(piece)
                offset += len(piece)
            elif not runs:
                self.wfile.write(b"0\r\n\r\n")
                return

    def _stream(self, build: FakeBuild, after: int) -> None:
        daemon = self.server.daemon
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._chunk(b": hello\n\n")
        sent, progress_seen = 0, 0
        while daemon.alive and daemon._server is self.server:
            with daemon.changed:
                events = [event for event in build.events if event["position"] > after]
                number, data = build.progress
                view = json.loads(json.dumps(build.view))
                at_rest = build.view["state"] in AT_REST
                if not events and not at_rest and number == progress_seen:
                    daemon.changed.wait(0.2)
                    continue
            if events:
                self._message("build", view, None)
            for event in events:
                if sent == daemon.cut_streams_after:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                after = event["position"]
                sent += 1
                self._message("event", event, after)
            if at_rest and not events:
                self.wfile.write(b"0\r\n\r\n")
                return
            if number != progress_seen and not events:
                progress_seen = number
                self._message("progress", data, None)

    def _message(self, kind: str, data: Any, position: int | None) -> None:
        identity = "" if position is None else f"id: {position}\n"
        self._chunk(f"event: {kind}\n{identity}data: {json.dumps(data)}\n\n".encode())

    def _chunk(self, content: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))
        self.wfile.flush()


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    """A running fake daemon; its socket's path is short, as the kernel wants it."""
    directory = Path(tempfile.mkdtemp(prefix="dcctl-"))
    directory.chmod(0o755)
    fake = FakeDaemon(directory / "s")
    fake.start()
    try:
        yield fake
    finally:
        fake.kill()
        shutil.rmtree(directory)


class Outcome(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def dcctl(
    daemon: FakeDaemon, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    """Run a command of dcctl in this process, against the fake daemon."""
    monkeypatch.setenv("DCD_SOCKET", daemon.socket)

    def run(*arguments: str) -> Outcome:
        try:
            code = main(arguments)
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run
