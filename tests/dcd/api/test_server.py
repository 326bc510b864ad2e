"""Clients that do not behave, over the real socket: each is bounded, and others are not hurt."""

import json
import socket
import time
from http.client import parse_headers

import pytest

pytestmark = pytest.mark.root


@pytest.fixture
def impatient(cold_daemon):
    """A daemon with short limits."""
    cold_daemon.settings |= {
        "request_timeout_seconds": 1.0,
        "send_timeout_seconds": 1.0,
        "idle_timeout_seconds": 1.0,
        "body_limit_bytes": 65536,
    }
    return cold_daemon.start()


@pytest.fixture
def connect(impatient):
    """Connections to the daemon, closed afterwards."""
    opened = []

    def connect() -> socket.socket:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.settimeout(20)
        client.connect(str(impatient.socket))
        opened.append(client)
        return client

    yield connect
    for client in opened:
        client.close()


def everything(client: socket.socket) -> bytes:
    """All that comes until the daemon closes the connection."""
    received = b""
    try:
        while chunk := client.recv(65536):
            received += chunk
    except ConnectionResetError:
        pass
    return received


def test_connection_without_a_request_is_closed(impatient, connect):
    assert everything(connect()) == b""


def test_client_that_drips_its_headers_is_cut_off(impatient, connect):
    client = connect()
    with pytest.raises(OSError):
        for letter in b"GET /v1/version HTTP/1.1\r\nHost: dcd\r\nX-Slow: " + b"x" * 1000:
            client.sendall(bytes([letter]))
            time.sleep(0.05)
    impatient.ctl("version")


def test_client_that_drips_its_body_is_told_and_cut_off(impatient, connect):
    client = connect()
    client.sendall(b"POST /v1/validate HTTP/1.1\r\nHost: dcd\r\nContent-Length: 1000\r\n\r\n")
    client.settimeout(0.05)
    answer = b""
    for _ in range(100):
        try:
            client.sendall(b" ")
            answer += client.recv(65536)
        except TimeoutError:
            continue
        except OSError:
            break
        if answer:
            break
    assert b" 408 " in answer.splitlines()[0]


def test_headers_over_the_limit_are_refused(impatient, connect):
    client = connect()
    client.sendall(b"GET /v1/version HTTP/1.1\r\nHost: dcd\r\nX-Large: " + b"x" * 100_000 + b"\r\n")
    assert b" 400 " in everything(client).splitlines()[0]


def test_body_over_the_limit_is_refused_before_it_is_read_whole(impatient, connect):
    client = connect()
    client.sendall(b"POST /v1/validate HTTP/1.1\r\nHost: dcd\r\nContent-Length: 1073741824\r\n\r\n")
    answer = b""
    try:
        for _ in range(1000):
            client.sendall(b"x" * 65536)
    except OSError:
        pass
    answer = everything(client)
    assert answer == b"" or b" 413 " in answer.splitlines()[0]
    impatient.ctl("version")


def test_follower_that_never_reads_is_cut_off_and_does_not_hold_up_the_build(
    impatient, connect, write_manifest
):
    noisy = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo line $i; done"
    manifest = write_manifest(*((f"step{n}", noisy) for n in range(6)))
    build = impatient.submit(manifest)
    followers = [connect() for _ in range(20)]
    for client in followers:
        client.sendall(
            f"GET /v1/builds/{build}/events HTTP/1.1\r\nHost: dcd\r\n"
            "Accept: text/event-stream\r\n\r\n".encode()
        )

    assert impatient.wait(build, "completed")["state"] == "completed"


def test_socket_is_for_its_owner_and_group_alone(impatient):
    assert impatient.socket.stat().st_mode & 0o777 == 0o660


def test_stale_socket_of_a_killed_daemon_is_replaced(impatient):
    impatient.kill()
    assert impatient.socket.exists()

    impatient.start()

    assert json.loads(impatient.ctl("version", "--json"))


def test_second_daemon_on_the_same_state_directory_is_refused(impatient):
    first = impatient.process
    impatient.spawn()
    second = impatient.process
    assert second.wait(30) == 9
    assert "another dcd uses" in impatient.log.read_text()

    impatient.process = first
    impatient.ctl("version")


def test_every_answer_names_the_version_of_the_daemon_and_of_its_api(impatient, connect):
    for path, status in (("/v1/version", b"200"), ("/v2/builds", b"404")):
        client = connect()
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: dcd\r\nConnection: close\r\n\r\n".encode())
        head, _, body = everything(client).partition(b"\r\n\r\n")
        lines = head.lower().splitlines()
        assert status in lines[0]
        assert b"dcd-api: v1" in lines
        assert any(line.startswith(b"dcd-version: ") for line in lines)
    assert b"with API v1" in body


