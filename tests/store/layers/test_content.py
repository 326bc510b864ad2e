"""Content manifests: what they say of a tree, whatever back end keeps it."""

import hashlib
import json
import os
import stat
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from store.layers.content import CONTENT, differences, parse, read_fingerprint, read_text
from store.layers.delta import whole
from store.layers.interface import LayerRecord
from store.layers.walk import describe, listings, prints_of
from tests.store.layers.conftest import Subject, key_of

pytestmark = pytest.mark.root

EPOCH = 1_700_000_000


def manifest(subject: Subject, name: str) -> dict[str, dict[str, Any]]:
    """The entries of a layer's manifest, by path."""
    return {each["path"]: each for each in map(json.loads, text(subject, name).splitlines())}


def text(subject: Subject, name: str) -> bytes:
    layer = subject.store.find(key_of(name))
    assert layer is not None
    found = read_text(layer.directory)
    assert found is not None
    assert hashlib.sha256(found).hexdigest() == layer.record.content
    return found


def make(
    subject: Subject,
    name: str,
    parent: str | None,
    work: Callable[[Path], Any],
    epoch: int | None = EPOCH,
) -> None:
    """A layer of a build of that time."""
    workspace = subject.begin(parent, f"making-{name}")
    subject.change(workspace, work)
    record = LayerRecord(key_of(name), workspace.parent, "b", "c", 1, 1.0, epoch=epoch)
    subject.store.commit(workspace, record, "<doc/>")


