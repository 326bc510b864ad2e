"""Lists of captured packages: the same packages give the same bytes, and nothing else is read as one."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statemachine.errors import DcdError
from store.resolved import (
    Repository,
    RepositoryFile,
    Resolved,
    ResolvedPackage,
    decoded,
    encoded,
    union,
)

DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)
TEXTS = st.text(max_size=8)
PACKAGES = st.builds(
    ResolvedPackage,
    kind=st.sampled_from(["deb", "ips"]),
    name=TEXTS,
    version=TEXTS,
    architecture=TEXTS,
    sha256=DIGESTS,
    size_bytes=st.integers(0, 1 << 40),
    uri=TEXTS,
    captured=st.booleans(),
)
FILES = st.builds(
    RepositoryFile,
    repository=TEXTS,
    suite=TEXTS,
    path=TEXTS,
    sha256=DIGESTS,
    size_bytes=st.integers(0, 1 << 40),
    stored=st.just("") | DIGESTS,
)
REPOSITORIES = st.builds(
    Repository,
    uri=TEXTS,
    suite=TEXTS,
    components=st.lists(TEXTS, max_size=2).map(tuple),
    trusted=st.booleans(),
    signed_by=TEXTS,
    keyrings=st.lists(DIGESTS, max_size=2).map(tuple),
)
LISTS = st.builds(
    Resolved,
    packages=st.lists(PACKAGES, max_size=4).map(tuple),
    files=st.lists(FILES, max_size=4).map(tuple),
    repositories=st.lists(REPOSITORIES, max_size=2).map(tuple),
)


@given(LISTS)
def test_a_list_is_read_as_it_was_written(resolved: Resolved) -> None:
    read = decoded(encoded(resolved))
    assert set(read.packages) == set(resolved.packages)
    assert set(read.files) == set(resolved.files)
    assert read.repositories == resolved.repositories


@given(LISTS, st.randoms())
def test_the_order_of_packages_does_not_change_a_list(resolved: Resolved, random: object) -> None:
    packages = list(resolved.packages)
    random.shuffle(packages)  # type: ignore[attr-defined]
    assert encoded(replace(resolved, packages=tuple(packages))) == encoded(resolved)


@given(st.lists(LISTS, max_size=3))
def test_a_union_has_everything_once(lists: list[Resolved]) -> None:
    united = union([*lists, *lists])
    assert united == union(lists)
    assert {each.sha256 for each in united.packages} == {
        package.sha256 for each in lists for package in each.packages
    }
    stored = {name for each in lists for name in each.stored()}
    assert set(united.stored()) <= stored


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"packages": 1}',
        b'{"packages": [{"name": "a"}]}',
        b"[" * 100_000,
        json.dumps({"files": [{**dict.fromkeys(["repository", "suite", "path"], ""),
                               "sha256": "../x", "size_bytes": 1}]}).encode(),
    ],
    ids=lambda content: content[:20],
)  # fmt: skip
def test_what_is_no_list_is_refused(content: bytes) -> None:
    with pytest.raises(DcdError, match="damaged"):
        decoded(content)


def test_a_list_of_a_later_version_is_read() -> None:
    assert decoded(b'{"version": 2, "packages": [], "signatures": []}') == Resolved()
