"""Talking to the daemon: HTTP/1.1 over its Unix socket, as described in docs/reference/api.md.

Each request has its own connection, so there is no state. Every failure, of the socket, of HTTP or
reported by the daemon as problem details (RFC 9457), becomes a `ClientError` with brief, details,
resolution and the exit code. This module does not print. `cli.stream` follows builds.
"""

import errno
import json
import os
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from cli.exit_codes import OF_FILES, PROBLEMS, ExitCode
from cli.version import difference

Json = Any
"""A decoded JSON value."""

ANSWER_SECONDS = 300.0
"""The longest operation is planning, which may query slow mirrors."""

CHUNK_BYTES = 64 * 1024

PAGE = 200
"""The number of builds in one response."""

FIRST_OWN_GROUP = 100
"""Lower ids are system groups (root, disk, shadow, sudo): membership grants more than a socket, so
joining one is never the remedy."""

UNIT_DIRECTORIES = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
SMF_MANIFEST = "/lib/svc/manifest/site/dcd.xml"
"""The service's description on a host where it is installed."""


class ClientError(Exception):
    """A failed command: what happened (brief), why (details), what to do (resolution).

    `kind` is the last part of the API's problem type and decides the exit code; `extra` holds the
    problem's further members (`diagnostics`, `missing`).
    """

    def __init__(
        self,
        kind: str,
        brief: str,
        details: str = "",
        resolution: str = "",
        extra: Mapping[str, Json] | None = None,
    ) -> None:
        super().__init__(brief)
        self.kind = kind
        self.brief = brief
        self.details = details
        self.resolution = resolution
        self.extra = dict(extra or {})

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of dcctl for this error."""
        return PROBLEMS.get(self.kind) or OF_FILES.get(self.kind, ExitCode.ERROR)

    @property
    def diagnostics(self) -> list[Json]:
        """The diagnostics of an invalid manifest."""
        return self.extra.get("diagnostics") or []


class Unreachable(ClientError):
    """No daemon answers, the connection was lost, or the daemon is overloaded. A later retry may
    succeed."""


def default_socket() -> str:
    """$DCD_SOCKET, or the socket of the service."""
    return os.environ.get("DCD_SOCKET") or service_socket()


def service_socket() -> str:
    """The path of the service's socket on this operating system."""
    run = "/var/run" if sys.platform == "sunos5" else "/run"
    return f"{run}/dcd/dcd.sock"


def build_path(build: str, *parts: str) -> str:
    """The path of a build's resource; `build` is an id or a prefix of one, as the user typed it."""
    return "/".join(["/v1/builds", *(quote(part, safe="") for part in (build, *parts))])


def request(
    socket_path: str,
    method: str,
    path: str,
    *,
    query: Mapping[str, str | int | None] | None = None,
    body: Json = None,
    timeout_seconds: float = ANSWER_SECONDS,
) -> Json:
    """Send a request and decode the JSON response.

    Query parameters that are None are omitted. Raises ClientError for every response that is not a
    success, or none within the time.
    """
    content = None if body is None else json.dumps(body).encode()
    headers = {} if content is None else {"Content-Type": "application/json"}
    with exchange(
        socket_path,
        method,
        path,
        query=query,
        content=content,
        headers=headers,
        timeout_seconds=timeout_seconds,
    ) as answer:
        text = answer.read()
    try:
        return json.loads(text)
    except ValueError:
        raise ClientError(
            "internal",
            f"the server on {socket_path} is not a dcd daemon",
            f"{method} {path} returned a response that is not JSON",
            "give the daemon's socket with --socket or $DCD_SOCKET",
        ) from None


def builds(
    socket_path: str, states: Iterable[str] = (), page: int = PAGE, group: str | None = None
) -> Iterator[Json]:
    """Summaries of the builds in these states (none: in any), of that group if given, newest first; requested
    by the `page`."""
    query: dict[str, str | int | None] = {"state": ",".join(states) or None, "limit": page}
    query["group"] = group
    while True:
        answer = request(socket_path, "GET", "/v1/builds", query=query)
        yield from answer["builds"]
        query["before"] = answer["next"]
        if answer["next"] is None:
            return


def read(
    socket_path: str, path: str, *, query: Mapping[str, str | int | None] | None = None
) -> Iterator[bytes]:
    """The chunks of a response that is not JSON, as they arrive."""
    with exchange(socket_path, "GET", path, query=query) as answer:
        while piece := answer.read1(CHUNK_BYTES):
            yield piece


def upload(socket_path: str, sha256: str, pieces: Iterable[bytes], size_bytes: int) -> None:
    """Store a captured input; `pieces` are the chunks of its `size_bytes` bytes, in order."""
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size_bytes)}
    path = f"/v1/blobs/{sha256}"
    with exchange(socket_path, "PUT", path, content=pieces, headers=headers) as answer:
        answer.read()


