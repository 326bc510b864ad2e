"""Requests to a server that products or layers are in, with bounded retries.

A request that is not answered in time, breaks off, or is answered by 429 or 5xx is sent again after a pause,
a few times; then it is the error Broken. Every other answer that its caller does not expect is a
CheckpointError. Pieces of files are streamed, and read anew for each try. A long answer is streamed too, by
one request: its reader knows from where another one continues. A connection serves the next request when its
answer was read to the end.

The time for an answer grows with what has come of it, so a server that sends a byte now and then holds nobody
longer than one that sends nothing.
"""

import select
import socket
import ssl
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from statemachine.errors import CheckpointError

PAUSES = (1.0, 3.0, 7.0)
"""Seconds between the tries of a request."""

MOST_IDLE = 4
"""How many connections to a server are kept."""

SLOWEST_BYTES = 64 << 10
"""In a second: a server that sends less is given up, after the timeout of a request."""

MOST_ANSWER_BYTES = 8 << 20
_LEAST_SECONDS = 0.001
_CHUNK_BYTES = 1 << 20
_SHOWN = 500


class Broken(CheckpointError):
    """A server that cannot be reached, does not answer in time, breaks off or is out of order. It may work
    later."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a file, or of `content`."""

    path: Path
    offset: int
    size_bytes: int
    content: bytes | None = None

    def chunks(self) -> Iterator[bytes]:
        """Its content. Raises CheckpointError when the file is shorter."""
        left = self.size_bytes
        if self.content is not None:
            yield self.content[self.offset : self.offset + left]
            return
        with self.path.open("rb") as file:
            file.seek(self.offset)
            while left:
                chunk = file.read(min(left, _CHUNK_BYTES))
                if not chunk:
                    raise CheckpointError(f"{self.path.name} became shorter while it was sent")
                left -= len(chunk)
                yield chunk


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request; the names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Texts:
    """What errors say about a server for its purpose: what it does not do, and what to do when it does not
    work, refuses the credentials, or does not have the place."""

    failing: str
    not_working: str
    no_credentials: str
    no_place: str


class Idle:
    """Connections that wait for the next request to their server, at most so many; threads do not share
    one."""

    def __init__(self, most: int = MOST_IDLE) -> None:
        self._most = most
        self._found: dict[tuple[str, str], list[HTTPConnection]] = {}

    def take(self, scheme: str, host: str) -> HTTPConnection | None:
        """A connection that its server has not closed."""
        found = self._found.get((scheme, host), [])
        while found:
            with suppress(IndexError):  # another thread took the last one
                connection = found.pop()
                # Nothing is asked, so what can be read is the end of the connection.
                if connection.sock and not _is_readable(connection.sock):
                    return connection
                connection.close()
        return None

    def keep(self, scheme: str, host: str, connection: HTTPConnection) -> None:
        """Keep a connection whose last answer was read to its end."""
        found = self._found.setdefault((scheme, host), [])
        if len(found) < self._most:
            found.append(connection)
        else:
            connection.close()


def _is_readable(connection: socket.socket) -> bool:
    ready = select.poll()  # select() has no room for the descriptors of a busy daemon
    ready.register(connection, select.POLLIN)
    return bool(ready.poll(0))


class _Timed(RawIOBase):
    """What comes from a connection. There are `seconds` to wait for it, and more with each byte, up to these
    again: the timeout of a socket alone begins anew with each byte."""

    def __init__(self, connection: socket.socket, raw: RawIOBase, seconds: float) -> None:
        self._connection, self._raw = connection, raw
        self._seconds = self._left = seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        began = time.monotonic()
        self._connection.settimeout(max(self._left, _LEAST_SECONDS))
        count = self._raw.readinto(buffer)
        self._left += (count or 0) / SLOWEST_BYTES - (time.monotonic() - began)
        self._left = min(self._left, self._seconds)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


def _timed(seconds: float) -> type[HTTPResponse]:
    """A class of answers that come as `_Timed` says."""

    class Timed(HTTPResponse):
        def __init__(self, connection: socket.socket, *given: Any, **named: Any) -> None:
            super().__init__(connection, *given, **named)
            self.fp = BufferedReader(_Timed(connection, self.fp.detach(), seconds))

    return Timed


PUBLISHING = Texts(
    "does not take what is published",
    "nothing is visible there of what is incomplete; when the server works again, dcctl retry "
    "continues with what it does not have yet",
    "correct the secret that `credentials` names, or have its user be allowed to write there",
    "create it, or correct its name in the manifest",
)