def one_of_each(root: Path) -> None:
    """Something of every kind, without attributes, which not every file system of the tests has."""
    image = root / "pkg_image"
    image.mkdir(mode=0o751)
    (image / "file").write_text("content")
    os.chown(image / "file", 12, 34)
    (image / "file").chmod(0o4711)
    os.link(image / "file", image / "another")
    os.utime(image / "file", (1, 2))
    (image / "link").symlink_to("/nowhere")
    (image / "line\nfeed").write_text("")
    (Path(os.fsdecode(os.fsencode(image) + b"/latin-\xe4"))).write_text("odd")
    os.mkfifo(image / "pipe")
    os.mknod(image / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(image / "disk", 0o660 | stat.S_IFBLK, os.makedev(8, 1))
    with (image / "sparse").open("wb") as file:
        file.seek(2**20)
        file.write(b"x")
        file.truncate(3 * 2**20)
    (image / "directory").mkdir()
    (image / "directory" / "new").write_text("now")


def test_the_manifest_describes_every_kind_of_entry(subject: Subject) -> None:
    make(subject, "one", None, one_of_each)

    found = manifest(subject, "one")
    file = {"type": "file", "mode": "4711", "uid": 12, "gid": 34, "mtime": 2, "size": 7}
    file |= {"sha256": hashlib.sha256(b"content").hexdigest(), "same_as": "pkg_image/another"}
    assert found["pkg_image/file"] == {"path": "pkg_image/file"} | file
    assert found["pkg_image/another"] == {"path": "pkg_image/another"} | file
    new = {"uid": 0, "gid": 0, "mtime": EPOCH}
    assert found["pkg_image"] == {
        "path": "pkg_image", "type": "directory", "mode": "0751", **new,
    }  # fmt: skip
    assert found["pkg_image/link"] == {
        "path": "pkg_image/link", "type": "link", **new, "target": "/nowhere",
    }  # fmt: skip
    assert found["pkg_image/latin-\udce4"]["size"] == 3
    assert found["pkg_image/line\nfeed"]["size"] == 0
    assert found["pkg_image/pipe"]["type"] == "fifo"
    assert (found["pkg_image/null"]["major"], found["pkg_image/null"]["minor"]) == (1, 3)
    assert (found["pkg_image/disk"]["type"], found["pkg_image/disk"]["minor"]) == ("block", 1)
    sparse = bytes(2**20) + b"x" + bytes(2 * 2**20 - 1)
    assert found["pkg_image/sparse"]["sha256"] == hashlib.sha256(sparse).hexdigest()
    assert found["pkg_image/directory/new"]["mtime"] == EPOCH
    assert found["/document.xml"] == {
        "path": "/document.xml", "type": "document", "size": 6,
        "sha256": hashlib.sha256(b"<doc/>").hexdigest(),
    }  # fmt: skip


def test_the_same_tree_has_the_same_manifest_on_every_back_end(subject: Subject) -> None:
    make(subject, "one", None, one_of_each)
    make(subject, "two", "one", lambda root: (root / "pkg_image/file").unlink())

    found = [hashlib.sha256(text(subject, name)).hexdigest() for name in ("one", "two")]
    assert found[0] == "60662a67ce7d1ba4b8607309602485e822e5eeb40c2074ee1e956fa1fe5c2090"
    assert found[1] == "b3c74bf6d6b040f553aefc161ae2b2dd6522a1d78b5a3a5ebc8a7473a0b9b6b7"


def test_an_unchanged_tree_shares_the_manifest_of_the_layer_below(subject: Subject) -> None:
    make(subject, "one", None, one_of_each)
    make(subject, "two", "one", lambda root: None)

    one, two = (subject.store.directory / key_of(name) / CONTENT for name in ("one", "two"))
    assert one.samefile(two)


def edited(root: Path) -> None:
    """Every kind of change, one of them with the size and the time that the file had."""
    image = root / "pkg_image"
    status = (image / "another").stat()
    (image / "another").write_text("CONTENT")
    os.utime(image / "another", ns=(status.st_atime_ns, status.st_mtime_ns))
    (image / "directory").rename(image / "renamed")
    (image / "renamed" / "more").write_text("more")
    (image / "link").unlink()
    (image / "link").symlink_to("elsewhere")
    (image / "null").unlink()
    (image / "null").mkdir()
    (image / "sparse").chmod(0o600)


def test_what_is_inherited_from_the_layer_below_is_what_a_whole_walk_finds(
    subject: Subject,
) -> None:
    make(subject, "one", None, one_of_each)
    make(subject, "two", "one", edited)
    make(subject, "three", "two", lambda root: (root / "pkg_image/pipe").unlink())

    for name in ("two", "three"):
        walked = subject.read(name, lambda tree: whole(describe(tree, stacked=False)))
        found = parse(text(subject, name))
        assert [each.path for each in differences(walked, found)] == ["/document.xml"]
    if not subject.store._trees.stacked:
        again = manifest(subject, "two")["pkg_image/file"]
        assert again["sha256"] == hashlib.sha256(b"CONTENT").hexdigest()


def test_the_fingerprint_is_what_the_committed_tree_shows(subject: Subject) -> None:
    def linked(root: Path) -> None:
        one_of_each(root)
        (root / "pkg_image" / "young").write_text("")
        os.link(root / "pkg_image" / "young", root / "pkg_image" / "younger")

    make(subject, "one", None, linked)
    layer = subject.store.directory / key_of("one")
    fingerprint = read_fingerprint(layer)
    assert fingerprint is not None
    found = listings(subject.store._trees.tree(layer))
    assert fingerprint.prints == dict(chain.from_iterable(map(prints_of, found)))


def test_the_group_of_artifacts_is_the_hosts_affair(subject: Subject) -> None:
    def delivering(root: Path) -> None:
        (root / "media").mkdir()
        (root / "media" / "image.iso").write_text("iso")
        (root / "media" / "image.iso").chmod(0o640)
        (root / "media" / "notes").write_text("notes")

    make(subject, "one", None, delivering)
    found = manifest(subject, "one")
    assert "gid" not in found["media/image.iso"]
    assert found["media/notes"]["gid"] == 0
    image = subject.store.file(key_of("one"), "media/image.iso")
    if subject.store.name != "btrfs":  # whose layers are read-only
        os.chown(image, 0, 1234)
    state = subject.store.check(key_of("one"), whole=True, idle=False, expected="").state
    assert state == "unchanged"
