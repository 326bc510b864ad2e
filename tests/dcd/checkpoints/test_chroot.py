"""Programs of an image in it: with the network they find hosts by name; the image keeps nothing of that."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcd.platform.chroot import chroot

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("own_mounts")]

HOSTS = "nameserver 192.0.2.53\n"


@pytest.fixture
def image(bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    bench.add_shell()
    resolver = tmp_path / "resolv.conf"
    resolver.write_text(HOSTS)
    monkeypatch.setattr("dcd.platform.chroot._RESOLVER", resolver)
    return bench.image  # type: ignore[no-any-return]


def seen(image: Path, command: str, network: bool = True) -> str:
    with chroot(image, network=network) as inside:
        return inside.run(["/bin/sh", "-c", command], capture=True).stdout


READ = "while read -r line; do echo $line; done </etc/resolv.conf"


def nothing(image: Path) -> None:
    pass


def no_etc(image: Path) -> None:
    assert not (image / "etc").exists()


def a_file(image: Path) -> None:
    (image / "etc").mkdir()
    (image / "etc/resolv.conf").write_text("nameserver 203.0.113.1\n")
    (image / "etc/resolv.conf").chmod(0o640)


def a_link(image: Path) -> None:
    a_file(image)
    (image / "etc/resolv.conf").rename(image / "etc/other")
    (image / "etc/resolv.conf").symlink_to("other")


def a_dangling_link(image: Path) -> None:
    (image / "etc").mkdir()
    (image / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")


def a_link_to_the_host(image: Path) -> None:
    (image / "etc").mkdir()
    (image / "etc/resolv.conf").symlink_to(image.parent / "outside")


def etc_elsewhere(image: Path) -> None:
    (image / "usr/etc").mkdir(parents=True)
    (image / "etc").symlink_to("/usr/etc")


def tree(image: Path) -> dict[str, tuple[int, str]]:
    """Each entry below the image with its mode, and where it leads or what is in it."""
    found = {}
    for path in sorted(image.rglob("*")):
        mode = path.lstat().st_mode
        text = str(path.readlink()) if path.is_symlink() else ""
        if path.is_file() and not path.is_symlink() and path.stat().st_size < 1000:
            text = path.read_text()
        found[str(path.relative_to(image))] = (mode, text)
    return found


@pytest.mark.parametrize(
    "prepare",
    [no_etc, a_file, a_link, a_dangling_link, a_link_to_the_host, etc_elsewhere],
    ids=lambda prepare: prepare.__name__,
)
def test_with_the_network_the_hosts_resolver_is_there_and_gone_afterwards(
    image: Path, prepare: Callable[[Path], None]
) -> None:
    prepare(image)
    seen(image, "true")  # makes the directories that are mounted on
    before = tree(image)
    assert seen(image, READ) == HOSTS
    assert tree(image) == before
    with pytest.raises(RuntimeError), chroot(image, network=True):
        raise RuntimeError
    assert tree(image) == before


def test_without_the_network_the_image_has_its_own(image: Path) -> None:
    a_file(image)
    assert seen(image, READ, network=False) == "nameserver 203.0.113.1\n"


@pytest.mark.parametrize("prepare", [nothing, a_file, a_dangling_link])
def test_what_a_program_puts_there_itself_stays(
    image: Path, prepare: Callable[[Path], None]
) -> None:
    prepare(image)
    seen(image, "echo nameserver 198.51.100.1 >/etc/resolv.conf")
    assert (image / "etc/resolv.conf").read_text() == "nameserver 198.51.100.1\n"
    assert [path.name for path in (image / "etc").iterdir()] == ["resolv.conf"]


def test_a_host_without_a_resolver_gives_none(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcd.platform.chroot._RESOLVER", Path("/nowhere/resolv.conf"))
    a_file(image)
    assert seen(image, READ) == "nameserver 203.0.113.1\n"
