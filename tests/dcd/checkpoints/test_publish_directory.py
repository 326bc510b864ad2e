"""PublishDirectory with rsync: into a directory of this host, and by ssh to a server of the test."""

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.publish.directory import PublishDirectory
from statemachine.errors import CheckpointError
from store.host.process import ToolFailed
from tests.dcd.checkpoints.publishing import (
    Faulty,
    delivered,
    faulty,
    published,
    serving,
)

pytestmark = pytest.mark.slow

SSHD = """Port {port}
ListenAddress 127.0.0.1
HostKey {home}/host
PidFile none
AuthorizedKeysFile {home}/authorized
StrictModes no
UsePAM no
PermitRootLogin yes
"""


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, str]]:
    """A server for ssh that takes the key in DCD_SECRET_SSH: its port and its public key."""
    home = tmp_path / "sshd"
    home.mkdir()
    for name in ("host", "login"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / name]
        subprocess.run(command, check=True)
    shutil.copy(home / "login.pub", home / "authorized")
    monkeypatch.setenv("DCD_SECRET_SSH", (home / "login").read_text())
    Path("/run/sshd").mkdir(exist_ok=True)

    def command(port: int) -> list[Path | str]:
        (home / "config").write_text(SSHD.format(port=port, home=home))
        return ["/usr/sbin/sshd", "-D", "-f", home / "config"]

    with serving(command) as port:
        yield port, " ".join((home / "host.pub").read_text().split()[:2])


@pytest.fixture
def proxy(ssh: tuple[int, str]) -> Iterator[Faulty]:
    with faulty(ssh[0]) as found:
        yield found


def contents(place: Path) -> dict[str, str]:
    """The files behind the link."""
    return {each.name: each.read_text() for each in (place / "latest").iterdir()}


def test_products_are_put_beside_the_old_ones_and_the_link_changes_at_once(
    bench: Any, tmp_path: Path
) -> None:
    place = tmp_path / "images"
    place.mkdir()
    checkpoint = PublishDirectory("p", destination=str(place))
    first = published(delivered(bench, live_iso=b"one", live_tsv=b"list"), checkpoint)
    digest = hashlib.sha256(b"one").hexdigest()
    assert contents(place)["live.iso"] == "one"
    assert f"{digest}  live.iso\n" in contents(place)["SHA256SUMS"]
    name = (place / "latest").readlink().name
    assert first[0].url == f"{place}/{name}/live.iso"
    assert all(each.uploaded for each in first)
    assert (place / "latest/live.iso").stat().st_mode & 0o777 == 0o644

    again = published(delivered(bench, live_iso=b"one", live_tsv=b"list"), checkpoint)
    assert not any(each.uploaded for each in again)

    published(delivered(bench, live_iso=b"two", live_tsv=b"list"), checkpoint)
    assert contents(place)["live.iso"] == "two"
    assert (place / name / "live.iso").read_text() == "one"
    second = (place / "latest").readlink().name
    assert (place / name / "live.tsv").stat().st_ino == (place / second / "live.tsv").stat().st_ino
    assert sorted(each.name for each in place.iterdir()) == sorted([name, second, "latest"])

    published(delivered(bench, live_iso=b"one", live_tsv=b"list"), checkpoint)
    assert (place / "latest").readlink().name == name, "an old set becomes the newest again"
    (place / name / "live.iso").write_text("bad")
    published(delivered(bench, live_iso=b"one", live_tsv=b"list"), checkpoint)
    assert contents(place)["live.iso"] == "one", "a damaged file is replaced"


@pytest.mark.root
def test_products_are_sent_by_ssh_to_the_host_with_that_key_only(
    bench: Any, ssh: tuple[int, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, key = ssh
    place = tmp_path / "remote dir"
    given = {"destination": f"root@127.0.0.1:{port}:{place}", "credentials": "DCD_SECRET_SSH"}
    context = delivered(bench, live_iso=b"one")
    other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
    with pytest.raises(CheckpointError, match="is not the host with that host_key"):
        published(context, PublishDirectory("p", host_key=other, **given))
    assert not place.exists()
    assert all(
        each.uploaded for each in published(context, PublishDirectory("p", host_key=key, **given))
    )
    assert contents(place)["live.iso"] == "one"
    assert not any(
        each.uploaded for each in published(context, PublishDirectory("p", host_key=key, **given))
    )
    assert not (context.tmp / "ssh").exists()
    (tmp_path / "sshd/authorized").write_text("")
    with pytest.raises(CheckpointError, match="refuses the credentials"):
        published(context, PublishDirectory("p", host_key=key, **given))


def test_what_is_interrupted_is_not_visible_and_continues(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "images"
    place.mkdir()
    checkpoint = PublishDirectory("p", destination=str(place))
    published(delivered(bench, live_iso=b"one"), checkpoint)
    original = type(bench.context(bench.doc())).run

    def breaks(self: Any, argv: Any, **options: Any) -> Any:
        if argv[0] == "rsync":
            raise ToolFailed(argv, 12, "rsync error: connection unexpectedly closed", None)
        return original(self, argv, **options)

    monkeypatch.setattr("dcd.checkpoints.interface.Context.run", breaks)
    with pytest.raises(CheckpointError) as failed:
        published(delivered(bench, live_iso=b"two"), checkpoint)
    assert "dcctl retry" in failed.value.resolution
    assert contents(place)["live.iso"] == "one"
    monkeypatch.setattr("dcd.checkpoints.interface.Context.run", original)
    shutil.rmtree(bench.root / "tmp/published", ignore_errors=True)
    published(delivered(bench, live_iso=b"two"), checkpoint)
    assert contents(place)["live.iso"] == "two"
    assert not list(place.glob(".*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"destination": "images"}, "is no directory to publish to"),
        ({"destination": "/srv/../etc"}, "has no .. in it"),
        ({"destination": "/srv/x", "link": "../x"}, "is no name for a link"),
        ({"destination": "me@example.org:/srv"}, "ssh needs credentials and a host_key"),
        ({"destination": "/srv/x", "credentials": "secret"}, "are a reference to a secret"),
    ],
)
def test_wrong_arguments_are_named(bench: Any, arguments: dict[str, str], message: str) -> None:
    found = [each.message for each in PublishDirectory("p", **arguments).check(bench.doc())]
    assert any(message in each for each in found), found
