"""What differs between two layers, from their content manifests."""

import os
from pathlib import Path

from store.layers.comparison import compare_layers
from store.layers.content import CONTENT, Content, key_of, line_of, save_content


def layer(directory: Path, **facts: str) -> Path:
    """A layer with this content: the JSON of each path, without the path."""
    directory.mkdir()
    lines = {
        key: line_of(key, f'","type":"file",{text}}}'.encode())
        for key, text in ((key_of(name), text) for name, text in facts.items())
    }
    save_content(directory, Content.of(lines))
    return directory


FILE = '"mode":"644","uid":0,"gid":0,"mtime":1,"size":2,"sha256":"a"'


def test_each_difference_has_its_kind_and_the_values_that_differ(tmp_path: Path) -> None:
    first = layer(
        tmp_path / "first",
        same=FILE,
        content=FILE,
        owner=FILE,
        mode=FILE,
        time=FILE,
        xattr=FILE,
        gone=FILE,
    )
    second = layer(
        tmp_path / "second",
        same=FILE,
        content=FILE.replace('"a"', '"b"').replace('"size":2', '"size":3'),
        owner=FILE.replace('"uid":0', '"uid":7'),
        mode=FILE.replace("644", "600"),
        time=FILE.replace('"mtime":1', '"mtime":2'),
        xattr=f'{FILE},"xattrs":{{"user.a":"eA=="}}',
        new=FILE,
    )
    found = compare_layers(first, second, 100)
    assert {each.path: each.kinds for each in found.files} == {
        "content": ("content",),
        "owner": ("owner",),
        "mode": ("mode",),
        "time": ("time",),
        "xattr": ("xattr",),
        "gone": ("missing",),
        "new": ("extra",),
    }
    by_path = {each.path: each for each in found.files}
    assert by_path["owner"].first == {"uid": "0"}
    assert by_path["owner"].second == {"uid": "7"}
    assert by_path["gone"].first["sha256"] == "a"
    assert by_path["gone"].second == {}
    assert (found.count, found.unknown) == (7, "")


def test_only_the_first_files_are_named_and_all_are_counted(tmp_path: Path) -> None:
    names = {f"file-{number:03}": FILE for number in range(50)}
    found = compare_layers(layer(tmp_path / "a"), layer(tmp_path / "b", **names), 3)
    assert [each.path for each in found.files] == ["file-000", "file-001", "file-002"]
    assert found.count == 50


def test_a_name_that_is_not_utf_8_is_readable(tmp_path: Path) -> None:
    name = os.fsdecode(b"latin-\xe4")
    (found,) = compare_layers(layer(tmp_path / "a"), layer(tmp_path / "b", **{name: FILE}), 3).files
    assert found.path == r"latin-\xe4"


def test_a_layer_without_a_manifest_is_not_compared(tmp_path: Path) -> None:
    first, second = layer(tmp_path / "a"), layer(tmp_path / "b", one=FILE)
    (second / CONTENT).write_bytes(b"damaged")
    found = compare_layers(first, second, 3)
    assert (found.files, found.count) == ((), 0)
    assert "no content manifest, or a damaged one" in found.unknown
