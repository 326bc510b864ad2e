"""Paths of an image never lead out of it, whatever links are in it."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcd.platform.inside import entry, exists, make_directory, read, resolve, write
from statemachine.errors import CheckpointError
from store.host.interpreter import module_environment
from tests.user_namespaces import need_user_namespaces


@pytest.fixture
def image(tmp_path: Path) -> Path:
    root = tmp_path / "image"
    (root / "etc").mkdir(parents=True)
    return root


@pytest.mark.parametrize(
    ("links", "path", "expected"),
    [
        ({}, "/etc/motd", "etc/motd"),
        ({}, "../../etc/motd", "etc/motd"),
        ({"var": "/run"}, "var/lock", "run/lock"),
        ({"lib": "usr/lib"}, "/lib/modules", "usr/lib/modules"),
        ({"etc/alias": "../../../../outside"}, "etc/alias/file", "outside/file"),
        ({"a": "b/c", "b": "/d"}, "a/x", "d/c/x"),
        ({"etc/resolv.conf": "/run/stub"}, "etc/resolv.conf", "run/stub"),
    ],
)
def test_links_begin_again_at_the_image(
    image: Path, links: dict[str, str], path: str, expected: str
) -> None:
    for name, target in links.items():
        (image / name).symlink_to(target)
    assert resolve(image, path) == image / expected


def test_an_entry_is_the_link_itself(image: Path) -> None:
    (image / "lib").symlink_to("etc")
    (image / "etc/localtime").symlink_to("/usr/share/zoneinfo/Etc/UTC")
    assert entry(image, "/lib/localtime") == image / "etc/localtime"


def test_a_loop_of_links_is_an_error(image: Path) -> None:
    (image / "a").symlink_to("b")
    (image / "b").symlink_to("a")
    with pytest.raises(CheckpointError, match="loop of links"):
        resolve(image, "a/x")


def test_writing_replaces_a_link_and_leaves_its_target_alone(image: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("host")
    (image / "etc/motd").symlink_to(outside)
    write(image, "/etc/motd", "image", mode=0o640)
    assert outside.read_text() == "host"
    assert (image / "etc/motd").read_text() == "image"
    assert (image / "etc/motd").stat().st_mode & 0o777 == 0o640


def test_directories_are_made_inside_where_links_lead(image: Path) -> None:
    (image / "var").symlink_to("/data/var")
    write(image, "var/lib/x/file", b"\xff")
    assert (image / "data/var/lib/x/file").read_bytes() == b"\xff"


def test_a_file_does_not_replace_a_directory(image: Path) -> None:
    with pytest.raises(CheckpointError, match="is a directory"):
        write(image, "etc", "text")
    write(image, "file", "text")
    with pytest.raises((CheckpointError, OSError)):
        make_directory(image, "file")


def test_reading_what_is_not_there_gives_none(image: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("host")
    (image / "etc/leak").symlink_to(tmp_path / "secret")
    assert read(image, "etc/leak") is None
    assert read(image, "etc") is None
    assert read(image, "etc/none/deeper") is None
    assert not exists(image, "etc/leak")
    write(image, "etc/name", "value")
    assert read(image, "etc/name") == "value"


parts = st.lists(st.sampled_from(["a", "b", "c", "..", "."]), min_size=1, max_size=6)
targets = st.builds(lambda slash, names: slash + "/".join(names), st.sampled_from(["", "/"]), parts)


@settings(deadline=None)
@given(links=st.dictionaries(st.sampled_from(["a", "b", "d/a", "d/b"]), targets), path=targets)
def test_no_path_leaves_the_image(links: dict[str, str], path: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        _stays_inside(Path(name).resolve(), links, path)


def _stays_inside(image: Path, links: dict[str, str], path: str) -> None:
    (image / "d").mkdir()
    for name, target in links.items():
        (image / name).symlink_to(target)
    try:
        found = resolve(image, path)
    except CheckpointError:
        return
    assert found == image or image in found.parents
    assert ".." not in found.parts
    assert not found.is_symlink()
    if found.exists():
        assert os.path.realpath(found) == str(found)


@pytest.mark.root
@pytest.mark.parametrize(
    ("mode", "made"), [(0o600, 0o700), (0o400, 0o700), (0o644, 0o755), (0o640, 0o755)]
)
def test_directories_on_the_way_to_a_users_file_are_the_users(
    image: Path, mode: int, made: int
) -> None:
    home = image / "home/ada"
    home.mkdir(parents=True)
    os.chown(home, 1234, 1235)
    write(image, "home/ada/.config/app/settings", "x", mode=mode, owner=(1234, 1235))
    for path in ("home/ada/.config", "home/ada/.config/app"):
        status = (image / path).stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (1234, 1235, made), path


@pytest.mark.root
def test_directories_of_the_system_are_roots_and_open_whatever_is_put_into_them(
    image: Path,
) -> None:
    os.chown(image, 1234, 1235)
    write(image, "opt/app/secret", "x", mode=0o600, owner=(1234, 1235))
    for path in ("opt", "opt/app"):
        status = (image / path).stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (0, 0, 0o755), path


@pytest.mark.root
def test_a_directory_hands_its_group_on_where_it_says_so(image: Path) -> None:
    shared = image / "srv/shared"
    shared.mkdir(parents=True)
    os.chown(shared, 0, 50)
    shared.chmod(0o2775)
    status = make_directory(image, "srv/shared/new/deep").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (0, 50, 0o2755)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may set owners at all")
@pytest.mark.parametrize(
    ("namespace", "expected"), [((), "True"), (("unshare", "--user", "--map-root-user"), "False")]
)
def test_root_of_a_namespace_with_one_user_sets_no_owners(
    namespace: tuple[str, ...], expected: str
) -> None:
    if namespace:
        need_user_namespaces()
    asked = "from dcd.platform.inside import may_set_owners; print(may_set_owners())"
    answer = subprocess.run(
        [*namespace, sys.executable, "-c", asked],
        env={**os.environ, **module_environment()},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == expected
