"""A real receiver of webhooks, and a log with builds to tell it of."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from statemachine.events import (
    Actor,
    BuildCompleted,
    BuildStarted,
    BuildSubmitted,
    Payload,
)
from statemachine.keys import chain
from statemachine.plan import PlannedCheckpoint
from store.eventlog import EventLog, SqliteLog

KEY = b"a key of at least sixteen bytes"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ACTOR = Actor(1000, 1000, 4711, "ada")


class Delivery(NamedTuple):
    """A request as it arrived."""

    path: str
    headers: dict[str, str]
    content: bytes

    @property
    def body(self) -> Any:
        return msgspec.json.decode(self.content)

    @property
    def kind(self) -> str:
        return str(self.body["event"]["type"])


class Receiver:
    """An HTTP server that records deliveries. `answers` says how to answer the next ones, then 200: a status;
    `hang` until the end of the test; `redirect`; `garbage`; a function, called before a 200."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.answers: list[int | str | Callable[[], None]] = []
        self.arrived = threading.Condition()
        self.over = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["content-length"]))
                names = {name.lower(): value for name, value in self.headers.items()}
                with receiver.arrived:
                    receiver.deliveries.append(Delivery(self.path, names, content))
                    answer = receiver.answers.pop(0) if receiver.answers else 200
                    receiver.arrived.notify_all()
                if answer == "hang":
                    receiver.over.wait(60)
                elif answer == "garbage":
                    self.wfile.write(b"\x00" * 100)
                elif answer == "redirect":
                    self.send_response(302)
                    self.send_header("location", f"{receiver.url}/followed")
                    self.end_headers()
                else:
                    if callable(answer):
                        answer()
                    self.send_response(answer if isinstance(answer, int) else 200)
                    self.end_headers()

            do_GET = do_POST  # noqa: N815 - a followed redirect would be one

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def wait(self, count: int, seconds: float = 60.0) -> list[Delivery]:
        """The deliveries, once there are so many."""
        with self.arrived:
            enough = self.arrived.wait_for(lambda: len(self.deliveries) >= count, seconds)
        assert enough, self.deliveries
        return list(self.deliveries)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.over.set()
    receiver.server.shutdown()
    receiver.server.server_close()


@pytest.fixture
def second_receiver() -> Iterator[Receiver]:
    yield from receiver.__wrapped__()  # type: ignore[attr-defined]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.touch(0o600)
    path.write_bytes(KEY + b"\n")
    return path


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    (tmp_path / "events").mkdir()
    with SqliteLog(tmp_path / "events" / "events.db") as opened:
        yield opened


def append(log: EventLog, build: str, *payloads: Payload) -> None:
    events = log.read(build)
    log.append(build, len(events), payloads, ACTOR, NOW).result(timeout=30)


def complete(log: EventLog, build: str, name: str = "live") -> None:
    """A build of one checkpoint from beginning to end, with a secret in its manifest."""
    plan = chain([PlannedCheckpoint("c", "", "m", "C", "", ())])
    submitted = BuildSubmitted(
        name, "<dc>hunter2</dc>", "/m.xml", plan, parameters={"p": "hunter2"}
    )
    append(log, build, submitted, BuildStarted(), BuildCompleted(3.0))