def test_a_small_body_that_nobody_reads_costs_no_connection_and_a_large_one_does(
    impatient, connect
):
    for length, closes in ((1000, False), (50_000_000, True)):
        client = connect()
        head = f"POST /v1/nothing HTTP/1.1\r\nHost: dcd\r\nContent-Length: {length}\r\n\r\n"
        client.sendall(head.encode())
        stream = client.makefile("rb")
        assert stream.readline().startswith(b"HTTP/1.1 404 ")
        headers = parse_headers(stream)
        assert stream.read(int(headers["content-length"]))
        assert (headers.get("connection", "") == "close") is closes
        if not closes:
            client.sendall(b"x" * length + b"GET /v1/version HTTP/1.1\r\nHost: dcd\r\n\r\n")
            assert stream.readline().startswith(b"HTTP/1.1 200 ")


def test_a_request_with_two_ends_is_refused_and_what_follows_is_not_taken_for_a_request(connect):
    client = connect()
    client.sendall(
        b"POST /v1/validate HTTP/1.1\r\nHost: dcd\r\nContent-Length: 4\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        b"GET /v1/version HTTP/1.1\r\nHost: dcd\r\n\r\n"
    )
    answer = everything(client)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"either Content-Length or Transfer-Encoding" in answer


def test_a_client_that_sends_no_more_gets_the_answers_to_what_it_has_sent(connect):
    client = connect()
    asked = b"GET /v1/version HTTP/1.1\r\nHost: dcd\r\n\r\n"
    doctor = b"GET /v1/checkpoint-types HTTP/1.1\r\nHost: dcd\r\n\r\n"
    client.sendall(asked + doctor + asked)
    client.shutdown(socket.SHUT_WR)
    assert everything(client).count(b"HTTP/1.1 200 ") == 3


@pytest.mark.parametrize(
    "half",
    [b"GET /v1/ver", b"POST /v1/validate HTTP/1.1\r\nHost: dcd\r\nContent-Length: 9\r\n\r\n{"],
)
def test_half_a_request_is_answered_as_one_when_no_more_comes(impatient, connect, half):
    client = connect()
    client.sendall(half)
    client.shutdown(socket.SHUT_WR)
    assert everything(client).startswith(b"HTTP/1.1 400 ")


def test_a_follower_that_sends_no_more_is_still_told_and_noticed_when_it_leaves(
    impatient, connect, write_manifest
):
    build = impatient.submit(write_manifest(("one", "sleep 2"), ("two", "true")))
    client = connect()
    client.sendall(
        f"GET /v1/builds/{build}/events HTTP/1.1\r\nHost: dcd\r\n"
        "Accept: text/event-stream\r\n\r\n".encode()
    )
    client.shutdown(socket.SHUT_WR)
    assert b'"type":"BuildCompleted"' in everything(client)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/logs/one/1?offset=9007199254740991", b"200"),
        ("/logs/one/1?offset=99999999999999999999", b"400"),
        ("/logs/one/" + "9" * 300, b"404"),
        ("/logs/one/%D9%A1", b"404"),
        ("/events?after=" + "9" * 26, b"400"),
        ("/events?after=%D9%A3", b"400"),
    ],
)
def test_numbers_beyond_what_can_be_are_refused(impatient, connect, write_manifest, path, status):
    build = impatient.submit(write_manifest(("one", "echo said")))
    impatient.wait(build)
    client = connect()
    client.sendall(
        f"GET /v1/builds/{build}{path} HTTP/1.1\r\nHost: dcd\r\nConnection: close\r\n\r\n".encode()
    )
    assert everything(client).split()[1] == status


@pytest.mark.parametrize("last", [b"9" * 26, b"-1", b"x", b"1.5", b"\xd9\xa1"])
def test_a_stream_begins_after_a_position_only(impatient, connect, write_manifest, last):
    build = impatient.submit(write_manifest(("one", "true")))
    client = connect()
    client.sendall(
        f"GET /v1/builds/{build}/events HTTP/1.1\r\nHost: dcd\r\nConnection: close\r\n"
        "Accept: text/event-stream\r\nLast-Event-ID: ".encode()
        + last
        + b"\r\n\r\n"
    )
    assert everything(client).split()[1] == b"400"
