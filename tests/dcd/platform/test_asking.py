"""What the daemon asks of repositories: through a process without rights, and with bounded answers."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dcd.platform.apt import HostApt, Source, host_apt
from dcd.platform.apt_release import MOST_BYTES
from dcd.platform.asking import SECONDS, ask_catalogs, ask_releases, local_path
from dcd.platform.ips import MOST_ARCHIVE_BYTES, Repository
from statemachine.errors import InvalidManifest, Unprepared

pytestmark = pytest.mark.slow

NOTHING = HostApt((), "", "")

root = pytest.mark.root
"""These say what root's daemon hands to others; a daemon of another user asks with that user's rights."""


def repository(directory: Path, release: str = "state") -> Source:
    """A repository of this host, in a directory that everybody may enter."""
    place = directory / "dists/test"
    place.mkdir(parents=True)
    (place / "InRelease").write_text(release)
    return Source(f"copy://{directory}", "test")


def test_a_repository_on_this_host_is_asked_too(public_path: Path) -> None:
    source = repository(public_path / "repository")
    assert list(ask_releases([source], NOTHING)) == [source.name]


@root
@pytest.mark.parametrize("closed", ["dists/test/InRelease", "", ".."])
def test_a_repository_on_this_host_is_read_with_the_rights_of_everybody(
    public_path: Path, closed: str
) -> None:
    source = repository(public_path / "repository")
    (public_path / "repository" / closed).resolve().chmod(0o700)
    with pytest.raises(Unprepared):
        ask_releases([source], NOTHING, patient=False)
    with pytest.raises(Unprepared):
        ask_catalogs([Repository(source.uri, "one")], patient=False)


@root
@pytest.mark.parametrize(
    "path",
    ["/", "/etc/shadow", "/root", "/srv/../root", "/proc/1/root", "/nowhere"],
)
def test_other_files_of_the_host_are_no_repositories(path: str) -> None:
    for origin in (path, f"file://{path}", f"copy://{path}"):
        with pytest.raises(Unprepared, match="cannot be read by everybody"):
            ask_catalogs([Repository(origin, "one")], patient=False)
    with pytest.raises(Unprepared, match="cannot be read by everybody"):
        ask_releases([Source(f"copy://{path}", "test")], NOTHING, patient=False)


@root
def test_a_program_of_the_manifests_choice_does_not_run_as_root(public_path: Path) -> None:
    """Whatever reached apt's settings: its transports run as a user without rights."""
    methods = public_path / "methods"
    methods.mkdir()
    script = methods / "http"
    script.write_text(
        f"#!/bin/sh\nid >{public_path}/ran\ncat /etc/shadow >{public_path}/read\nexit 1\n"
    )
    script.chmod(0o755)
    public_path.chmod(0o777)
    host = HostApt((), f'Dir::Bin::Methods "{methods}/";\n', "")
    with pytest.raises(Unprepared):
        ask_releases([Source("http://127.0.0.1:1/", "test")], host, patient=False)
    assert not (public_path / "ran").exists()
    assert not (public_path / "read").exists()


@pytest.mark.parametrize(
    "proxy", ['http://x"; Dir::Bin::Methods "/m/"; X "', "http://x\n", "http://x\0y", 'a"']
)
def test_a_proxy_that_apts_settings_cannot_hold_is_refused(proxy: str) -> None:
    with pytest.raises(InvalidManifest, match="cannot be a setting of apt"):
        ask_releases([Source("http://127.0.0.1:1/", "test")], NOTHING, proxy)


def test_a_release_file_without_end_is_refused_when_it_is_too_large(mirror: Any) -> None:
    served = mirror.directory / "dists/test/InRelease"
    served.parent.mkdir(parents=True)
    with served.open("wb") as file:
        file.truncate(16 * MOST_BYTES)
    with pytest.raises(Unprepared, match="larger than 4 MiB"):
        ask_releases([Source(mirror.uri, "test")], NOTHING)
    assert mirror.requests["/dists/test/InRelease"] == 1


def test_a_catalog_without_end_is_refused_when_it_is_too_large(mirror: Any) -> None:
    served = mirror.directory / "one/catalog/1/catalog.attrs"
    served.parent.mkdir(parents=True)
    with served.open("wb") as file:
        file.truncate(16 * MOST_BYTES)
    with pytest.raises(Unprepared) as caught:
        ask_catalogs([Repository(mirror.uri, "one")])
    assert "more than" in caught.value.details


