"""Which repositories a transfer means, with which keyrings, and which of them the image keeps."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.interface import Known
from dcd.checkpoints.transfer.deb_locked import known_state
from dcd.checkpoints.transfer.deb_sources import (
    SOURCES_FILE,
    combined,
    host_ingredients,
    is_on_this_host,
    leave_sources,
    sources_of,
    with_keyrings,
)
from dcd.manifest.objects.software import Software
from dcd.platform.apt import Source, as_written, parsed_list, source_list
from statemachine.errors import InvalidManifest
from store.resolved import Repository

DEBIAN = Source("http://deb.example.org/debian/", "bookworm", ("main",), "/usr/share/k.gpg")


def meant(bench: Any, *repositories: str, host: tuple[Source, ...] = (DEBIAN,)) -> list[Source]:
    doc = bench.doc(
        '<software name="t" type="DEB"><destination><image/></destination>'
        f"<source>{''.join(repositories)}</source></software>"
    )
    (software,) = doc.volatile.get_descendants(class_type=Software)
    return sources_of(software, host)


def test_entries_of_one_repository_are_one_with_all_their_components(bench: Any) -> None:
    assert meant(
        bench,
        '<repository suite="x" uri="http://a.example/" components="main"/>',
        '<repository suite="y" uri="http://a.example/" components="main"/>',
        '<repository suite="x" uri="http://a.example" components="contrib main"/>',
    ) == [
        Source("http://a.example/", "x", ("main", "contrib")),
        Source("http://a.example/", "y", ("main",)),
    ]


def test_a_keyring_counts_for_the_hosts_repository_too(bench: Any) -> None:
    (source,) = meant(bench, '<repository suite="bookworm" signed_by="keys/mine.gpg"/>')
    assert (source.uri, source.signed_by) == (DEBIAN.uri, "keys/mine.gpg")


def test_a_locked_build_has_the_key_of_the_keyring_that_its_image_gets(
    bench: Any, tmp_path: Path
) -> None:
    """Who imports a list chooses the keyrings in it: they must not become those of other people's images."""
    keyring = tmp_path / "corp.gpg"
    keyring.write_bytes(b"of the host")
    own, other = (hashlib.sha256(content).hexdigest() for content in (b"of the host", b"theirs"))
    doc = bench.doc(
        '<software name="t" type="DEB"><destination><image/></destination>'
        f'<source><repository suite="x"/><repository suite="y" uri="{DEBIAN.uri}"/></source></software>'
    )
    (software,) = doc.volatile.get_descendants(class_type=Software)

    def state(captured: str) -> dict[str, str]:
        place = {"uri": DEBIAN.uri, "components": ("main",), "keyring": f"{keyring}"}
        listed = tuple(Repository(suite=suite, keyrings=(captured,), **place) for suite in "xy")
        return known_state(
            software, Known(listed, {f"{DEBIAN.uri} {suite}": "a" for suite in "xy"})
        )

    host = [replace(DEBIAN, suite=suite, signed_by=f"{keyring}") for suite in "xy"]
    of_host = host_ingredients(software, sources_of(software, host))
    assert of_host
    assert of_host.items() <= state(own).items()
    assert not of_host.items() & state(other).items()


def test_one_repository_with_two_keyrings_is_refused(bench: Any) -> None:
    with pytest.raises(InvalidManifest) as caught:
        meant(
            bench,
            '<repository suite="bookworm"/>',
            f'<repository suite="bookworm" uri="{DEBIAN.uri}" signed_by="keys/mine.gpg"/>',
        )
    assert DEBIAN.name in caught.value.brief
    assert "/usr/share/k.gpg" in caught.value.details
    assert "keys/mine.gpg" in caught.value.details


@pytest.mark.parametrize("uri", ["file:///srv/repo", "file:/srv/repo/"])
def test_packages_of_a_directory_are_copied_into_the_cache_and_the_source_is_named_as_written(
    bench: Any, uri: str
) -> None:
    (source,) = meant(bench, f'<repository suite="x" uri="{uri}"/>')
    assert f"URIs: copy:{uri[5:]}\n" in source_list([source])
    assert source.name == f"{uri} x"
    said = "E: The repository 'copy:/srv/repo x Release' is not signed, unlike copy:/srv/repository"
    bare = uri.rstrip("/")
    assert as_written(said, [source]) == (
        f"E: The repository '{bare} x Release' is not signed, unlike copy:/srv/repository"
    )


def test_a_copy_of_a_directory_that_was_asked_for_is_named_so(bench: Any) -> None:
    (source,) = meant(bench, '<repository suite="x" uri="copy:/srv/repo"/>')
    assert as_written("copy:/srv/repo x Release", [source]) == "copy:/srv/repo x Release"


def test_one_directory_named_in_two_ways_is_one_repository(bench: Any) -> None:
    (source,) = meant(
        bench,
        '<repository suite="x" uri="file:/srv/repo" components="main"/>',
        '<repository suite="x" uri="copy:/srv/repo" components="extra"/>',
    )
    assert source.components == ("main", "extra")


def test_a_login_and_trust_of_either_entry_count() -> None:
    (one,) = combined(
        [
            Source("http://a/", "x", ("main",), login=("u", "p")),
            Source("http://a/", "x", ("main",), trusted=True),
        ]
    )
    assert one == Source("http://a/", "x", ("main",), trusted=True, login=("u", "p"))


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    """Captured files, by the paths that a manifest names."""
    found = {}
    for number, (path, content) in enumerate(
        {
            "keys/a/archive.gpg": "binary a",
            "keys/b/archive.gpg": "binary b",
            "keys/c/archive.asc": "-----BEGIN PGP PUBLIC KEY BLOCK-----\nc\n",
            "keys/archive.txt": "binary d",
        }.items()
    ):
        found[path] = tmp_path / f"blob{number}"
        found[path].write_text(content)
    return found


