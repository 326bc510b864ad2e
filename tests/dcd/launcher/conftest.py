"""A launcher of the test's own, used as the daemon's main process uses it, and as an attacker would."""

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from dcd.launcher.client import Launcher
from dcd.launcher.orders import AttemptOrder, Bounds, Prepared, Setup
from store.host.conversation import receive, send
from tests.conftest import open_way

UID = 0x7000_0001


@dataclass
class Bench:
    """A launcher that is prepared, and its state directory."""

    launcher: Launcher
    setup: Setup
    prepared: Prepared

    @property
    def state(self) -> Path:
        return self.setup.state_dir

    def say(self, request: object, descriptors: tuple[int, ...] = ()) -> dict[str, Any]:
        """The reply to a request of any content."""
        with self.launcher._converse() as connection:
            send(connection, request, descriptors)
            return dict(receive(connection)[0])

    def ask(self, operation: str, **arguments: object) -> dict[str, Any]:
        """The reply to an operation with any arguments."""
        return self.say({"operation": operation, "arguments": arguments})

    def refusal(self, operation: str, **arguments: object) -> str:
        """The texts of the error of an operation, which must have one."""
        return " ".join(self.ask(operation, **arguments)["error"]["texts"])

    def attempt(self, order: AttemptOrder) -> dict[str, Any]:
        """The first reply to an order."""
        receiving, sending = os.pipe()
        try:
            return self.say({"operation": "attempt", "arguments": order}, (sending,))
        finally:
            os.close(receiving)
            os.close(sending)

    def order(self, **more: Any) -> AttemptOrder:
        """An order that the launcher would carry out."""
        name = f"b.0.{len(list((self.state / 'layers').glob('*/.work/*'))) + 1}"
        workspace = self.launcher.layers.begin(None, name)
        order = AttemptOrder("b", "one", 1, "dcd/checkpoints/custom_script", "CustomScript", "", "")
        return replace(order, **{"workspace": workspace.name, **more})


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    open_way(tmp_path)
    (tmp_path / "state").mkdir()
    return Setup(
        state_dir=tmp_path / "state",
        uid=UID,
        gid=UID,
        separate=True,
        artifact_gid=UID,
        backend="copy",
        socket=tmp_path / "s",
        socket_mode=0o600,
        socket_gid=None,
        settings_command=(),
        bounds=Bounds(hidden=(tmp_path / "state",)),
    )


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    """One that is not prepared."""
    launcher = Launcher()
    yield launcher
    launcher.close()
    assert launcher.process.poll() == 0


@pytest.fixture
def bench(launcher: Launcher, setup: Setup) -> Iterator[Bench]:
    """After each test it still answers."""
    bench = Bench(launcher, setup, launcher.prepare(setup))
    yield bench
    assert bench.ask("layers.find", backend="copy", key="0" * 64) == {"result": None}


def converse(launcher: Launcher) -> socket.socket:
    """A conversation without a request."""
    return launcher._converse()