def test_a_catalog_that_is_no_file_is_an_error_and_not_waited_for(public_path: Path) -> None:
    catalog = public_path / "repo/publisher/one/catalog"
    catalog.mkdir(parents=True)
    os.mkfifo(catalog / "catalog.attrs", 0o644)
    with pytest.raises(Unprepared) as caught:
        ask_catalogs([Repository(str(public_path / "repo"), "one")])
    assert "not a regular file" in caught.value.details


@pytest.mark.parametrize("what", ["fifo", "device", "sparse"])
def test_an_origin_that_is_no_archive_is_refused_at_once(public_path: Path, what: str) -> None:
    origin = public_path / "packages.p5p"
    if what == "fifo":
        os.mkfifo(origin, 0o644)
    elif what == "device":
        origin.symlink_to("/dev/zero")
    else:
        with origin.open("wb") as file:
            file.truncate(MOST_ARCHIVE_BYTES + 1)
    with pytest.raises(Unprepared, match="cannot be read"):
        ask_catalogs([Repository(f"file://{origin}", "")])


def test_a_catalog_on_this_host_is_read_up_to_a_size(public_path: Path) -> None:
    catalog = public_path / "repo/publisher/one/catalog"
    catalog.mkdir(parents=True)
    with (catalog / "catalog.attrs").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(Unprepared) as caught:
        ask_catalogs([Repository(str(public_path / "repo"), "one")])
    assert "larger than" in caught.value.details


def test_without_patience_a_repository_is_asked_once(mirror: Any) -> None:
    mirror.refusals["/dists/test/InRelease"] = [-503]
    with pytest.raises(Unprepared, match="503"):
        ask_releases([Source(mirror.uri, "test")], NOTHING, patient=False)
    assert mirror.requests["/dists/test/InRelease"] == 1


def test_a_login_is_used_and_is_in_no_error(mirror: Any) -> None:
    mirror.login = "user:p@ss"
    mirror.publish("test")
    assert ask_releases([Source(mirror.uri, "test", login=("user", "p@ss"))], NOTHING)
    with pytest.raises(Unprepared) as caught:
        ask_releases([Source(mirror.uri, "test", login=("user", "other-p@ss"))], NOTHING)
    assert "other-p@ss" not in str(caught.value)


@root
def test_the_hosts_configuration_may_be_roots_alone(apt_host: Path) -> None:
    for name, text in (
        ("sources.list", "deb [trusted=yes] http://user:secret@example.org/x test main\n"),
        ("apt.conf.d/proxy", 'Acquire::http::Proxy "http://proxy.example:1";\n'),
        ("auth.conf.d/one.conf", "machine example.org login a password b\n"),
    ):
        (apt_host / name).write_text(text)
        (apt_host / name).chmod(0o600)
    host = host_apt()
    assert [source.name for source in host.sources] == ["http://example.org/x/ test"]
    assert "proxy.example" in host.settings
    assert "password b" in host.logins
    assert "secret" not in repr(host)


def test_the_umask_of_the_daemon_makes_no_difference(public_path: Path) -> None:
    source = repository(public_path / "repository")
    before = os.umask(0o077)
    try:
        assert ask_releases([source], host_apt())
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    ("origin", "path"),
    [
        ("/srv/a b", "/srv/a b"),
        ("file:///srv/a%20b", "/srv/a b"),
        ("copy:/srv/a", "/srv/a"),
        ("http://example.org/srv", None),
    ],
)
def test_what_of_this_host_an_origin_names(origin: str, path: str | None) -> None:
    assert local_path(origin) == (None if path is None else Path(path))


ASKER = """
from dcd.platform.apt import HostApt, Source
from dcd.platform.asking import ask_releases
source = Source({uri!r}, "test", login=("user", "p@ss-of-the-host"))
ask_releases([source], HostApt((), "", "machine x login a password p@ss-of-the-host"))
"""


@root
def test_a_kill_in_the_middle_leaves_no_login_and_nothing_for_long(
    mirror: Any, tmp_path: Path
) -> None:
    mirror.refusals["/dists/test/InRelease"] = [-503]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", ASKER.format(uri=mirror.uri)]
    with subprocess.Popen(command, env=environment) as asker:
        while not mirror.requests:
            assert asker.poll() is None
            time.sleep(0.01)
        asker.kill()
    (left,) = tmp_path.glob("dcd-asking-*")
    assert left.stat().st_mode & 0o777 == 0o700
    for file in left.rglob("*"):
        assert file.is_dir() or b"p@ss" not in file.read_bytes()
    long_ago = time.time() - 3 * SECONDS
    os.utime(left, (long_ago, long_ago))
    young = tmp_path / "dcd-asking-young"
    young.mkdir()
    code = "from dcd.platform.asking import *; ask_releases([], HostApt((), '', ''))"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert list(tmp_path.glob("dcd-asking-*")) == [young]
