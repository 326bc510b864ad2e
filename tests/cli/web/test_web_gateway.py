"""`dcctl web` as programs see it: what a request must show, what is passed on, and that nothing is lost."""

import hashlib
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from cli import client
from tests.cli.web.conftest import Gateway, submit, writes

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'"
)
STATIC = Path(__file__).parents[3] / "cli" / "web" / "static"


def title(text: bytes) -> str:
    found: str = json.loads(text)["title"]
    return found


@pytest.mark.parametrize("path", ["/", "/static/js/main.js", "/v1/builds", "/nothing"])
def test_every_response_forbids_what_the_page_does_not_need(gateway, path):
    _, headers, _ = gateway(path)
    assert headers["content-security-policy"] == POLICY
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert "set-cookie" not in headers
    assert not [name for name in headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "0.0.0.0", "[::2]", ""],
)
@pytest.mark.parametrize("path", ["/", "/v1/builds"])
def test_a_name_that_leads_here_by_rebinding_is_refused(gateway, host, path):
    status, _, text = gateway(path, Host=host.format(port=gateway.port))
    assert (status, title(text)) == (421, "this address is not served here")


@pytest.mark.parametrize(
    "host", ["127.0.0.1:{port}", "localhost:{port}", "localhost:9", "[::1]:8000"]
)
def test_this_host_may_be_named_by_any_of_its_names_and_by_the_port_of_a_tunnel(gateway, host):
    assert gateway("/v1/whoami", Host=host.format(port=gateway.port))[0] == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1:{port}"]
)
def test_pages_of_other_sites_are_refused_by_their_origin(gateway, origin):
    origin = origin.format(port=gateway.port)
    assert gateway("/v1/whoami", Origin=origin)[0] == 403
    assert gateway("/web/downloads", "POST", Origin=origin, body={})[0] == 403
    assert gateway("/v1/whoami", Origin=gateway.base.rstrip("/"))[0] == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_pages_of_other_sites_are_refused_by_what_the_browser_says_of_them(gateway, site):
    for path in ("/v1/whoami", "/static/js/main.js", "/web/downloads/x", "/"):
        assert gateway(path, Sec_Fetch_Site=site)[0] == 403
    followed = {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert gateway("/", token=None, **followed)[0] == 200, "a link to the page is no use of it"


def test_without_the_token_there_is_only_the_page_itself(gateway, guest):
    assert gateway("/", token=None)[0] == 200
    for token in (None, "wrong", guest.token, gateway.token + "x"):
        for path in ("/v1/builds", "/v1/events", "/web/about"):
            status, headers, text = gateway(path, token=token)
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
            assert "address" in json.loads(text)["resolution"]
    assert gateway(f"/v1/builds?token={gateway.token}", token=None)[0] == 401
    assert gateway("/v1/builds", token=None, Cookie=f"token={gateway.token}")[0] == 401


def test_the_daemon_sees_the_user_who_runs_the_gateway(gateway, guest, completed):
    assert gateway.json("/v1/whoami")["user"] == "root"
    found = guest.json("/v1/whoami")
    assert (found["user"], found["roles"]) == ("nobody", ["observe"])
    assert guest.json("/v1/builds")["builds"]
    refused = guest.json(f"/v1/builds/{completed}", "DELETE", status=403)
    assert refused["type"] == "urn:dcd:problem:permission"
    assert guest.json("/v1/config", status=403)["resolution"]
    download = {"build": completed, "artifact": "image.bin"}
    assert guest.json("/web/downloads", "POST", body=download, status=403)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/builds"),
        ("POST", "/v1/builds/x/shell"),
        ("POST", "/v1/builds/x/../../reload"),
        ("POST", "/v1/builds/..%2f..%2freload/retry"),
        ("POST", "/v1/reload"),
        ("POST", "/v1/gc"),
        ("PUT", "/v1/blobs/x"),
        ("GET", "/v1/backup"),
        ("GET", "/v1/builds/x/export"),
        ("GET", "/v1/builds/../backup"),
        ("GET", "/v1/builds/%2e%2e/backup"),
        ("GET", "/static/../app.py"),
        ("GET", "/static/..%2fapp.py"),
    ],
)
def test_what_the_page_does_not_offer_is_not_passed_on(gateway, method, path):
    status, _, text = gateway(path, method)
    assert status in (404, 405), text


