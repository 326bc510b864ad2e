"""Clients that ask too much, over the socket of a real daemon: nothing is lost, memory stays bounded, and
others are answered. How fast is `benchmarks/load.py`'s affair. DCD_SOAK=1 runs the full numbers."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cli import client

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.faults]

ABUSE = Path(__file__).parents[3] / "benchmarks" / "abuse.py"
SOAK = os.environ.get("DCD_SOAK") == "1"
FOLLOWERS = 1000 if SOAK else 200
SUBMISSIONS = 1000 if SOAK else 100
DEAF = 200 if SOAK else 40
DRIPPING = 500 if SOAK else 100
ASKED = 500 if SOAK else 20
MEBIBYTE = 2**20


MANY = '<dc><distro name="many"><execution>{}</execution></distro></dc>'
STEP = """<checkpoint name="c{0}" mod_path="dcd/checkpoints/custom_script"
 checkpoint_class="CustomScript"><args>true</args><kwargs><arg name="chroot">true</arg></kwargs>
</checkpoint>"""


def memory_bytes(daemon: Any) -> int:
    """Resident memory of the daemon's process at its highest (proc(5), VmHWM)."""
    lines = Path(f"/proc/{daemon.process.pid}/status").read_text().splitlines()
    (peak,) = [line.split()[1] for line in lines if line.startswith("VmHWM")]
    return int(peak) * 1024