@dataclass(frozen=True, slots=True)
class Server:
    """A server: scheme, host and port; `timeout_seconds` for each step of a request, and how long an answer
    may be slower than `SLOWEST_BYTES`. `say` reports retries, `pauses` are those between tries, `texts` are
    those of errors."""

    scheme: str
    host: str
    timeout_seconds: float = 60.0
    say: Callable[[str], None] = lambda _: None
    pauses: tuple[float, ...] = field(default_factory=lambda: PAUSES)
    texts: Texts = PUBLISHING
    idle: Idle = field(default_factory=Idle)

    def send(
        self,
        method: str,
        target: str,
        headers: Callable[[], Mapping[str, str]],
        body: bytes | Piece = b"",
        *,
        ok: Collection[int] = (200,),
        once: bool = False,
    ) -> Answer:
        """Send a request for `target`, a path with its query. `headers` are made anew for each try. With
        `once` it is not sent again. Raises CheckpointError for an answer with another status than `ok`."""
        problem = ""
        pauses = () if once else self.pauses
        for pause in (*pauses, None):
            try:
                answer = self._sent(method, target, headers(), body)
            except ERRORS as error:
                problem, answer = _named(error), None
            if answer is not None:
                if answer.status in ok:
                    return answer
                problem = f"it answers {answer.status}: {_text(answer.body)}"
                if not _may_work_later(answer.status):
                    raise self._refused(method, target, answer)
            if pause is None:
                break
            self.say(
                f"{self.host}: {problem.splitlines()[0][:_SHOWN]}; trying again in {pause:g} s"
            )
            time.sleep(pause)
        raise self._failed(method, target, problem, len(pauses) + 1)

    @contextmanager
    def streamed(
        self, target: str, headers: Mapping[str, str], *, ok: Collection[int]
    ) -> Iterator[tuple[Answer, Iterator[bytes]]]:
        """The answer to one GET, whose body comes in pieces. They end early when the connection breaks off
        without an error. Raises CheckpointError as `send`, for the pieces too."""
        with ExitStack() as stack:
            try:
                response = stack.enter_context(self._answered("GET", target, headers, b""))
                refused = response.status not in ok
                answer = _answer(response, response.read(MOST_ANSWER_BYTES) if refused else b"")
            except ERRORS as error:
                raise self._failed("GET", target, _named(error), 1) from error
            if refused:
                problem = f"it answers {answer.status}: {_text(answer.body)}"
                if _may_work_later(answer.status):
                    raise self._failed("GET", target, problem, 1)
                raise self._refused("GET", target, answer)
            yield answer, self._pieces(target, response)

    def _pieces(self, target: str, response: HTTPResponse) -> Iterator[bytes]:
        try:
            # What has come, however little: its reader has a deadline of its own.
            while piece := response.read1(_CHUNK_BYTES):
                yield piece
        except ERRORS as error:
            raise self._failed("GET", target, _named(error), 1) from error

    def _sent(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | Piece
    ) -> Answer:
        with self._answered(method, target, headers, body) as response:
            return _answer(response, response.read(MOST_ANSWER_BYTES))

    @contextmanager
    def _answered(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | Piece
    ) -> Iterator[HTTPResponse]:
        connection = self.idle.take(self.scheme, self.host) or self._connection()
        if connection.sock:
            connection.sock.settimeout(self.timeout_seconds)
        connection.response_class = _timed(self.timeout_seconds)
        size = body.size_bytes if isinstance(body, Piece) else len(body)
        kept = False
        try:
            connection.putrequest(method, target, skip_accept_encoding=True, skip_host=True)
            for name, value in {"host": self.host, **headers}.items():
                connection.putheader(name, value)
            if size or method in ("PUT", "POST", "PATCH"):
                connection.putheader("Content-Length", str(size))
            connection.endheaders()
            for chunk in body.chunks() if isinstance(body, Piece) else [body] if body else []:
                connection.send(chunk)
            response = connection.getresponse()
            yield response
            if response.length == 0:
                response.read()  # only this notices that all has come
            kept = response.isclosed() and not response.will_close
        finally:
            if kept:
                self.idle.keep(self.scheme, self.host, connection)
            else:
                connection.close()

    def _connection(self) -> HTTPConnection:
        if self.scheme == "http":
            return HTTPConnection(self.host, timeout=self.timeout_seconds)
        context = ssl.create_default_context()
        return HTTPSConnection(self.host, timeout=self.timeout_seconds, context=context)

    def _failed(self, method: str, target: str, problem: str, tries: int) -> Broken:
        return Broken(
            f"{self.host} {self.texts.failing}",
            f"{method} {target.partition('?')[0]}: {problem} (tried {tries} times)",
            self.texts.not_working,
        )

    def _refused(self, method: str, target: str, answer: Answer) -> CheckpointError:
        where = f"{method} {target.partition('?')[0]}: {answer.status} {_text(answer.body)}".strip()
        if answer.status in (401, 403):
            return CheckpointError(
                f"{self.host} refuses the credentials ({answer.status})",
                where,
                self.texts.no_credentials,
            )
        if answer.status == 404:
            return CheckpointError(
                f"{self.host} does not have the place (404)",
                where,
                self.texts.no_place,
            )
        return CheckpointError(f"{self.host} refuses a request ({answer.status})", where)


def server_of(url: str, timeout_seconds: float, say: Callable[[str], None]) -> tuple[Server, str]:
    """The server of a URL, and the path in it, without a slash at its end."""
    parts = urlsplit(url)
    return Server(parts.scheme, parts.netloc, timeout_seconds, say), parts.path.rstrip("/")


ERRORS = (OSError, HTTPException, ValueError)
"""How requests fail."""


def _may_work_later(status: int) -> bool:
    """Whether a request that was answered like that may succeed when it is sent again."""
    return status == 429 or status >= 500


def _named(error: Exception) -> str:
    if isinstance(error, ValueError):
        # Its text has the header, and so a login or a token.
        return "the name of the host or a header is impossible"
    return f"{type(error).__name__}: {error}"


def _answer(response: HTTPResponse, body: bytes) -> Answer:
    found = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, found, body)


def _text(body: bytes) -> str:
    return " ".join(body[:_SHOWN].decode("utf-8", "replace").split())