def test_requests_and_problems_of_the_daemon_pass_unchanged(gateway, web_daemon, completed):
    direct = client.request(str(web_daemon.socket), "GET", f"/v1/builds/{completed}")
    assert gateway.json(f"/v1/builds/{completed}") == direct
    missing = gateway.json("/v1/builds/nothing", status=404)
    assert (missing["type"], missing["title"]) == (
        "urn:dcd:problem:not-found",
        "there is no build nothing",
    )
    wrong = gateway.json("/v1/builds?limt=1", status=400)
    assert "did you mean limit?" in wrong["resolution"]


def test_a_download_link_works_once_and_without_the_token(gateway, completed):
    (artifact,) = [
        each
        for each in gateway.json(f"/v1/builds/{completed}/artifacts")["artifacts"]
        if each["name"] == "image.bin"
    ]
    request = {"build": completed, "artifact": "image.bin"}
    url = gateway.json("/web/downloads", "POST", status=201, body=request)["url"]

    assert gateway(url, "HEAD", token=None)[0] == 405, "to look is not to use it"
    status, headers, content = gateway(url, token=None)
    assert (status, headers["content-type"]) == (200, "application/octet-stream")
    assert headers["content-disposition"].startswith("attachment")
    assert hashlib.sha256(content).hexdigest() == artifact["sha256"]

    status, _, text = gateway(url, token=None)
    assert (status, title(text)) == (410, "this link has been used, or is older than a minute")
    assert gateway(url + "x", token=None)[0] == 410


def test_a_download_of_a_build_that_is_removed_is_an_error_and_one_under_way_is_not_disturbed(
    gateway, web_daemon, tmp_path
):
    deliver = '<arglist name="deliver"><argitem>{MEDIA_DIR}/large.bin</argitem></arglist>'
    build = submit(
        web_daemon, tmp_path, "head -c 30000000 /dev/zero > $MEDIA_DIR/large.bin", arguments=deliver
    )
    web_daemon.wait(build, "completed")
    request = {"build": build, "artifact": "large.bin"}
    begun, waiting = (
        gateway.json("/web/downloads", "POST", status=201, body=request)["url"] for _ in range(2)
    )
    with closing(HTTPConnection("127.0.0.1", gateway.port, timeout=30)) as connection:
        connection.request("GET", begun)
        answer = connection.getresponse()
        first = answer.read(1000)
        assert gateway.json(f"/v1/builds/{build}", "DELETE")["removed_at"]
        assert len(first) + len(answer.read()) == 30_000_000
    status, _, text = gateway(waiting, token=None)
    assert (status, json.loads(text)["type"]) == (410, "urn:dcd:problem:removed")
    gone = gateway.json("/web/downloads", "POST", status=410, body=request)
    assert gone["title"]


@pytest.mark.parametrize("body", [None, [], {"build": "x"}, "text"])
def test_a_download_of_nothing_is_an_error(gateway, body):
    assert gateway.json("/web/downloads", "POST", status=400, body=body)["title"]


@contextmanager
def stream(gateway: Gateway, after: int) -> Iterator[HTTPResponse]:
    connection = HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    try:
        headers = {"Authorization": f"Bearer {gateway.token}", "Accept": "text/event-stream"}
        connection.request("GET", "/v1/events", headers={**headers, "Last-Event-ID": str(after)})
        answer = connection.getresponse()
        assert answer.status == 200
        yield answer
    finally:
        connection.close()