def held_for_clients(daemon: Any) -> int:
    """The daemon's open sockets and logs of attempts."""
    count = 0
    for descriptor in Path(f"/proc/{daemon.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            target = str(descriptor.readlink())
            count += target.startswith("socket:") or target.endswith(".1.log")
    return count


class Abuse:
    """A running benchmarks/abuse.py."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, ABUSE, *map(str, arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        assert self.process.stdout.readline() == "ready\n"

    def outcome(self) -> Any:
        """What it saw; waits for its end."""
        out = self.process.stdout.read()
        assert self.process.wait(120) == 0
        return json.loads(out)

    def enough(self) -> Any:
        """End it, and tell what it saw."""
        self.process.terminate()
        return self.outcome()


@pytest.fixture
def abuse(daemon: Any) -> Iterator[Callable[..., Abuse]]:
    """Starts abusive clients; killed afterwards."""
    running: list[Abuse] = []

    def start(kind: str, *options: object) -> Abuse:
        running.append(Abuse(kind, daemon.socket, *options))
        return running[-1]

    yield start
    for one in running:
        one.process.kill()
        one.process.wait()


def ask(daemon: Any, method: str, path: str, body: Any = None) -> Any:
    return client.request(str(daemon.socket), method, path, body=body)


def submit(daemon: Any, manifest: Path, **options: Any) -> str:
    body = {"manifest": {"path": str(manifest), "text": manifest.read_text()}, **options}
    return str(ask(daemon, "POST", "/v1/builds", body)["id"])


def test_followers_hear_everything_and_cost_little(daemon, abuse, write_manifest):
    steps = [(f"step{number}", "true") for number in range(5)]
    build = submit(daemon, write_manifest(*steps), pause_before="step1")
    daemon.wait(build, "paused")
    before = memory_bytes(daemon)
    # Paused builds end a stream: the followers are there while it runs.
    ask(daemon, "POST", f"/v1/builds/{build}/resume", {"pause_before": "step4"})
    path = f"/v1/builds/{build}/events?after=0"
    followers = abuse("follow", "--connections", FOLLOWERS, "--seconds", 90, "--path", path)
    daemon.wait(build, "paused")

    seen = followers.outcome()

    assert seen["statuses"] == {"200": FOLLOWERS}
    whole = len(everything(daemon, path))
    # Progress may be left out for a follower that is slow; events never are.
    assert seen["events"] == {str(whole): FOLLOWERS}
    assert memory_bytes(daemon) - before < 64 * MEBIBYTE


def everything(daemon: Any, path: str) -> list[str]:
    """The events that a stream tells of a build that stands still."""
    headers = {"Accept": "text/event-stream"}
    with client.exchange(str(daemon.socket), "GET", path, headers=headers) as answer:
        lines = answer.read().decode().splitlines()
    return [line for line in lines if line == "event: event"]


def test_submissions_are_all_queued_and_all_there_after_a_kill(daemon, write_manifest):
    blocking = submit(daemon, write_manifest(("one", "sleep 1000"), name="blocking"))
    daemon.wait(blocking, "running")
    daemon.settings["max_running_builds"] = 1
    daemon.stop()
    daemon.start()
    before = memory_bytes(daemon)
    manifests = [
        write_manifest(("one", f"echo {number}"), name=f"build{number % 10}")
        for number in range(10)
    ]

    with ThreadPoolExecutor(8) as pool:
        builds = set(pool.map(lambda n: submit(daemon, manifests[n % 10]), range(SUBMISSIONS)))

    assert len(builds) == SUBMISSIONS
    assert memory_bytes(daemon) - before < 128 * MEBIBYTE
    daemon.kill()
    daemon.start()
    listed = {item["id"]: item["state"] for item in daemon.json("list", "--all")}
    assert listed.keys() == builds | {blocking}
    assert {listed[build] for build in builds} == {"queued"}
    for build in (*builds, blocking):  # this one last, or the others run
        ask(daemon, "POST", f"/v1/builds/{build}/cancel")
    daemon.wait(blocking, "cancelled")


def test_clients_that_never_read_cost_one_piece_each_and_are_cut_off(
    cold_daemon, write_manifest, request
):
    cold_daemon.settings |= {"send_timeout_seconds": 1.0, "requests_per_client": DEAF}
    daemon = cold_daemon.start()
    build = submit(daemon, write_manifest(("one", "head -c 30000000 /dev/zero | tr '\\0' x")))
    daemon.wait(build, "completed")
    before, held = memory_bytes(daemon), held_for_clients(daemon)

    deaf = Abuse(
        *("deaf", daemon.socket, "--connections", DEAF, "--seconds", 60),
        *("--path", f"/v1/builds/{build}/logs/one/1"),
    )
    request.addfinalizer(deaf.process.kill)

    deadline = time.monotonic() + 60
    while held_for_clients(daemon) > held:
        assert time.monotonic() < deadline, "they are still connected, or what they asked for is"
        time.sleep(0.1)
    assert memory_bytes(daemon) - before < 64 * MEBIBYTE
    assert ask(daemon, "GET", f"/v1/builds/{build}")["state"] == "completed"


def test_clients_that_send_a_byte_a_second_hold_up_nobody(daemon, abuse):
    abuse("drip", "--connections", DRIPPING, "--seconds", 60)
    assert ask(daemon, "GET", "/v1/builds")["builds"] == []


def test_enormous_bodies_are_not_read(daemon, abuse):
    before = memory_bytes(daemon)

    seen = abuse(
        *("body", "--connections", 8, "--seconds", 60, "--path", "/v1/validate"),
        *("--megabytes", 1024),
    ).outcome()

    assert seen["closed"] + seen["statuses"].get("413", 0) == 8
    assert memory_bytes(daemon) - before < 32 * MEBIBYTE


def test_a_flood_is_answered_in_turn_and_others_are_too(daemon, abuse):
    before = memory_bytes(daemon)
    flood = abuse("flood", "--connections", 200, "--seconds", 120, "--path", "/v1/builds")

    for _ in range(ASKED):
        assert ask(daemon, "GET", "/v1/builds")["builds"] == []

    assert flood.process.poll() is None
    statuses = flood.enough()["statuses"]
    assert set(statuses) <= {"200", "429"}
    assert statuses["200"] > ASKED
    assert memory_bytes(daemon) - before < 64 * MEBIBYTE


@pytest.fixture
def silent_mirror() -> Iterator[str]:
    """A mirror that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        held: list[socket.socket] = []

        def accept() -> None:
            try:
                while True:
                    held.append(server.accept()[0])
            except OSError:
                pass

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in held:
            connection.close()


SLOW = """<dc><distro name="slow"><software name="t" type="DEB">
<destination><image img_root="{{PKG_IMAGE_PATH}}" variant="minbase" architecture="amd64"/></destination>
<source><repository uri="{uri}" suite="bookworm" components="main"/></source>
<software_data action="install"><name>hello</name></software_data></software>
<execution stop_on_error="true"><checkpoint name="t" mod_path="dcd/checkpoints/transfer/deb"
 checkpoint_class="TransferDEB"/></execution></distro></dc>"""


def test_requests_that_wait_for_a_mirror_hold_up_their_own_client_only(cold_daemon, silent_mirror):
    cold_daemon.settings |= {"request_timeout_seconds": 1.0, "requests_per_client": 4}
    daemon = cold_daemon.start()
    body = {"manifest": {"path": "/slow.xml", "text": SLOW.format(uri=silent_mirror)}}
    content = json.dumps(body).encode()
    head = f"POST /v1/plan HTTP/1.1\r\nHost: dcd\r\nContent-Length: {len(content)}\r\n\r\n"
    waiting = []
    for _ in range(20):
        one = socket.socket(socket.AF_UNIX)
        one.settimeout(30)
        one.connect(str(daemon.socket))
        one.sendall(head.encode() + content)
        waiting.append(one)
    try:
        # This process has no turns left: it is told so. Another one has its own.
        refused = waiting[-1].recv(65536).decode()
        assert refused.startswith("HTTP/1.1 429 ")
        assert "retry-after: 1\r\n" in refused.lower()
        with pytest.raises(client.Unreachable, match="sends too many requests at once") as told:
            ask(daemon, "GET", "/v1/builds")
        assert told.value.exit_code == 9
        assert daemon.json("list") == []
    finally:
        for one in waiting:
            one.close()
        daemon.kill()


@pytest.mark.usefixtures("really_started")
@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/v1/validate", "<dc>" + "<a/>" * 45_000 + "</dc>"),
        ("/v1/plan", MANY.format("".join(STEP.format(number) for number in range(400)))),
    ],
    ids=["elements", "checkpoints"],
)
def test_large_manifests_of_one_client_do_not_hold_up_others(daemon, abuse, tmp_path, path, text):
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"manifest": {"path": "/large.xml", "text": text}}))
    ask(daemon, "POST", path, json.loads(body.read_text()))  # what is loaded once
    began = time.monotonic()
    ask(daemon, "POST", path, json.loads(body.read_text()))
    one_manifest = time.monotonic() - began
    before = memory_bytes(daemon)
    clients = [
        abuse("post", "--connections", 8, "--seconds", 60, "--path", path, "--body", body)
        for _ in range(3)
    ]
    waits = []
    for _ in range(60):
        asked = time.monotonic()
        ask(daemon, "GET", "/v1/builds")
        waits.append(time.monotonic() - asked)
        time.sleep(0.05)

    # Less than a few such manifests take, on a machine that does other things too: 24 are always asked for.
    assert sorted(waits)[30] < max(2.0, 4 * one_manifest)
    assert len(planners(daemon)) <= 1
    assert memory_bytes(daemon) - before < 64 * MEBIBYTE

    for one in clients:
        one.process.kill()
    deadline = time.monotonic() + 30
    while planners(daemon) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert planners(daemon) == []  # nobody waits for them any more


