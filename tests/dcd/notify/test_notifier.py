"""Delivery to real servers: each event at least once and in order, whatever happens on either side."""

import asyncio
import itertools
import os
import signal
import ssl
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from dcd.configuration import Configuration
from dcd.configuration.webhooks import Webhook, webhook
from dcd.engine.broadcast import Broadcast
from dcd.notify import notifier as module
from dcd.notify.notifier import Notifier
from dcd.notify.post import NotDelivered, post, tls_context
from store.eventlog import EventLog
from tests.dcd.notify.conftest import complete


def hook(receiver, secret, name="ci", **more) -> Webhook:
    return webhook({"name": name, "url": f"{receiver.url}/in", "secret": str(secret), **more})


def started(log: EventLog, *hooks: Webhook) -> Notifier:
    found = Notifier(log, partial(Broadcast().listen, None), lambda: Configuration(notify=hooks))
    found.begin()
    return found


def run(notifier: Notifier, done=None, seconds: float = 60.0) -> None:
    """Deliver until `done()`: by default until all is delivered and recorded. What has arrived without being
    recorded is delivered again later."""
    done = done or (lambda: all(each.state == "ok" for each in notifier.states()))

    async def deliver() -> None:
        running = asyncio.create_task(notifier.run())
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, notifier.states()
            await asyncio.sleep(0.01)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        # What threads still write.
        await asyncio.get_running_loop().shutdown_default_executor()

    asyncio.run(deliver())


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT_SECONDS", 0.02)


def builds(deliveries) -> list[str]:
    return [each.body["build"]["id"] for each in deliveries]


def in_order(deliveries) -> list[str]:
    """The builds without repetitions in a row, which no receiver may rely on not to get."""
    return [build for build, _ in itertools.groupby(builds(deliveries))]


def test_a_new_hook_gets_the_events_from_now_on_and_a_known_one_all_that_it_missed(
    log, receiver, secret
):
    complete(log, "old")
    first = started(log, hook(receiver, secret))
    complete(log, "a")
    run(first)
    complete(log, "b")
    complete(log, "c")

    run(started(log, hook(receiver, secret)))

    assert in_order(receiver.deliveries) == ["a", "b", "c"]
    assert len({each.headers["webhook-id"] for each in receiver.deliveries}) == 3


@pytest.mark.parametrize("answers", [[500, 404], ["redirect", 429], ["garbage", 503]])
def test_a_delivery_is_repeated_until_it_is_confirmed_and_holds_the_next_back(
    log, receiver, secret, answers
):
    notifier = started(log, hook(receiver, secret))
    complete(log, "a")
    complete(log, "b")
    receiver.answers = list(answers)

    run(notifier)

    assert builds(receiver.deliveries)[:3] == ["a", "a", "a"]
    assert in_order(receiver.deliveries) == ["a", "b"]
    assert {each.path for each in receiver.deliveries} == {"/in"}
    same = receiver.deliveries[:3]
    assert len({(each.headers["webhook-id"], each.content) for each in same}) == 1


def test_a_hook_that_hangs_disturbs_no_other_and_says_so(log, receiver, second_receiver, secret):
    slow = hook(receiver, secret, "slow", timeout_seconds=0.1)
    notifier = started(log, slow, hook(second_receiver, secret, "good"))
    receiver.answers = ["hang"] * 1000
    for name in "abc":
        complete(log, name)

    def one_fails_and_one_is_done() -> bool:
        bad, good = notifier.states()
        return bad.state == "failing" and bad.attempts > 1 and good.state == "ok"

    run(notifier, one_fails_and_one_is_done)

    bad, good = notifier.states()
    assert (bad.state, good.state) == ("failing", "ok")
    assert "no answer within 0.1 s" in bad.error
    assert (bad.behind > 0, good.behind) == (True, 0)
    # An attempt whose time was over before the receiver had read it may still arrive.
    assert in_order(receiver.wait(1)) == ["a"]
    assert in_order(second_receiver.deliveries) == ["a", "b", "c"]