def messages(answer: HTTPResponse) -> Iterator[tuple[str, Any]]:
    fields: dict[str, str] = {}
    while line := answer.readline().decode().rstrip("\n"):
        name, _, value = line.partition(": ")
        fields[name] = value
        if name == "data":
            answer.readline()  # the empty line
            yield fields.get("event", ""), json.loads(value)
            fields = {}
        elif not name:
            answer.readline()


def until(answer: HTTPResponse, kind: str, type_: str = "") -> list[tuple[str, Any]]:
    found = []
    for message in messages(answer):
        found.append(message)
        if message[0] == kind and (not type_ or message[1]["type"] == type_):
            return found
    raise AssertionError(f"no {kind} {type_}: {found}")


def positions(found: list[tuple[str, Any]]) -> list[int]:
    return [data["position"] for kind, data in found if kind == "event"]


def test_a_killed_daemon_costs_the_stream_no_event_and_the_page_hears_of_it(
    gateway, web_daemon, tmp_path
):
    begin = gateway.json("/v1/builds")["position"]
    gate = tmp_path / "gate"
    waiting = f"until test -e {gate}; do sleep 0.1; done; echo $RANDOM"
    with stream(gateway, begin) as answer:
        build = submit(web_daemon, tmp_path, "sleep 0.2", waiting, arguments=writes(tmp_path))
        before = until(answer, "event", "CheckpointCompleted")
        web_daemon.kill()
        lost = until(answer, "away")
        assert lost[-1][1]["type"] == "urn:dcd:problem:unavailable"
        assert gateway("/v1/builds")[0] == 503
        web_daemon.start()
        gate.touch()
        after = until(answer, "event", "BuildCompleted")
    assert "back" in [kind for kind, _ in after]
    listed = client.request(str(web_daemon.socket), "GET", "/v1/events", query={"after": begin})
    ours = [each["position"] for each in listed["events"] if each["build"] == build]
    assert positions([*before, *lost, *after])[: len(ours)] == ours


