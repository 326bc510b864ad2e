"""What dcd/api/server.py uses of uvicorn and h11 beyond their documented interfaces, written down.

A release that changes one of these fails here, by name, before it breaks how clients are cut off. The bounds
in pyproject.toml keep such a release out until this page and the server were looked at.
"""

import ast
import asyncio
import inspect
import re
import socket
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h11
import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from dcd.api import server

ROOT = Path(__file__).parents[3]
DEPENDENCIES = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]


async def application(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("__init__", ["self", "config", "server_state", "app_state", "_loop"]),
        ("connection_made", ["self", "transport"]),
        ("data_received", ["self", "data"]),
        ("eof_received", ["self"]),
        ("connection_lost", ["self", "exc"]),
        ("on_response_complete", ["self"]),
        ("handle_events", ["self"]),
    ],
)
def test_the_protocol_has_the_methods_that_are_replaced_and_called(
    method: str, expected: list[str]
) -> None:
    assert parameters(getattr(H11Protocol, method)) == expected


def test_the_server_has_the_methods_that_are_replaced() -> None:
    assert parameters(uvicorn.Server.startup) == ["self", "sockets"]
    assert inspect.iscoroutinefunction(uvicorn.Server.startup)
    assert parameters(uvicorn.Server.capture_signals) == ["self"]
    # What replaces it has nothing to restore.
    assert "capture_signals" in inspect.getsource(uvicorn.Server.serve)


def test_a_connection_has_what_is_looked_at() -> None:
    async def look() -> dict[str, Any]:
        config = uvicorn.Config(application, lifespan="off", ws="none", log_config=None)
        config.load()
        uvicorn_server = uvicorn.Server(config)
        uvicorn_server.lifespan = config.lifespan_class(config)
        protocol = H11Protocol(
            config=config,
            server_state=uvicorn_server.server_state,
            app_state=uvicorn_server.lifespan.state,
        )
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
        seen: dict[str, Any] = {"cycle before": protocol.cycle, "loop": protocol.loop is loop}
        seen["transport"] = protocol.transport is transport
        # Replaced in connection_made, and called for each request.
        calls = []

        async def replaced(scope: Any, receive: Any, send: Any) -> None:
            calls.append(scope["type"])
            await application(scope, receive, send)

        protocol.app = replaced
        theirs.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na")
        while protocol.cycle is None:
            await asyncio.sleep(0.01)
        seen["in the middle"] = (protocol.cycle.more_body, protocol.cycle.response_complete)
        seen["our state"] = protocol.conn.our_state
        seen["trailing"] = protocol.conn.trailing_data[0]
        theirs.sendall(b"b")
        while not protocol.cycle.response_complete:
            await asyncio.sleep(0.01)
        seen["at the end"] = protocol.cycle.more_body
        seen["calls"] = calls
        transport.close()
        theirs.close()
        return seen

    assert asyncio.run(asyncio.wait_for(look(), 20)) == {
        "cycle before": None,
        "loop": True,
        "transport": True,
        "in the middle": (True, False),
        "our state": h11.SEND_RESPONSE,
        "trailing": b"",
        "at the end": False,
        "calls": ["http"],
    }


def test_a_server_has_what_listening_on_another_socket_takes() -> None:
    config = uvicorn.Config(
        application, http=H11Protocol, lifespan="off", ws="none", log_config=None
    )
    config.load()
    assert config.http_protocol_class is H11Protocol
    made = uvicorn.Server(config)
    assert isinstance(made.server_state, ServerState)
    assert "self.servers" in inspect.getsource(uvicorn.Server.startup)
    assert {"more_body", "response_complete"} <= set(
        RequestResponseCycle.__init__.__code__.co_names
    )


def test_every_attribute_that_the_server_uses_is_looked_at_here() -> None:
    """A new use of an inherited attribute belongs into this file."""
    tree = ast.parse(inspect.getsource(server))
    own = {"actor", "late", "open", "header_seconds", "half_closed", "watching", "_ready"}
    used: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name in ("PeerProtocol", "Server"):
            methods = {each.name for each in ast.walk(node) if isinstance(each, ast.FunctionDef)}
            used |= (
                {
                    each.attr
                    for each in ast.walk(node)
                    if isinstance(each, ast.Attribute)
                    and isinstance(each.value, ast.Name)
                    and each.value.id == "self"
                }
                - own
                - methods
            )
    known = {"loop", "app", "transport", "cycle", "conn", "handle_events"}
    known |= {"servers", "config", "server_state", "lifespan"}
    assert used == known


@pytest.mark.parametrize("name", ["uvicorn", "starlette", "h11"])
def test_the_bounds_of_what_speaks_http_are_named_and_hold(name: str) -> None:
    (bounds,) = [each for each in DEPENDENCIES if re.match(rf"{name}[^a-z]", each)]
    least, most = re.fullmatch(rf"{name}>=([0-9.]+),<([0-9.]+)", bounds).groups()  # type: ignore[union-attr]

    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(".")]

    assert numbers(least) <= numbers(version(name)) < numbers(most)
    # h11 before takes malformed chunks; starlette before reads ranges in quadratic time.
    known = {"h11": [0, 16], "starlette": [0, 49, 1], "uvicorn": [0, 34]}
    assert numbers(least) >= known[name]
