"""Files with locks: their text, what is refused, and the changes from one to another."""

import copy
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cli.client import ClientError
from cli.commands.lock import _print_changes
from cli.locks import MOST_BYTES, compare_versions, compared, lock_text, read_lock, write_lock

DIGEST = "a" * 64


def package(name: str, version: str, sha256: str = DIGEST) -> dict[str, Any]:
    return {
        "name": name,
        "version": version,
        "architecture": "amd64",
        "sha256": sha256,
        "size_bytes": 1,
        "uri": f"http://example.org/{name}.deb",
    }


def lock(*packages: dict[str, Any], release: str = DIGEST, asks: tuple[str, ...] = ()) -> Any:
    file = {"uri": "http://example.org/", "suite": "test", "path": "InRelease", "sha256": release}
    transfer = {
        "checkpoint": "transfer",
        "architecture": "amd64",
        "asks": [*asks],
        "files": [file],
        "packages": [*packages],
    }
    return {
        "format": "dcd-lock",
        "version": 1,
        "name": "grün",
        "parameters": {"suite": "test"},
        "profiles": [],
        "transfers": [transfer, {**transfer, "checkpoint": "more", "packages": []}],
    }


def test_a_lock_has_a_line_for_each_package_and_is_read_as_it_was_written(tmp_path: Path) -> None:
    written, path = lock(package("a", "1"), package("b", "2")), tmp_path / "x.lock"
    write_lock(path, written)
    assert read_lock(path) == written
    assert [line for line in path.read_text().splitlines() if '"b"' in line] == [
        f"    {json.dumps(package('b', '2'))}"
    ]
    assert lock_text(json.loads(path.read_text())) == path.read_text()
    assert [each.name for each in tmp_path.iterdir()] == ["x.lock"]


@pytest.mark.parametrize(
    ("content", "brief"),
    [
        (b"", "is not a lock"),
        (b"[]", "is not a lock"),
        (b"\xff", "is not a lock"),
        (b"[" * 100_000, "is not a lock"),
        (b'{"format": "other", "version": 1}', "is not a lock"),
        (b'{"format": "dcd-lock", "version": 2}', "has the format version 2"),
        (b" " * (MOST_BYTES + 1), "is larger than 3 MiB"),
        (b'{"format": "dcd-lock", "version": 1}', "is damaged"),
        (lock_text(lock(package("a", "1") | {"version": 1})).encode(), "is damaged"),
        (lock_text(lock() | {"parameters": []}).encode(), "is damaged"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: bytes, brief: str) -> None:
    (tmp_path / "x.lock").write_bytes(content)
    with pytest.raises(ClientError, match=brief):
        read_lock(tmp_path / "x.lock")


def test_a_file_that_is_missing_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="cannot read the lock") as failed:
        read_lock(tmp_path / "x.lock")
    assert "dcctl lock" in failed.value.resolution


def test_another_keyring_is_a_change_of_a_lock(tmp_path: Path) -> None:
    old, path = lock(package("a", "1")), tmp_path / "x.lock"
    checked = {"uri": "http://example.org/", "suite": "test", "trusted": False, "signed_by": ""}
    old["transfers"][0]["repositories"] = [{**checked, "keyrings": [DIGEST]}]
    new = copy.deepcopy(old)
    new["transfers"][0]["repositories"] = [{**checked, "keyrings": ["e" * 64]}]
    write_lock(path, new)
    assert compared(old, read_lock(path))["keyrings"] == [
        {"name": "http://example.org/ test", "from": [DIGEST], "to": ["e" * 64]}
    ]


def test_keys_in_armor_are_shown_by_their_digests(capsys: pytest.CaptureFixture[str]) -> None:
    one, other = (f"-----BEGIN PGP PUBLIC KEY BLOCK-----\n {key}" for key in ("one", "two"))
    keyrings = [{"name": "http://example.org/ test", "from": [one], "to": [other]}]
    _print_changes({"packages": [], "asks": [], "repositories": [], "keyrings": keyrings})
    [was, now] = re.findall(r"\b[0-9a-f]{16}\b", capsys.readouterr().out)
    assert was != now


def test_the_changes_of_a_lock_are_named() -> None:
    old = lock(
        package("gone", "1"),
        package("up", "1.9"),
        package("down", "2"),
        package("same", "1"),
        package("other", "1"),
        asks=("install gone", "install up"),
    )
    new = lock(
        package("new", "1"),
        package("up", "1.10"),
        package("down", "1:1~rc1"),
        package("same", "1"),
        package("other", "1", "b" * 64),
        asks=("install new", "install up"),
        release="c" * 64,
    )
    new["transfers"][0]["packages"][2]["version"] = "1.9"
    changes = compared(old, new)
    assert [
        (each["change"], each["name"], each["from"], each["to"]) for each in changes["packages"]
    ] == [
        ("downgraded", "down", "2", "1.9"),
        ("removed", "gone", "1", None),
        ("added", "new", None, "1"),
        ("replaced", "other", "1", "1"),
        ("upgraded", "up", "1.9", "1.10"),
    ]
    [repository] = changes["repositories"]
    assert repository == {"name": "http://example.org/ test", "from": DIGEST, "to": "c" * 64}
    assert {(each["change"], each["ask"]) for each in changes["asks"]} == {
        ("added", "install new"),
        ("removed", "install gone"),
    }
    assert compared(old, copy.deepcopy(old)) == {
        "packages": [],
        "repositories": [],
        "keyrings": [],
        "asks": [],
    }


VERSIONS = (
    "1.0",
    "1.0-1",
    "1.0~rc1-1",
    "1:0.1",
    "1.0+deb12u1",
    "1.0+deb12u10",
    "1.0a",
    "1.9",
    "1.10",
    "0",
)


def test_numbers_of_a_version_may_have_any_length() -> None:
    assert compare_versions("1" * 5000, "01" + "1" * 4998) == 1
    assert compare_versions("0" * 5000, "0") == 0


@pytest.mark.parametrize("first", VERSIONS)
def test_versions_are_ordered_as_dpkg_orders_them(first: str) -> None:
    for second in VERSIONS:
        newer = subprocess.run(["dpkg", "--compare-versions", first, "gt", second]).returncode == 0
        older = subprocess.run(["dpkg", "--compare-versions", first, "lt", second]).returncode == 0
        assert compare_versions(first, second) == newer - older, (first, second)