def test_two_hundred_streams_are_one_follower_of_the_daemon_and_get_all(
    gateway, web_daemon, tmp_path
):
    begin = gateway.json("/v1/builds")["position"]
    got: list[list[int]] = []

    def page() -> None:
        with stream(gateway, begin) as answer:
            begun.release()
            got.append(positions(until(answer, "event", "BuildCompleted")))

    begun = threading.Semaphore(0)
    threads = [threading.Thread(target=page) for _ in range(200)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert begun.acquire(timeout=30)
    assert connections_to(web_daemon) < 20
    web_daemon.wait(submit(web_daemon, tmp_path, "true"), "completed")
    for thread in threads:
        thread.join(30)
    assert len(got) == 200
    assert len({tuple(each) for each in got}) == 1
    assert gateway("/v1/whoami")[0] == 200


def connections_to(daemon: Any) -> int:
    lines = Path("/proc/net/unix").read_text().splitlines()
    return sum(line.endswith(f" {daemon.socket}") for line in lines)


def test_a_page_that_was_away_for_long_gets_all_that_it_missed(gateway, web_daemon, completed):
    every = client.request(
        str(web_daemon.socket), "GET", "/v1/events", query={"after": 2, "limit": 5000}
    )["events"]
    with stream(gateway, 2) as answer:
        found: list[tuple[str, Any]] = []
        for message in messages(answer):
            found.append(message)
            if len(positions(found)) == len(every):
                break
    assert positions(found) == [event["position"] for event in every]


@pytest.mark.parametrize("after", ["-1", "x", "1" * 30, "\u0661"])
def test_a_position_that_is_none_is_an_error(gateway, after):
    refused = gateway(
        "/v1/events", Accept="text/event-stream", Last_Event_ID=after.encode().decode("latin-1")
    )
    assert refused[0] == 400


def test_a_body_that_is_too_large_is_refused(gateway):
    status, _, text = gateway("/v1/builds/x/retry", "POST", body="x" * 100_000)
    assert (status, title(text)) == (400, "the request's body is too large")


def test_the_gateway_listens_on_this_host_alone(gateway):
    listening = [
        line.split()[1]
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[1].endswith(f":{gateway.port:04X}")
    ]
    assert listening == [f"0100007F:{gateway.port:04X}"]


def test_without_a_daemon_there_is_no_page(tmp_path):
    command = [sys.executable, "-m", "cli.main", "--socket", str(tmp_path / "s"), "web"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (9, "")
    assert "cannot reach the daemon" in result.stderr


def test_a_port_that_is_taken_is_an_error_with_a_remedy(gateway, web_daemon):
    result = web_daemon.run("web", "--port", str(gateway.port))
    assert result.returncode == 11
    assert "choose another with --port" in result.stderr


def test_the_browser_is_opened_without_the_token_among_its_arguments(web_daemon, tmp_path):
    browser = tmp_path / "browser"
    browser.write_text(
        f'#!/bin/sh\necho "$1" > {tmp_path}/opened; cat "${{1#file://}}" > {tmp_path}/page\n'
    )
    browser.chmod(0o755)
    command = [
        sys.executable,
        "-m",
        "cli.main",
        "--socket",
        str(web_daemon.socket),
        "web",
        "--open",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "BROWSER": f"{browser} %s"}
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        deadline = time.monotonic() + 60
        while not (tmp_path / "page").exists() or not (tmp_path / "page").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    opened = (tmp_path / "opened").read_text().strip()
    assert "token" not in opened
    assert url in (tmp_path / "page").read_text()
    assert not Path(opened.removeprefix("file://")).exists()


def test_vendored_files_are_what_their_list_says_each_with_its_licence():
    vendored = STATIC / "vendor"
    files = json.loads((vendored / "vendor.json").read_text())["files"]
    for each in files:
        content = (vendored / each["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == each["sha256"], each["file"]
        assert (vendored / each["license_file"]).stat().st_size > 900
        assert re.fullmatch(r"sha512-[\w+/]{86}==", each["package_integrity"])
    assert {each["file"] for each in files} == {path.name for path in vendored.glob("*.js")}


def test_the_page_takes_nothing_from_elsewhere_and_writes_no_html():
    for path in (*STATIC.glob("js/*.js"), *STATIC.glob("*.html"), *STATIC.glob("*.css")):
        text = path.read_text()
        assert len(text.splitlines()) <= 500, path.name
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), path.name
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert word not in text, f"{word} in {path.name}"


def test_a_stranger_who_holds_connections_does_not_keep_the_page_away(gateway):
    place = ("127.0.0.1", gateway.port)
    held = [socket.create_connection(place, timeout=30) for _ in range(200)]
    try:
        assert gateway("/v1/whoami")[0] == 200
    finally:
        for connection in held:
            connection.close()


def test_a_connection_that_sends_no_request_is_dropped(web_daemon):
    gateway = Gateway(web_daemon.socket)
    place = ("127.0.0.1", gateway.port)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(files[1], 4096), files[1]))
    with ExitStack() as held:
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, files)
        # More than the process may have open files. Some of them send a part of a request.
        for number in range(1100):
            connection = held.enter_context(socket.create_connection(place, timeout=30))
            if number % 100 == 0:
                connection.sendall(b"GET /v1/whoami HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        deadline = time.monotonic() + 60
        status = 0
        while status != 200:
            assert time.monotonic() < deadline
            with suppress(OSError):
                status = gateway("/v1/whoami")[0]
    with socket.create_connection(place, timeout=30) as connection:
        connection.sendall(b"no request at all\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400")
    said = gateway.stop()
    assert said.splitlines() == [
        "Ctrl-C ends it. The address contains a secret: give it to nobody."
    ]