def planners(daemon: Any) -> list[str]:
    """The planners that run: children of the first process with their command line, which forks them."""
    forker = next(
        process
        for process in descendants(daemon.process.pid)
        if Path(f"/proc/{process}/comm").read_text() != "unshare\n"
        and b"\0dcd.planner\0" in Path(f"/proc/{process}/cmdline").read_bytes()
    )
    return list(children(forker))


def descendants(process: int | str) -> Iterator[str]:
    for child in children(process):
        yield child
        yield from descendants(child)


def children(process: int | str) -> Iterator[str]:
    for thread in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(FileNotFoundError):  # It has ended.
            yield from thread.read_text().split()


def test_a_user_has_so_many_connections_and_is_told(cold_daemon):
    cold_daemon.settings["connections_per_user"] = 5
    daemon = cold_daemon.start()
    held = []
    for _ in range(5):
        one = socket.socket(socket.AF_UNIX)
        one.connect(str(daemon.socket))
        one.sendall(b"GET /v1/version HTTP/1.1\r\nHost: dcd\r\n\r\n")
        assert one.recv(65536).startswith(b"HTTP/1.1 200 ")
        held.append(one)

    refused = daemon.run("list")
    assert refused.returncode == 9
    assert "the user with uid 0 has too many connections to the daemon" in refused.stderr

    for one in held:
        one.close()
    assert daemon.json("list") == []
