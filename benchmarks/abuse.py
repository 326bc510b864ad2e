"""Clients that ask too much of a daemon, each a process of its own.

    python benchmarks/abuse.py KIND SOCKET [--connections N] [--seconds S] [--path PATH] [--body FILE]

`flood` sends request after request over each connection; `follow` follows the event stream at PATH; `deaf`
asks for PATH and reads nothing; `post` posts the content of `--body` to PATH, again and again; `drip` sends a
request a byte a second; `body` sends a body of `--megabytes`. SIGTERM ends each of them early. Prints a line
`ready` when all connections are made, and at the end a JSON object: answers by status, bytes received,
connections that the daemon closed, followers by events heard. Standard library only; used by `load.py` and by
tests/dcd/api/test_load.py.
"""

import argparse
import asyncio
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

PIECE = b"x" * 65536


@dataclass
class Seen:
    """What became of the connections so far."""

    statuses: Counter[str] = field(default_factory=Counter)
    received_bytes: int = 0
    closed: int = 0
    retry_after: Counter[str] = field(default_factory=Counter)
    events: Counter[int] = field(default_factory=Counter)
    """How many followers heard so many events."""


@dataclass(frozen=True)
class Wanted:
    """What is to be done."""

    socket: str
    path: str
    until: float
    megabytes: int
    body: bytes


Client = Callable[[Wanted, Seen, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def flood(
    wanted: Wanted, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Request after request, each answer read whole."""
    request = f"GET {wanted.path} HTTP/1.1\r\nHost: dcd\r\n\r\n".encode()
    while time.monotonic() < wanted.until:
        writer.write(request)
        await _answer(seen, reader)


async def post(
    wanted: Wanted, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """The same body again and again, each answer read whole."""
    head = f"POST {wanted.path} HTTP/1.1\r\nHost: dcd\r\nContent-Length: {len(wanted.body)}\r\n\r\n"
    while time.monotonic() < wanted.until:
        writer.write(head.encode() + wanted.body)
        await writer.drain()
        await _answer(seen, reader)


async def follow(
    wanted: Wanted, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """An event stream, read as it comes."""
    # Otherwise the connection outlives the stream, for as long as an idle one may.
    fields = "Accept: text/event-stream\r\nConnection: close"
    writer.write(f"GET {wanted.path} HTTP/1.1\r\nHost: dcd\r\n{fields}\r\n\r\n".encode())
    await _head(seen, reader)
    events = 0
    async for line in reader:
        seen.received_bytes += len(line)
        events += line == b"event: event\n"
    seen.events[events] += 1


async def deaf(
    wanted: Wanted, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Nothing is read: what the kernel's buffers do not take is the daemon's to deal with."""
    transport = writer.transport
    assert isinstance(transport, asyncio.ReadTransport)
    transport.pause_reading()
    while time.monotonic() < wanted.until:
        writer.write(f"GET {wanted.path} HTTP/1.1\r\nHost: dcd\r\n\r\n".encode())
        await asyncio.wait_for(writer.drain(), max(0.0, wanted.until - time.monotonic()))
        await asyncio.sleep(0.01)


async def drip(
    wanted: Wanted, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """A byte a second."""
    for letter in f"GET {wanted.path} HTTP/1.1\r\nHost: dcd\r\nX-Slow: ".encode() + PIECE:
        writer.write(bytes([letter]))
        await writer.drain()
        await asyncio.sleep(1)


async def body(
    wanted: Wanted, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """An enormous body, as fast as it is taken."""
    length = wanted.megabytes * 2**20
    head = f"POST {wanted.path} HTTP/1.1\r\nHost: dcd\r\nContent-Length: {length}\r\n\r\n"
    writer.write(head.encode())
    with suppress(ConnectionError):
        for _ in range(length // len(PIECE)):
            writer.write(PIECE)
            await writer.drain()
    await _answer(seen, reader)


KINDS: dict[str, Client] = {f.__name__: f for f in (flood, post, follow, deaf, drip, body)}


async def _answer(seen: Seen, reader: asyncio.StreamReader) -> None:
    content = await reader.readexactly(await _head(seen, reader))
    seen.received_bytes += len(content)


async def _head(seen: Seen, reader: asyncio.StreamReader) -> int:
    """Read an answer's head; returns the length of its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    seen.statuses[lines[0].split()[1]] += 1
    fields = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
    if "retry-after" in fields:
        seen.retry_after[fields["retry-after"]] += 1
    return int(fields.get("content-length", 0))


async def _client(kind: Client, wanted: Wanted, seen: Seen, connected: asyncio.Event) -> None:
    reader, writer = await asyncio.open_unix_connection(wanted.socket, limit=2**22)
    connected.set()
    left = max(0.0, wanted.until - time.monotonic())
    try:
        await asyncio.wait_for(kind(wanted, seen, reader, writer), left)
    except (ConnectionError, asyncio.IncompleteReadError):
        seen.closed += 1
    except TimeoutError:
        pass
    finally:
        writer.transport.abort()


async def _all(kind: Client, wanted: Wanted, connections: int) -> Seen:
    seen = Seen()
    events = [asyncio.Event() for _ in range(connections)]
    clients = [asyncio.create_task(_client(kind, wanted, seen, event)) for event in events]

    def enough() -> None:
        for client in clients:
            client.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, enough)
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.gather(*(event.wait() for event in events)), 30)
    print("ready", flush=True)
    for outcome in await asyncio.gather(*clients, return_exceptions=True):
        if isinstance(outcome, Exception):
            print(f"{type(outcome).__name__}: {outcome}", file=sys.stderr)
    return seen


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("socket")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--path", default="/v1/version")
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--body", type=argparse.FileType("rb"))
    given = parser.parse_args()
    until = time.monotonic() + given.seconds
    content = given.body.read() if given.body else b""
    wanted = Wanted(given.socket, given.path, until, given.megabytes, content)
    seen = asyncio.run(_all(KINDS[given.kind], wanted, given.connections))
    found = {
        "statuses": seen.statuses,
        "received_bytes": seen.received_bytes,
        "closed": seen.closed,
        "retry_after": seen.retry_after,
        "events": seen.events,
    }
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
