"""For tests of publishing: a server behind a proxy with faults, and products in a workspace."""

import hashlib
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from dcd.checkpoints.interface import Context
from statemachine.results import Artifact, Publication

SECONDS = 60.0


@dataclass
class Faulty:
    """A proxy for one server on this host. `answers` are statuses for the next requests, `breaks` numbers of
    bytes after which the next larger requests break off, each once, `cuts` the same for what comes back,
    `hangs` how many requests stay unanswered, `flips` how many pieces of what is sent get another last byte,
    and `spoils` how many pieces of what comes back."""

    behind: int
    port: int = 0
    answers: list[int] = field(default_factory=list)
    breaks: list[int] = field(default_factory=list)
    hangs: int = 0
    flips: int = 0
    cuts: list[int] = field(default_factory=list)
    spoils: int = 0
    requests: list[str] = field(default_factory=list)
    received: int = 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def sent(self, method: str) -> list[str]:
        """The requests with a method, without their query."""
        return [line.split()[1] for line in self.requests if line.startswith(f"{method} ")]

    def _serve(self, client: socket.socket) -> None:
        with closing(client), suppress(OSError):
            client.settimeout(SECONDS)
            head = b""
            while b"\r\n\r\n" not in head:
                piece = client.recv(65536)
                if not piece:
                    return
                head += piece
            line = head.split(b"\r\n", 1)[0].decode()
            self.requests.append(line)
            length = re.search(rb"(?i)content-length: *(\d+)", head)
            large = bool(self.breaks and length and int(length[1]) > self.breaks[0])
            if self.hangs:
                self.hangs -= 1
                while client.recv(1 << 20):
                    pass
                return
            if self.answers:
                status = self.answers.pop(0)
                client.sendall(
                    f"HTTP/1.1 {status} Fault\r\nConnection: close\r\nContent-Length: 5\r\n\r\nfault".encode()
                )
                with suppress(OSError):
                    while client.recv(1 << 20):
                        pass
                return
            limit = self.breaks.pop(0) if large else None
            with socket.create_connection(("127.0.0.1", self.behind), SECONDS) as server:
                back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
                back.start()
                total, piece = 0, head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
                while piece:
                    server.sendall(piece)
                    total += len(piece)
                    self.received += len(piece)
                    if limit is not None and total > limit:
                        return
                    with suppress(TimeoutError):
                        client.settimeout(0.05 if not back.is_alive() else SECONDS)
                        piece = client.recv(65536)
                        if piece and self.flips:
                            self.flips -= 1
                            piece = piece[:-1] + bytes([piece[-1] ^ 1])
                back.join(SECONDS)

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        total = 0
        with suppress(OSError):
            while piece := source.recv(65536):
                total += len(piece)
                if self.cuts and total > self.cuts[0]:
                    self.cuts.pop(0)
                    break
                if self.spoils and total > len(piece):
                    self.spoils -= 1
                    piece = piece[:-1] + bytes([piece[-1] ^ 1])
                target.sendall(piece)
            target.shutdown(socket.SHUT_RDWR)


@contextmanager
def faulty(behind: int) -> Iterator[Faulty]:
    """A proxy for the server on a port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        proxy = Faulty(behind, listening.getsockname()[1])

        def accept() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listening.accept()
                    threading.Thread(target=proxy._serve, args=(client,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield proxy
        listening.shutdown(socket.SHUT_RDWR)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


@contextmanager
def serving(command: Callable[[int], Sequence[Any]]) -> Iterator[int]:
    """The port of a running server, whose command is made from it. When another process takes the port first,
    the server ends, and is started on another one."""
    for _ in range(5):
        port = free_port()
        with subprocess.Popen(
            command(port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as server:
            try:
                if answers(server, port):
                    yield port
                    return
            finally:
                server.terminate()
    raise AssertionError(f"{command(0)} does not serve")


def answers(server: "subprocess.Popen[bytes]", port: int) -> bool:
    """Whether the server takes connections on the port, or ends before it does."""
    deadline = time.monotonic() + 60
    while server.poll() is None:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        assert time.monotonic() < deadline, f"nothing listens on {port}"
        time.sleep(0.05)
    return False


def delivered(bench: Any, **files: bytes) -> Context:
    """The context of a checkpoint after others that have delivered these media; `published` collects."""
    artifacts = []
    for name, content in files.items():
        path = bench.root / "media" / name.replace("_", ".")
        path.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        kind = "oci" if ".oci." in path.name else "iso"
        artifacts.append(Artifact(path.name, f"media/{path.name}", kind, len(content), digest))
    return replace(bench.context(bench.doc()), artifacts=tuple(artifacts))


def published(context: Context, checkpoint: Any) -> list[Publication]:
    """What the checkpoint publishes."""
    found: list[Publication] = []
    checkpoint.execute(replace(context, publish=found.append))
    return found