def test_waits_grow_up_to_a_limit(log, secret, monkeypatch):
    """Observed through the announced time of the next attempt."""
    monkeypatch.setattr(module, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(module, "LONGEST_WAIT_SECONDS", 0.04)
    gone = webhook({"name": "gone", "url": "http://127.0.0.1:1/", "secret": str(secret)})
    notifier = started(log, gone)
    complete(log, "a")
    run(notifier, lambda: notifier.states()[0].attempts >= 6)
    assert "no connection" in notifier.states()[0].error


def test_a_secret_that_is_missing_is_said_and_used_as_soon_as_it_is_there(
    log, receiver, secret, tmp_path
):
    late = tmp_path / "late"
    notifier = started(log, hook(receiver, late))
    complete(log, "a")
    run(notifier, lambda: notifier.states()[0].state == "failing")
    assert "late cannot be read" in notifier.states()[0].error
    secret.rename(late)
    run(started(log, hook(receiver, late)))
    assert in_order(receiver.deliveries) == ["a"]


def test_after_the_restore_of_an_older_log_new_events_are_delivered(
    log, receiver, secret, tmp_path
):
    notifier = started(log, hook(receiver, secret))
    (tmp_path / "events" / "notify").mkdir(exist_ok=True)
    (tmp_path / "events" / "notify" / "ci.position").write_text("1000000\n")
    notifier = started(log, hook(receiver, secret))
    complete(log, "a")
    run(notifier)
    assert in_order(receiver.deliveries) == ["a"]


def test_a_hook_that_leaves_the_settings_leaves_nothing_behind(log, receiver, secret, tmp_path):
    complete(log, "a")
    notifier = started(log, hook(receiver, secret))
    run(notifier)
    cursor = tmp_path / "events" / "notify" / "ci.position"
    assert cursor.read_text() == f"{log.position}\n"
    assert cursor.stat().st_mode & 0o777 == 0o600
    started(log)
    assert not cursor.exists()


def test_a_reload_starts_and_stops_hooks_and_a_changed_one_goes_on_where_it_was(
    log, receiver, second_receiver, secret, tmp_path
):
    hooks = [hook(receiver, secret)]
    settings = lambda: Configuration(notify=tuple(hooks))  # noqa: E731
    notifier = Notifier(log, partial(Broadcast().listen, None), settings)
    notifier.begin()
    receiver.answers = [500] * 1000
    complete(log, "a")

    async def reload() -> None:
        running = asyncio.create_task(notifier.run())
        while notifier.states()[0].state != "failing":
            await asyncio.sleep(0.01)
        hooks[:] = [hook(second_receiver, secret), hook(second_receiver, secret, "new")]
        notifier.settings_changed()
        while [each.state for each in notifier.states()] != ["ok", "ok"]:
            await asyncio.sleep(0.01)
        hooks[:] = hooks[1:]
        notifier.settings_changed()
        while (tmp_path / "events" / "notify" / "ci.position").exists():
            await asyncio.sleep(0.01)
        running.cancel()

    asyncio.run(asyncio.wait_for(reload(), 60))
    assert {each.body["hook"] for each in second_receiver.deliveries} == {"ci"}
    assert in_order(second_receiver.deliveries) == ["a"]
    kept = [path.name for path in (tmp_path / "events" / "notify").iterdir()]
    assert kept == ["new.position"]


def test_a_test_is_delivered_although_events_wait_and_lets_them_go(
    log, receiver, secret, monkeypatch
):
    monkeypatch.setattr(module, "FIRST_WAIT_SECONDS", 60.0)
    notifier = started(log, hook(receiver, secret))
    complete(log, "a")
    receiver.answers = [500]

    async def test_once() -> None:
        running = asyncio.create_task(notifier.run())
        while notifier.states()[0].state != "failing":
            await asyncio.sleep(0.01)
        outcome = await notifier.test("ci")
        assert (outcome.ok, outcome.status) == (True, 200)
        while notifier.states()[0].state != "ok":
            await asyncio.sleep(0.01)
        running.cancel()

    asyncio.run(asyncio.wait_for(test_once(), 60))
    assert [each.kind for each in receiver.deliveries] == [
        "BuildCompleted",
        "Test",
        "BuildCompleted",
    ]


KILLED = """
import asyncio, os, signal, sys
from functools import partial
from pathlib import Path
from dcd.configuration import Configuration
from dcd.configuration.webhooks import webhook
from dcd.engine.broadcast import Broadcast
from dcd.notify.notifier import Notifier
from store.eventlog import EventLog, SqliteLog

database, url, secret, writes = sys.argv[1:]
left = int(writes)

def kill(event, arguments):
    global left
    if event == "os.rename" and str(arguments[1]).endswith(".position"):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
hook = webhook({"name": "ci", "url": url, "secret": secret})
with SqliteLog(Path(database)) as log:
    notifier = Notifier(log, partial(Broadcast().listen, None), lambda: Configuration(notify=(hook,)))
    notifier.begin()

    async def deliver():
        running = asyncio.create_task(notifier.run())
        while notifier.states()[0].state != "ok":
            await asyncio.sleep(0.01)
    asyncio.run(deliver())
os._exit(0)
"""


def sender(log: EventLog, receiver, secret: Path, writes: int) -> "subprocess.Popen[bytes]":
    arguments = [str(log.path), f"{receiver.url}/in", str(secret), str(writes)]
    return subprocess.Popen([sys.executable, "-c", KILLED, *arguments])


@pytest.mark.slow
def test_killed_between_a_delivery_and_its_cursor_it_delivers_again_and_loses_nothing(
    log, receiver, secret
):
    """Killed before the cursor of each event gets its name, and once in the middle of a request."""
    started(log, hook(receiver, secret))
    (log.path.parent / "notify").mkdir(exist_ok=True)
    (log.path.parent / "notify" / "ci.position").write_text("0\n")
    for name in "abc":
        complete(log, name)
    log.close()

    # The first write of a run stores where it begins.
    assert sender(log, receiver, secret, 2).wait(60) == -signal.SIGKILL
    assert builds(receiver.deliveries) == ["a"]
    assert sender(log, receiver, secret, 3).wait(60) == -signal.SIGKILL
    assert builds(receiver.deliveries) == ["a", "a", "b"]
    running: list[subprocess.Popen[bytes]] = []
    receiver.answers = [lambda: os.kill(running[0].pid, signal.SIGKILL)]
    running.append(sender(log, receiver, secret, 0))
    assert running[0].wait(60) == -signal.SIGKILL
    assert sender(log, receiver, secret, 0).wait(60) == 0

    assert builds(receiver.deliveries) == ["a", "a", "b", "b", "b", "c"]
    first, again = receiver.deliveries[:2]
    assert first.headers["webhook-id"] == again.headers["webhook-id"]


def test_tls_is_verified(receiver, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += [
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
    ]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    receiver.server.socket = context.wrap_socket(receiver.server.socket, server_side=True)
    port = receiver.server.server_port

    def send(host: str, ca: Path | None) -> int:
        url = f"https://{host}:{port}/"
        return asyncio.run(post(url, [], b"{}", tls_context(url, ca), 10.0))

    assert send("localhost", certificate) == 200
    for host, ca in (("localhost", None), ("127.0.0.1", certificate)):
        with pytest.raises(NotDelivered, match="TLS failed"):
            send(host, ca)
    assert len(receiver.deliveries) == 1


@pytest.mark.parametrize(
    ("head", "repeated"),
    [
        (b"HTTP/1.1 200 OK\r\nx: ", b"x" * 65536),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    ],
)
def test_an_endless_answer_is_cut_off(head, repeated):
    async def main() -> None:
        async def flood(reader, writer):
            with suppress(ConnectionError):
                writer.write(head)
                while True:
                    writer.write(repeated)
                    await writer.drain()

        server = await asyncio.start_server(flood, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(NotDelivered, match="not HTTP"):
            await post(f"http://127.0.0.1:{port}/", [], b"", None, 10.0)
        server.close()

    asyncio.run(main())
