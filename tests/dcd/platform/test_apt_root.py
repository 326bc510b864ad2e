"""apt working on a root directory that holds nothing yet, against a real mirror."""

import hashlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dcd.platform import apt_root
from dcd.platform.apt import Source, host_apt
from dcd.platform.apt_root import (
    ARCHIVES,
    BESIDE_SCRIPTS,
    LISTS,
    Environment,
    Place,
    apt_settings,
    download,
    forget,
    reachable,
    release_files,
    similar_packages,
    transfers,
    update,
    wanted_files,
)
from statemachine.errors import CheckpointError, Unprepared
from store.host.capabilities import CHROOT, FILES, keep_only
from store.host.process import ToolFailed

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def mounts(request: pytest.FixtureRequest) -> None:
    """As a worker's: what root shows to apt's user is mounted."""
    if os.geteuid() == 0:
        request.getfixturevalue("own_mounts")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root below a directory that is closed to others, as the state directory is."""
    closed = tmp_path / "closed"
    closed.mkdir(0o700)
    (closed / "root").mkdir()
    return closed / "root"


@pytest.fixture
def stocked(mirror: Any) -> Any:
    """A mirror whose suite `test` has an application, its library, and a game."""
    mirror.publish("test", ("app", "Depends: lib\n"), ("lib", ""), ("game", ""))
    return mirror


@contextmanager
def at_work(
    root: Path, sources: Sequence[Source], never: Sequence[str] = ()
) -> Iterator[tuple[Place, Environment]]:
    """apt on the root, as a host of this configuration would do it."""
    host = host_apt()
    with reachable(root) as place:
        apt_settings(place, sources=sources, architecture="amd64", never=never)
        with transfers(place, host, sources) as online:
            yield place, online


@pytest.fixture
def apt(apt_host: Path, root: Path, stocked: Any) -> Iterator[Environment]:
    sources = [Source(stocked.uri, "test", trusted=True)]
    with at_work(root, sources, never=["game"]) as (_, online):
        yield online


def cached(root: Path) -> list[str]:
    return sorted(deb.name for deb in (root / "var/cache/apt/archives").glob("*.deb"))


def test_packages_are_downloaded_with_what_they_depend_on(apt: Environment, root: Path) -> None:
    update(apt, [])
    download(apt, [], ["app"])
    assert cached(root) == ["app_1.0_amd64.deb", "lib_1.0_amd64.deb"]


def test_the_digests_of_the_lists_are_those_of_the_mirror(
    apt: Environment, root: Path, stocked: Any
) -> None:
    update(apt, [])
    release = (stocked.directory / "dists/test/Release").read_bytes()
    assert set(release_files(root / LISTS)) == {hashlib.sha256(release).hexdigest()}


def test_a_mirror_that_stumbles_over_a_package_is_asked_again(
    apt: Environment, root: Path, stocked: Any
) -> None:
    update(apt, [])
    stocked.refusals["/pool/lib_1.0_amd64.deb"] = [503, 503]
    download(apt, [], ["app"])
    assert "lib_1.0_amd64.deb" in cached(root)
    assert stocked.requests["/pool/app_1.0_amd64.deb"] == 1


def test_a_package_that_stays_away_is_named_with_its_status(apt: Environment, stocked: Any) -> None:
    update(apt, [])
    stocked.refusals["/pool/lib_1.0_amd64.deb"] = [-503]
    with pytest.raises(Unprepared) as caught:
        download(apt, [], ["app"])
    assert f"{stocked.uri}pool/lib_1.0_amd64.deb: 503" in caught.value.details


def test_lists_that_stumble_are_fetched_again(apt: Environment, root: Path, stocked: Any) -> None:
    packages = "/dists/test/main/binary-amd64/Packages"
    stocked.refusals[packages] = [503]
    update(apt, [])
    assert stocked.requests[packages] == 2
    download(apt, [], ["lib"])
    assert cached(root) == ["lib_1.0_amd64.deb"]


def test_an_unknown_package_is_apts_refusal_at_once(apt: Environment, stocked: Any) -> None:
    update(apt, [])
    with pytest.raises(ToolFailed) as caught:
        download(apt, [], ["ap"])
    assert "Unable to locate package ap" in caught.value.output
    assert similar_packages(apt, "ap") == ["app"]


def test_an_apt_that_was_killed_has_not_found_that_there_is_no_solution(
    apt: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    update(apt, [])
    assert wanted_files(apt, ["ap"]) == []
    assert len(wanted_files(apt, ["app"])) == 2
    monkeypatch.setattr(apt_root, "keep_only", lambda _: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(ToolFailed, match="apt-get was killed by signal 9"):
        wanted_files(apt, ["app"])


def test_a_package_that_is_never_wanted_has_no_candidate(apt: Environment) -> None:
    update(apt, [])
    with pytest.raises(ToolFailed) as caught:
        download(apt, [], ["game"])
    assert "no installation candidate" in caught.value.output


def test_a_repository_without_a_trusted_signature_is_refused(
    apt_host: Path, root: Path, stocked: Any
) -> None:
    sources = [Source(stocked.uri, "test")]
    with (
        at_work(root, sources) as (_, online),
        pytest.raises(CheckpointError) as caught,
    ):
        update(online, [])
    assert "does not trust" in caught.value.brief
    assert "signed_by" in caught.value.resolution


def secrets_below(*directories: Path) -> list[Path]:
    return [
        file
        for directory in directories
        for file in directory.rglob("*")
        if file.is_file() and b"secret" in file.read_bytes()
    ]


def test_logins_and_proxies_are_beside_the_root_and_only_while_something_is_downloaded(
    apt_host: Path, root: Path, stocked: Any
) -> None:
    stocked.login = "user:secret"
    sources = [Source(stocked.uri, "test", trusted=True, login=("user", "secret"))]
    (apt_host / "apt.conf.d/proxy").write_text('Acquire::https::Proxy "http://user:secret@x/";\n')
    with at_work(root, sources) as (place, online):
        update(online, [])
        download(online, [], ["app"])
        found = secrets_below(place.aside)
        assert {oct(file.stat().st_mode & 0o777) for file in found} == {"0o600"}
        assert secrets_below(root) == []
    assert secrets_below(root) == []
    assert not place.aside.exists()
    with reachable(root) as place:
        apt = apt_settings(place, sources=sources, architecture="amd64")
        with transfers(place, host_apt(), sources) as online:
            update(online, [])
        assert secrets_below(place.aside, place.root) == []
        forget(root)
        with pytest.raises((Unprepared, ToolFailed)):
            update(apt, [])


@pytest.mark.root
def test_apt_downloads_as_its_own_user_whatever_the_directories_above_are_closed_to(
    apt_host: Path, root: Path, stocked: Any
) -> None:
    lines: list[str] = []
    with at_work(root, [Source(stocked.uri, "test", trusted=True)]) as (_, online):
        update(online, [], lines.append)
        download(online, [], ["app"], lines.append)
    assert not [line for line in lines if "unsandboxed" in line]


@pytest.mark.root
def test_a_root_that_apts_user_cannot_reach_is_refused(apt_host: Path, root: Path) -> None:
    (root / "var").mkdir(mode=0o700)
    with pytest.raises(CheckpointError, match="cannot download as its own user"), reachable(root):
        pass


def test_lists_and_cache_are_left_empty_and_roots(apt: Environment, root: Path) -> None:
    update(apt, [])
    download(apt, [], ["app"])
    forget(root)
    for directory in (LISTS, ARCHIVES):
        (left,) = (root / directory).iterdir()
        assert left.name == "partial"
        assert list(left.iterdir()) == []
        owner = left.stat()
        assert (owner.st_uid, owner.st_gid) == (os.geteuid(), os.getegid())
        assert owner.st_mode & 0o777 == 0o755
    assert sorted(path.name for path in (root / "var/cache/apt").iterdir()) == ["archives"]
    assert not (root / "etc").exists()


def test_settings_of_the_image_have_apt_run_nothing(
    apt_host: Path, root: Path, stocked: Any
) -> None:
    parts = root / "etc/apt/apt.conf.d"
    parts.mkdir(parents=True)
    (parts / "hook").write_text(f'APT::Update::Pre-Invoke {{"touch {root}/ran"; }};\n')
    with at_work(root, [Source(stocked.uri, "test", trusted=True)]) as (_, online):
        update(online, [])
    assert not (root / "ran").exists()


def test_links_of_the_image_do_not_lead_apt_out_of_it(
    apt_host: Path, root: Path, tmp_path: Path, stocked: Any
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "var").symlink_to(outside)
    with at_work(root, [Source(stocked.uri, "test", trusted=True)]) as (_, online):
        update(online, [])
    assert list(outside.iterdir()) == []


def test_a_script_cannot_look_into_a_download_beside_it() -> None:
    def sees(capabilities: Sequence[str]) -> bool:
        """Whether a program with the capabilities of scripts sees the root of one with these."""
        with subprocess.Popen(
            ["cat"], stdin=-1, preexec_fn=partial(keep_only, capabilities)
        ) as other:
            looking = ["readlink", f"/proc/{other.pid}/root"]
            looked = subprocess.run(
                looking, capture_output=True, preexec_fn=partial(keep_only, CHROOT), check=False
            )
            other.communicate()
        return looked.returncode == 0

    assert sees(FILES)
    assert not sees(BESIDE_SCRIPTS)
