"""Packages of Ubuntu: a repository laid out as its archive, with components and pockets, and signed with a
key of its own that the manifest names. Real apt and gpg; Ubuntu's own mirrors are not asked."""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.transfer.deb_sources import (
    SOURCES_FILE,
    leave_sources,
    sources_of,
    with_keyrings,
)
from dcd.manifest.objects.software import Software
from dcd.platform.apt import Source, host_apt
from dcd.platform.apt_root import apt_settings, reachable, transfers, update, wanted_files
from dcd.platform.asking import ask_releases
from statemachine.errors import CheckpointError
from tests.dcd.checkpoints.debian import software

pytestmark = pytest.mark.slow

KEYRING = "keys/ubuntu.gpg"
POCKETS = ("noble", "noble-updates", "noble-security")
ARCHIVE = {
    "noble": {"main": [("base", "1.0"), ("kernel", "6.8")], "universe": [("live-boot", "1:2")]},
    "noble-updates": {"main": [("base", "1.1")], "universe": []},
    "noble-security": {"main": [("kernel", "6.8.1")], "universe": []},
}
"""Each pocket's packages, by component."""


@pytest.fixture(autouse=True)
def mounts(request: pytest.FixtureRequest) -> None:
    """As a worker's: what root shows to apt's user is mounted."""
    if os.geteuid() == 0:
        request.getfixturevalue("own_mounts")


@pytest.fixture
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory of gpg with a key."""
    home = tmp_path_factory.mktemp("gpg")
    home.chmod(0o700)
    gpg(home, "--passphrase", "", "--quick-generate-key", "archive@example.org", "default", "sign")
    yield home
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)


def gpg(home: Path, *arguments: str | Path) -> None:
    command = ["gpg", "--homedir", home, "--batch", "--yes", "--pinentry-mode", "loopback"]
    subprocess.run([*command, *arguments], check=True, capture_output=True)


@pytest.fixture
def archive(mirror: Any, keys: Path, tmp_path: Path, apt_host: Path) -> Any:
    """The mirror of `ARCHIVE`; its keyring is the file `ubuntu.gpg`."""
    for suite, components in ARCHIVE.items():
        place = mirror.directory / "dists" / suite
        sums = ""
        for component, packages in components.items():
            index = b"".join(
                mirror._package(name, f"Version: {version}\n") for name, version in packages
            )
            file = place / component / "binary-amd64/Packages"
            file.parent.mkdir(parents=True)
            file.write_bytes(index)
            digest = hashlib.sha256(index).hexdigest()
            sums += f" {digest} {len(index)} {component}/binary-amd64/Packages\n"
        (place / "Release").write_text(
            f"Origin: Ubuntu\nLabel: Ubuntu\nSuite: {suite}\nCodename: noble\nArchitectures: amd64\n"
            f"Components: main universe\nDate: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n{sums}"
        )
        gpg(keys, "--output", place / "InRelease", "--clearsign", place / "Release")
    gpg(keys, "--output", tmp_path / "ubuntu.gpg", "--export")
    return mirror


def sources_for_noble(bench: Any, uri: str) -> list[Source]:
    """The sources of a manifest that names all pockets."""
    repositories = "".join(
        f'<repository uri="{uri}" suite="{suite}" components="main universe" signed_by="{KEYRING}"/>'
        for suite in POCKETS
    )
    (element,) = bench.doc(software("", repositories)).volatile.get_descendants(class_type=Software)
    return sources_of(element, [])


def test_packages_come_from_all_components_and_the_newest_from_its_pocket(
    bench: Any, archive: Any, tmp_path: Path
) -> None:
    sources = sources_for_noble(bench, archive.uri)
    state = ask_releases(sources, host_apt(), "")
    assert list(state) == [f"{archive.uri} {suite}" for suite in POCKETS]
    with reachable(bench.image) as place:
        keyring = {KEYRING: tmp_path / "ubuntu.gpg"}
        ready = with_keyrings(sources, keyring, place.aside / "keyrings")
        apt = apt_settings(place, sources=ready, architecture="amd64")
        with transfers(place, host_apt(), ready) as online:
            update(online, ready)
        wanted = wanted_files(apt, ["base", "kernel", "live-boot"])
    assert sorted(each.name for each in wanted) == [
        "base_1.1_amd64.deb",
        "kernel_6.8.1_amd64.deb",
        "live-boot_1%3a2_amd64.deb",
    ]


def test_a_key_that_is_not_the_archives_is_not_trusted(
    bench: Any, archive: Any, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir(0o700)
    gpg(other, "--passphrase", "", "--quick-generate-key", "other@example.org", "default", "sign")
    gpg(other, "--output", tmp_path / "other.gpg", "--export")
    subprocess.run(["gpgconf", "--homedir", other, "--kill", "all"], check=False)
    with reachable(bench.image) as place:
        keyring = {KEYRING: tmp_path / "other.gpg"}
        named = sources_for_noble(bench, archive.uri)
        sources = with_keyrings(named, keyring, place.aside / "keyrings")
        apt_settings(place, sources=sources, architecture="amd64")
        with (
            transfers(place, host_apt(), sources) as online,
            pytest.raises(CheckpointError, match="does not trust") as caught,
        ):
            update(online, sources)
    assert "signed_by" in caught.value.resolution


def test_the_image_keeps_the_pockets_with_their_components_and_the_keyring(
    bench: Any, tmp_path: Path
) -> None:
    (tmp_path / "ubuntu.gpg").write_bytes(b"key")
    sources = with_keyrings(
        sources_for_noble(bench, "http://archive.example.org/ubuntu"),
        {KEYRING: tmp_path / "ubuntu.gpg"},
        tmp_path / "keyrings",
    )
    leave_sources(bench.image, sources)
    text = (bench.image / SOURCES_FILE).read_text()
    assert text.count("Components: main universe\n") == len(POCKETS)
    assert text.count("Signed-By: /etc/apt/keyrings/ubuntu.gpg\n") == len(POCKETS)
    assert (bench.image / "etc/apt/keyrings/ubuntu.gpg").read_bytes() == b"key"