def test_keyrings_of_one_file_name_stay_apart(tmp_path: Path, inputs: dict[str, Path]) -> None:
    sources = [Source(f"http://{path}/", "x", signed_by=path) for path in inputs]
    sources.append(Source("http://again/", "x", signed_by="keys/b/archive.gpg"))
    ready = with_keyrings(sources, inputs, tmp_path / "keyrings")
    assert [Path(source.signed_by).name for source in ready] == [
        "archive.gpg",
        "archive-2.gpg",
        "archive.asc",
        "archive-3.gpg",
        "archive-2.gpg",
    ]
    for source, path in zip(ready, [*inputs, "keys/b/archive.gpg"], strict=True):
        assert Path(source.signed_by).read_bytes() == inputs[path].read_bytes()


def test_the_image_keeps_each_source_with_the_keyring_that_it_had(
    tmp_path: Path, inputs: dict[str, Path]
) -> None:
    image = tmp_path / "image"
    taken = image / "etc/apt/keyrings/archive.gpg"
    taken.parent.mkdir(parents=True)
    taken.write_text("of a package")
    sources = with_keyrings(
        [Source(f"http://{path}/", "x", ("main",), path) for path in inputs],
        inputs,
        tmp_path / "keyrings",
    )
    leave_sources(image, sources)
    kept = parsed_list((image / SOURCES_FILE).read_text())
    assert [source.uri for source in kept] == [source.uri for source in sources]
    for source, path in zip(kept, inputs, strict=True):
        assert (image / source.signed_by.lstrip("/")).read_bytes() == inputs[path].read_bytes()
    assert taken.read_text() == "of a package"


def test_a_keyring_that_the_image_has_itself_stays_its_own(tmp_path: Path) -> None:
    own = tmp_path / "usr/share/k.gpg"
    own.parent.mkdir(parents=True)
    own.write_text("of the package that keeps it up to date")
    leave_sources(tmp_path, [DEBIAN])
    (kept,) = parsed_list((tmp_path / SOURCES_FILE).read_text())
    assert kept.signed_by == "/usr/share/k.gpg"


@pytest.mark.parametrize(
    "uri",
    [
        "copy:///srv/build/repo",
        "file:/srv/build/repo",
        "cdrom:[Debian]/",
        "mirror+file:/srv/mirrors.txt",
        "http://127.0.0.1:8799/a",
        "http://localhost/a",
        "https://[::1]:8443/a",
        "http://build.localhost./a",
    ],
)
def test_what_is_on_the_build_host_does_not_stay_in_the_image(tmp_path: Path, uri: str) -> None:
    keyring = tmp_path / "k.gpg"
    keyring.write_text("key")
    local = Source(uri, "x", ("main",), str(keyring))
    image = tmp_path / "image"
    (image / "usr/share").mkdir(parents=True)
    (image / "usr/share/k.gpg").touch()
    assert is_on_this_host(local)
    assert leave_sources(image, [local, DEBIAN]) == ([DEBIAN], [local])
    assert leave_sources(image, [local]) == ([], [local])
    found = [path.read_text() for path in image.rglob("*") if path.is_file()]
    assert not any("build" in text or "127." in text or "localhost" in text for text in found)
    assert not (image / "etc/apt/keyrings").exists()


@pytest.mark.parametrize(
    "uri", ["http://deb.example.org/", "https://192.0.2.1/x", "http://localhost.example.org/"]
)
def test_other_sources_stay(uri: str) -> None:
    assert not is_on_this_host(Source(uri, "x"))


def test_a_login_never_stays(tmp_path: Path) -> None:
    leave_sources(tmp_path, [Source("http://a.example/", "x", ("main",), login=("u", "secret"))])
    assert "secret" not in (tmp_path / SOURCES_FILE).read_text()


def test_the_sources_of_an_earlier_transfer_stay(tmp_path: Path) -> None:
    (tmp_path / "usr/share").mkdir(parents=True)
    (tmp_path / "usr/share/k.gpg").touch()
    leave_sources(tmp_path, [DEBIAN])
    vendor = Source("http://vendor.example/", "stable", ("main",))
    more = Source(DEBIAN.uri, DEBIAN.suite, ("contrib",), DEBIAN.signed_by)
    leave_sources(tmp_path, [vendor, more])
    kept = parsed_list((tmp_path / SOURCES_FILE).read_text())
    assert [(source.uri, source.components) for source in kept] == [
        (DEBIAN.uri, ("main", "contrib")),
        (vendor.uri, ("main",)),
    ]


def test_what_somebody_wrote_into_the_file_since_stays(tmp_path: Path) -> None:
    file = tmp_path / SOURCES_FILE
    file.parent.mkdir(parents=True)
    mine = source_list([Source("http://a.example/", "x", ("main",))]) + "Architectures: amd64\n"
    file.write_text(mine)
    leave_sources(tmp_path, [Source("http://a.example/", "x"), Source("http://b.example/", "y")])
    assert file.read_text() == mine + "\n" + source_list([Source("http://b.example/", "y")])


def test_a_list_is_read_as_it_is_written() -> None:
    keys = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n -----END PGP PUBLIC KEY BLOCK-----"
    sources = [
        DEBIAN,
        Source("http://flat.example/", "./", (), trusted=True),
        Source("http://keys.example/", "x", ("main", "contrib"), keys),
    ]
    assert parsed_list(source_list(sources)) == sources