@contextmanager
def exchange(
    socket_path: str,
    method: str,
    path: str,
    *,
    query: Mapping[str, str | int | None] | None = None,
    content: bytes | Iterable[bytes] | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_seconds: float = ANSWER_SECONDS,
) -> Iterator[HTTPResponse]:
    """Send one request; yields its successful response, to be read inside the context."""
    given = {key: value for key, value in (query or {}).items() if value is not None}
    target = path + ("?" + urlencode(given) if given else "")
    connection = _UnixConnection(socket_path, timeout_seconds)
    try:
        try:
            connection.connect()
        except OSError as error:
            raise no_connection(socket_path, error) from None
        # Refused before the whole request was sent: the response, if any, says why.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, target, body=content, headers=dict(headers or {}))
        answer = connection.getresponse()
        if answer.status >= 400:
            raise _problem(answer)
        yield answer
    except TimeoutError:
        raise Unreachable(
            "unavailable",
            f"the daemon on {socket_path} does not answer",
            f"waited {timeout_seconds:g} seconds for {method} {path}",
            _look_at_service(socket_path),
        ) from None
    except (OSError, HTTPException) as error:
        raise Unreachable(
            "unavailable",
            f"lost the daemon on {socket_path}",
            f"during {method} {path}: {error or type(error).__name__}",
            _look_at_service(socket_path),
        ) from None
    finally:
        connection.close()


class _UnixConnection(HTTPConnection):
    def __init__(self, socket_path: str, timeout_seconds: float) -> None:
        super().__init__("localhost", timeout=timeout_seconds, blocksize=CHUNK_BYTES)
        self._socket_path = socket_path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._socket_path)


def _problem(answer: HTTPResponse) -> ClientError:
    text = answer.read()
    if answer.headers.get_content_type() != "application/problem+json":
        return ClientError(
            "internal",
            f"the daemon answered {answer.status} {answer.reason}",
            text.decode("utf-8", "replace")[:1000].strip(),
            difference(answer.headers),
        )
    problem: dict[str, Json] = json.loads(text)
    kind = str(problem.pop("type", "")).rpartition(":")[2]
    title, detail = problem.pop("title", ""), problem.pop("detail", "")
    resolution = problem.pop("resolution", "")
    if kind in ("usage", "internal") and (other := difference(answer.headers)):
        resolution = f"{resolution}\n{other}".strip()
    error = Unreachable if kind in ("unavailable", "too-many-requests") else ClientError
    return error(kind, title, detail, resolution, problem)


def no_connection(socket_path: str, error: OSError) -> ClientError:
    """The error of a connection that could not be made."""
    if error.errno in (errno.EACCES, errno.EPERM):
        brief = f"you do not have permission to connect to the daemon on {socket_path}"
        return ClientError("permission", brief, *_right_to_connect(socket_path))
    return Unreachable(
        "unavailable",
        f"cannot reach the daemon on {socket_path}",
        error.strerror or str(error),
        _look_at_service(socket_path),
    )


def _right_to_connect(socket_path: str) -> tuple[str, str]:
    """Who may connect to the socket, and how this user can."""
    gid, group = _group(socket_path)
    if gid < FIRST_OWN_GROUP:
        who = f"only group {group} has access to the socket"
        return (
            who if group else "you have no access to its directory",
            "run dcctl as the daemon's user, or ask an administrator to give the socket "
            "its own group (setting group)",
        )
    if gid in (os.getegid(), *os.getgroups()):
        return (
            f"you are in group {group}, but the mode of the socket or of its directory"
            " does not give the group access",
            "the daemon gives its own socket and directory to its group: restart it",
        )
    command = f" (usermod -a -G {group} {_user()})" if sys.platform == "linux" else ""
    return (
        f"only members of group {group} have access to the socket",
        f"ask an administrator of this host to add you{command}, then log in again",
    )


def _group(socket_path: str) -> tuple[int, str]:
    """The group of the socket, or of the directory that hides it; (-1, "") when that is hidden too."""
    for path in (Path(socket_path), Path(socket_path).absolute().parent):
        try:
            gid = path.stat().st_gid
        except OSError:
            continue
        try:
            return gid, path.group()
        except KeyError:
            return gid, str(gid)
    return -1, ""


def _user() -> str:
    import pwd  # only for this message

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _look_at_service(socket_path: str) -> str:
    """How to find out why no daemon answers. Names the service only if it is installed and the socket
    is the service's."""
    other = "for another daemon, use --socket PATH or $DCD_SOCKET"
    if socket_path == service_socket():
        if sys.platform == "sunos5" and Path(SMF_MANIFEST).exists():
            return f"svcs -x dcd says why; {other}"
        if any(Path(directory, "dcd.service").exists() for directory in UNIT_DIRECTORIES):
            return f"systemctl status dcd says why; {other}"
    return f"start one: dcd serve --socket {socket_path}; {other}"
