"""Two build servers, each with its own log, share layers through Debian's docker-registry."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Daemon
from tests.dcd.farm.registries import RunningRegistry, registry

pytestmark = [pytest.mark.faults, pytest.mark.root, pytest.mark.daemon]

MANIFEST = """<dc><distro name="x"><execution>
<checkpoint name="quick" mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript">
<args>echo quick > $PKG_IMAGE_PATH/quick</args></checkpoint>
<checkpoint name="slow" mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript">
<args>sleep 1.2; echo {} > $PKG_IMAGE_PATH/slow; ln $PKG_IMAGE_PATH/slow $PKG_IMAGE_PATH/same</args>
</checkpoint></execution></distro></dc>"""


ZSTD = b"\x28\xb5\x2f\xfd"
"""The begin of what zstd(1) writes (RFC 8878)."""


class Servers:
    """A registry, and two build servers that use it."""

    def __init__(self, registry: RunningRegistry, directory: Path) -> None:
        self.registry = registry
        self.both: list[Daemon] = []
        for name in ("a", "b"):
            place = directory / name
            place.mkdir()
            server = Daemon(place)
            server.tables = (
                f'[farm]\nregistry = "{registry.url}"\nregistry_login = "DCD_SECRET_LAYERS"\n'
            )
            self.both.append(server.start())
        self._manifests = directory

    def submit(self, number: int, text: str) -> str:
        path = self._manifests / "m.xml"
        path.write_text(MANIFEST.format(text))
        return self.both[number].submit(path)

    def run(self, number: int, text: str) -> dict[str, str]:
        """The states of the checkpoints of a build on a server, at its end."""
        status = self.both[number].wait(self.submit(number, text))
        assert status["state"] == "completed", status
        return {each["name"]: each["state"] for each in status["checkpoints"]}

    def until(self, holds: Callable[[], Any], seconds: float = 120.0) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, "".join(
                each.log.read_text()[-3000:] for each in self.both
            )
            time.sleep(0.05)

    def share(self, text: str) -> None:
        """Have the first server make and send what the manifest with this text needs."""
        build = self.submit(0, text)
        assert self.both[0].wait(build)["state"] == "completed"
        done = [
            each for each in self.both[0].events(build) if each["type"] == "CheckpointCompleted"
        ]
        key = done[-1]["data"]["key"]
        self.until(lambda: any(tag.startswith(key) for tag in self.registry.tags()))

    def check(self, number: int) -> dict[str, str]:
        """What `dcctl doctor` says of sharing."""
        checks = self.both[number].json("doctor", status=None)["checks"]
        found: dict[str, str] = next(each for each in checks if each["name"] == "shared layers")
        return found


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Two servers; the first has sent the layers of "one"."""
    os.environ["DCD_SECRET_LAYERS"] = "me:word"
    place = tmp_path_factory.mktemp("registry")
    try:
        with registry(place) as running:
            made = Servers(running, tmp_path_factory.mktemp("servers"))
            made.share("one")
            yield made
            for each in made.both:
                each.kill()
    finally:
        del os.environ["DCD_SECRET_LAYERS"]


def test_a_server_reuses_what_another_one_has_made(servers: Servers) -> None:
    assert servers.run(1, "one")["slow"] == "reused"
    assert "0 come" not in servers.check(1)["value"]
    checked = servers.both[1].json("verify", "--layers")["layers"]
    assert {each["state"] for each in checked} == {"unchanged"}


def test_a_restart_misses_no_builds_of_layers_that_were_brought(servers: Servers) -> None:
    servers.run(1, "one")
    servers.both[1].stop()
    servers.both[1].start()
    assert servers.both[1].json("doctor", status=None)["checks"]
    health = servers.both[1].ctl("doctor", status=None)
    assert "lost events" not in health
    assert servers.run(1, "one") == {"quick": "reused", "slow": "reused"}


def test_a_layer_with_another_byte_is_refused_and_made_again(servers: Servers) -> None:
    servers.run(1, "one")  # so that it has the layer below
    before = set(servers.registry.blobs())
    servers.share("two")
    new = (path for path in servers.registry.blobs() if path not in before)
    packed = next(path for path in new if path.read_bytes().startswith(ZSTD))
    content = bytearray(packed.read_bytes())
    content[len(content) // 2] ^= 1
    packed.write_bytes(content)
    assert servers.run(1, "two") == {"quick": "reused", "slow": "completed"}
    told = servers.check(1)
    assert told["status"] == "warning"
    assert "1 refused" in told["value"]
    assert "a shared layer is refused" in servers.both[1].log.read_text()


def test_layers_that_no_build_names_any_more_leave_the_registry(servers: Servers) -> None:
    servers.share("four")
    known = set(servers.registry.tags())
    servers.both[1].ctl("gc")
    assert set(servers.registry.tags()) == known, "they are of builds of another server"
    builds = servers.both[0].json("list")
    servers.both[0].ctl("rm", builds[0]["id"])
    servers.both[0].ctl("gc")
    assert len(servers.registry.tags()) == len(known) - 1


def test_a_build_completes_while_the_registry_dies_and_the_next_ones_without_it(
    servers: Servers,
) -> None:
    servers.share("five")
    servers.run(1, "five")
    build = servers.submit(0, "three")
    servers.both[0].wait_for_event(build, "CheckpointStarted")
    servers.registry.kill()
    assert servers.both[0].wait(build)["state"] == "completed"
    servers.until(lambda: servers.check(0)["status"] == "warning")
    assert servers.run(1, "five") == {"quick": "reused", "slow": "reused"}
    assert servers.run(1, "three") == {"quick": "reused", "slow": "completed"}
    assert "Traceback" not in "".join(each.log.read_text() for each in servers.both)
