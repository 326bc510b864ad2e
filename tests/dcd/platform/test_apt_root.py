"""apt working on a root directory that holds nothing yet, against a real mirror."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from dcd.platform.apt import Source, host_apt
from dcd.platform.apt_root import (
    Environment,
    apt_root,
    download,
    list_digests,
    similar_packages,
    update,
)
from dcd.platform.process import ToolFailed
from statemachine.errors import CheckpointError, Unprepared


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "root"


@pytest.fixture
def stocked(mirror: Any) -> Any:
    """A mirror whose suite `test` has an application, its library, and a game."""
    mirror.publish("test", ("app", "Depends: lib\n"), ("lib", ""), ("game", ""))
    return mirror


def at_work(
    root: Path, sources: Sequence[Source], never: Sequence[str] = ()
) -> AbstractContextManager[Environment]:
    """apt on the root, as a host of this configuration would do it."""
    scratch = root.parent / "scratch"
    return apt_root(
        root, scratch, sources=sources, host=host_apt(), architecture="amd64", never=never
    )


@pytest.fixture
def apt(apt_host: Path, root: Path, stocked: Any) -> Iterator[Environment]:
    sources = [Source(stocked.uri, "test", trusted=True)]
    scratch = root.parent / "scratch"
    with apt_root(
        root, scratch, sources=sources, host=host_apt(), architecture="amd64", never=["game"]
    ) as inside:
        yield inside


def cached(root: Path) -> list[str]:
    return sorted(deb.name for deb in (root / "var/cache/apt/archives").glob("*.deb"))


def test_packages_are_downloaded_with_what_they_depend_on(apt: Environment, root: Path) -> None:
    update(apt)
    download(apt, ["app"])
    assert cached(root) == ["app_1.0_amd64.deb", "lib_1.0_amd64.deb"]


def test_the_digests_of_the_lists_are_those_of_the_mirror(
    apt: Environment, root: Path, stocked: Any
) -> None:
    update(apt)
    release = (stocked.directory / "dists/test/Release").read_bytes()
    assert list_digests(root) == {hashlib.sha256(release).hexdigest()}


def test_a_mirror_that_stumbles_over_a_package_is_asked_again(
    apt: Environment, root: Path, stocked: Any
) -> None:
    update(apt)
    stocked.refusals["/pool/lib_1.0_amd64.deb"] = [503, 503]
    download(apt, ["app"])
    assert "lib_1.0_amd64.deb" in cached(root)
    assert stocked.requests["/pool/app_1.0_amd64.deb"] == 1


def test_a_package_that_stays_away_is_named_with_its_status(apt: Environment, stocked: Any) -> None:
    update(apt)
    stocked.refusals["/pool/lib_1.0_amd64.deb"] = [-503]
    with pytest.raises(Unprepared) as caught:
        download(apt, ["app"])
    assert f"{stocked.uri}pool/lib_1.0_amd64.deb: 503" in caught.value.details


def test_lists_that_stumble_are_fetched_again(apt: Environment, root: Path, stocked: Any) -> None:
    packages = "/dists/test/main/binary-amd64/Packages"
    stocked.refusals[packages] = [503]
    update(apt)
    assert stocked.requests[packages] == 2
    download(apt, ["lib"])
    assert cached(root) == ["lib_1.0_amd64.deb"]


def test_an_unknown_package_is_apts_refusal_at_once(apt: Environment, stocked: Any) -> None:
    update(apt)
    with pytest.raises(ToolFailed) as caught:
        download(apt, ["ap"])
    assert "Unable to locate package ap" in caught.value.output
    assert similar_packages(apt, "ap") == ["app"]


def test_a_package_that_is_never_wanted_has_no_candidate(apt: Environment) -> None:
    update(apt)
    with pytest.raises(ToolFailed) as caught:
        download(apt, ["game"])
    assert "no installation candidate" in caught.value.output


def test_a_repository_without_a_trusted_signature_is_refused(
    apt_host: Path, root: Path, stocked: Any
) -> None:
    sources = [Source(stocked.uri, "test")]
    with (
        apt_root(
            root, root.parent / "scratch", sources=sources, host=host_apt(), architecture="amd64"
        ) as inside,
        pytest.raises(CheckpointError) as caught,
    ):
        update(inside)
    assert "does not trust" in caught.value.brief
    assert "signed_by" in caught.value.resolution


def test_nothing_of_the_hosts_settings_stays_in_the_root(
    apt_host: Path, root: Path, stocked: Any
) -> None:
    stocked.login = "user:secret"
    sources = [Source(stocked.uri, "test", trusted=True, login=("user", "secret"))]
    (apt_host / "apt.conf.d/proxy").write_text('Acquire::https::Proxy "http://user:secret@x/";\n')
    with apt_root(
        root, root.parent / "scratch", sources=sources, host=host_apt(), architecture="amd64"
    ) as inside:
        update(inside)
        secrets = [
            file for file in root.rglob("*") if file.is_file() and b"secret" in file.read_bytes()
        ]
        assert {oct(file.stat().st_mode & 0o777) for file in secrets} == {"0o600"}
    left = [file for file in (root / "etc").rglob("*") if file.is_file()]
    assert left == []
