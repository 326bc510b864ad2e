"""Servers that answer what no server should: errors that say so, and no answer without end."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dcd.platform.publishing.http import Answer, Broken, Piece, Server
from dcd.platform.publishing.registry import PIECE_BYTES, Registry
from dcd.platform.publishing.s3 import Bucket
from statemachine.errors import CheckpointError

BLOB = Piece(Path(), 0, 3, b"abc")


class Hostile:
    """A server with the same answer to all requests of a method."""

    scheme, host, timeout_seconds = "https", "registry.example.org", 1.0
    pauses = ()

    def __init__(self, **answers: Answer) -> None:
        self.answers, self.requests = answers, 0

    def say(self, text: str) -> None:
        pass

    def send(
        self,
        method: str,
        target: str,
        headers: Callable[[], Mapping[str, str]],
        body: bytes | Piece = b"",
        **_: Any,
    ) -> Answer:
        self.requests += 1
        assert self.requests < 1000
        headers()
        return self.answers[method]


def registry(server: Any) -> Registry:
    return Registry(server, "app", ("me", "word"))


def answer(status: int, body: bytes = b"", **headers: str) -> Answer:
    return Answer(status, {name.replace("_", "-"): text for name, text in headers.items()}, body)


@pytest.mark.parametrize(
    "challenge",
    ["Bearer", 'Bearer realm="http://elsewhere.example/"', 'Bearer realm="https://[/"', "Bearer x"],
)
def test_a_login_elsewhere_is_refused(challenge: str) -> None:
    server = Hostile(HEAD=answer(401, www_authenticate=challenge))
    with pytest.raises(CheckpointError, match="wants the login"):
        registry(server).has_blob("sha256:a")


def test_an_address_that_is_none_is_an_error() -> None:
    server = Hostile(POST=answer(202, location="https://[/x"))
    with pytest.raises(CheckpointError, match="no address"):
        registry(server).put_blob("sha256:a", BLOB)


def test_a_registry_that_forgets_what_it_takes_is_left() -> None:
    server = Hostile(
        POST=answer(202, location="/upload"), PATCH=answer(202, location="/upload", range="0-0")
    )
    with pytest.raises(CheckpointError, match="does not keep"):
        registry(server).put_blob("sha256:a", replace(BLOB, size_bytes=PIECE_BYTES + 1))


def test_parts_without_end_or_number_are_left() -> None:
    text = b"""<l><IsTruncated>true</IsTruncated><NextPartNumberMarker>%s</NextPartNumberMarker>
        <Part><PartNumber>no</PartNumber><ETag>a</ETag></Part>
        <Part><PartNumber>7</PartNumber><ETag>"b"</ETag></Part></l>"""
    for marker in (b"7", b"99999999999", b"x"):
        server: Any = Hostile(GET=answer(200, text % marker))
        bucket = Bucket(server, "/b", "r", ("id", "secret"))
        assert bucket._parts("key", "upload") == {7: "b"}


def test_a_token_that_is_no_header_and_a_host_that_is_none_are_errors() -> None:
    for host, token in (("127.0.0.1:1", "secret\nb: c"), ("a..b", "secret")):
        server = Server("http", host, pauses=())
        with pytest.raises(CheckpointError, match="does not take") as failed:
            server.send("GET", "/", lambda token=token: {"Authorization": token})
        assert "secret" not in failed.value.details


class Counting(ThreadingHTTPServer):
    """A server that counts connections; `ends` are those that it closes after their next answer, without
    saying so."""

    connections = 0
    ends = 0

    def get_request(self) -> tuple[socket.socket, Any]:
        self.connections += 1
        return super().get_request()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Counting

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
        if self.server.ends:
            self.server.ends -= 1
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def test_a_connection_is_kept_for_the_next_request_until_its_server_closes_it() -> None:
    with Counting(("127.0.0.1", 0), Handler) as behind:
        threading.Thread(target=behind.serve_forever, daemon=True).start()
        server = Server("http", f"127.0.0.1:{behind.server_port}", pauses=())

        def put() -> None:
            assert server.send("PUT", "/", dict, BLOB).body == b"ok"

        for _ in range(5):
            put()
        assert behind.connections == 1
        behind.ends = 1
        put()
        time.sleep(0.05)
        put()
        assert behind.connections == 2
        with ThreadPoolExecutor(3) as threads:
            for done in [threads.submit(put) for _ in range(30)]:
                done.result()
        assert behind.connections <= 5
        behind.shutdown()


class Dripping(BaseHTTPRequestHandler):
    """It sends the headers, a body or the pieces of one without end, a byte now and then."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        begin = {
            "/headers": b"HTTP/1.1 200 OK\r\nX-Slow: ",
            "/body": b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
            "/pieces": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;",
        }
        self.wfile.write(begin[self.path])
        self.close_connection = True
        with suppress(OSError):
            for _ in range(1000):
                time.sleep(0.01)
                self.wfile.write(b"x")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def dripping() -> Iterator[Server]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Dripping) as behind:
        threading.Thread(target=behind.serve_forever, args=(0.01,), daemon=True).start()
        yield Server("http", f"127.0.0.1:{behind.server_port}", 0.1, pauses=())
        behind.shutdown()


@pytest.mark.parametrize("place", ["/headers", "/body", "/pieces"])
def test_a_server_that_sends_a_byte_now_and_then_is_given_up(dripping: Server, place: str) -> None:
    with pytest.raises(Broken, match="does not take"):
        dripping.send("GET", place, dict)
    with (
        pytest.raises(Broken, match="does not take"),
        dripping.streamed(place, {}, ok=(200,)) as (_, pieces),
    ):
        list(pieces)


class Elsewhere(BaseHTTPRequestHandler):
    """A registry that has its blobs at another address of this host."""

    protocol_version = "HTTP/1.1"
    server: Counting

    def do_GET(self) -> None:
        here = self.headers["host"].startswith("localhost")
        if not here and not self.headers["authorization"]:
            self.answer(401, b"", **{"WWW-Authenticate": "Basic"})
        elif not here:
            place = f"http://localhost:{self.server.server_port}/blob"
            self.answer(307, b"", Location=place)
        elif self.headers["authorization"]:
            self.answer(400, b"")
        else:
            self.answer(200, b"abc")

    def answer(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def test_a_place_elsewhere_gets_no_login_and_its_connection_is_not_kept() -> None:
    with Counting(("localhost", 0), Elsewhere) as behind:
        threading.Thread(target=behind.serve_forever, args=(0.01,), daemon=True).start()
        server = Server("http", f"127.0.0.1:{behind.server_port}", pauses=())
        client = registry(server)
        for _ in range(3):
            assert b"".join(client.get_blob(f"sha256:{sha256(b'abc').hexdigest()}", 3)) == b"abc"
        assert behind.connections == 1 + 3
        behind.shutdown()
