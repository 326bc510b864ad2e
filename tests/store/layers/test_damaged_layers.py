"""Layers whose files were changed behind the back of dcd, on each back end."""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from statemachine.errors import NotFound
from store.layers.btrfs import BtrfsTrees
from store.layers.content import CONTENT, FINGERPRINT, read_text
from store.layers.directory import LayerDirectory
from store.layers.interface import Check, LayerRecord
from store.layers.overlay import OverlayTrees
from store.layers.trees import Trees
from tests.store.conftest import loop_mounted
from tests.store.layers.conftest import Subject, key_of

pytestmark = [pytest.mark.slow, pytest.mark.root]


def filled(root: Path) -> None:
    image = root / "pkg_image"
    image.mkdir(parents=True)
    (image / "file").write_bytes(bytes(100_000))
    (image / "other").write_text("other")
    (image / "link").symlink_to("file")
    (image / "program").write_text("#!/bin/sh")
    os.link(image / "program", image / "again")
    for each in image.iterdir():
        os.utime(each, (1_000_000_000, 1_000_000_000), follow_symlinks=False)


@pytest.fixture
def layers(subject: Subject) -> Subject:
    """A filled layer, and one on it."""
    subject.make("one", None, filled)
    subject.make("two", "one", lambda root: (root / "more").write_text("more"))
    return subject


def tree(subject: Subject, name: str = "one") -> Path:
    """The files of a layer, writable, as root can make them."""
    place = subject.store._trees.tree(subject.store.directory / key_of(name))
    if subject.store.name == "btrfs":
        subprocess.run(["btrfs", "property", "set", "-ts", place, "ro", "false"], check=True)
    return place


def check(subject: Subject, name: str = "one", *, whole: bool = False) -> Check:
    return subject.store.check(key_of(name), whole, idle=False, expected="")


def flip_a_bit(image: Path) -> None:
    """As a failing disk does: no time changes."""
    file = image / "file"
    status = file.stat()
    with file.open("r+b") as opened:
        opened.seek(50_000)
        opened.write(b"\x10")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "bit": (flip_a_bit, "pkg_image/file: sha256"),
    "added": (lambda image: (image / "new").write_text(""), "pkg_image/new: added"),
    "removed": (lambda image: (image / "other").unlink(), "pkg_image/other: removed"),
    "owner": (lambda image: os.chown(image / "file", 7, 8), "pkg_image/file: uid, gid"),
    "mode": (lambda image: (image / "program").chmod(0o4755), "pkg_image/again: mode"),
    "attribute": (
        lambda image: os.setxattr(image / "file", "user.note", b"x"),
        "pkg_image/file: xattrs",
    ),
    "mtime": (lambda image: os.utime(image / "file", (1, 1)), "pkg_image/file: mtime"),
    "target": (
        lambda image: ((image / "link").unlink(), (image / "link").symlink_to("othr")),
        "pkg_image/link: mtime, target",
    ),
    "type": (
        lambda image: ((image / "other").unlink(), os.mkfifo(image / "other")),
        "pkg_image/other: type",
    ),
    "a name more": (lambda image: os.link(image / "file", image / "name"), "name: added"),
    "a name less": (lambda image: (image / "again").unlink(), "program: same_as"),
}


def damage_by(layers: Subject, change: str) -> Check:
    """Make a change, which a check has to find. Returns what that found."""
    work, expected = CHANGES[change]
    work(tree(layers) / "pkg_image")
    found = check(layers)
    assert found.state == "damaged"
    assert expected in found.damage
    return found


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_found_and_the_layer_never_used_again(layers: Subject, change: str) -> None:
    if change == "attribute" and not layers.keeps_attributes:
        pytest.skip("this host's file system for the test has no extended attributes")
    assert check(layers).state == "unchanged"
    found = damage_by(layers, change)
    assert layers.store.find(key_of("one")) is None
    assert layers.store.stale(key_of("one"))
    with pytest.raises(NotFound):
        layers.begin("one")
    assert check(layers) == found
    # Nor is what stands on it; making it again replaces it.
    assert layers.store.find(key_of("two")) is None
    layers.make("one", None, filled)
    assert check(layers).state == "unchanged"
    assert layers.store.find(key_of("one")) is not None
    assert layers.store.find(key_of("two")) is None


@pytest.mark.parametrize(
    ("kind", "trees", "expected"),
    [
        ("ext4", OverlayTrees, "sub/file: sha256"),
        ("btrfs", BtrfsTrees, "sub/file: Input/output error"),
    ],
)
def test_a_bit_that_flips_on_the_disk_is_found_when_everything_is_read(
    tmp_path: Path, own_mounts: None, kind: str, trees: Callable[[], Trees], expected: str
) -> None:
    mark = os.urandom(64)

    def make(root: Path) -> None:
        (root / "sub").mkdir()
        (root / "sub" / "file").write_bytes(bytes(50_000) + mark + bytes(50_000))

    with contextlib.contextmanager(loop_mounted)(tmp_path, 256, f"mkfs.{kind}") as disk:
        store = LayerDirectory(disk / "layers", trees())
        store.prepare()
        layers = Subject(store)
        layers.make("one", None, make)
        image = tmp_path / "image"
        at = image.read_bytes().find(mark)
        with image.open("r+b") as file:
            file.seek(at)
            file.write(bytes([mark[0] ^ 1]))
        assert check(layers, whole=True).damage == expected
        assert store.find(key_of("one")) is None


def test_an_unchanged_layer_is_not_read_again(
    layers: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = layers.begin("two", "third")
    layers.change(workspace, lambda root: filled(root / "third"))
    record = LayerRecord(key_of("three"), workspace.parent, "b", "c", 1, 1.0, epoch=1_000)
    layers.store.commit(workspace, record)
    time.sleep(2.1 if layers.time_grain_ns > 1 else 0.1)  # changes within a tick are read again
    assert {check(layers, name).state for name in ("one", "three")} == {"unchanged"}
    monkeypatch.delattr("store.layers.walk._digest_of")
    assert {check(layers, name).state for name in ("one", "three")} == {"unchanged"}
    with pytest.raises(NameError):
        check(layers, whole=True)


@pytest.mark.parametrize("change", ["bit", "added"])
def test_a_layer_that_was_found_unchanged_is_compared_with_that_state(
    layers: Subject, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    time.sleep(2.1 if layers.time_grain_ns > 1 else 0.1)  # as above
    for _ in range(2):
        assert check(layers).state == "unchanged"
    with monkeypatch.context() as without:
        without.delattr("store.layers.integrity.read_fingerprint")
        assert check(layers).state == "unchanged"
    damage_by(layers, change)


def test_another_fingerprint_is_read(layers: Subject) -> None:
    time.sleep(2.1 if layers.time_grain_ns > 1 else 0.1)
    for _ in range(2):
        assert check(layers).state == "unchanged"
    fingerprint = layers.store.directory / key_of("one") / FINGERPRINT
    before = fingerprint.read_bytes()
    fingerprint.write_bytes(b"rubbish")
    assert check(layers).state == "unchanged"
    assert fingerprint.read_bytes() != b"rubbish"
    assert fingerprint.read_bytes() != before


@pytest.mark.parametrize("name", ["one", "two"])
@pytest.mark.parametrize("loss", ["gone", "cut", "edited"])
def test_a_manifest_that_is_lost_is_made_again_from_what_it_described(
    layers: Subject, loss: str, name: str
) -> None:
    manifest = layers.store.directory / key_of(name) / CONTENT
    before = manifest.read_bytes()
    match loss:
        case "gone":
            manifest.unlink()
        case "cut":
            os.truncate(manifest, len(before) // 2)
        case "edited":
            manifest.write_bytes(before[:-10] + b"0123456789")

    assert check(layers, name).state == "unchanged"
    assert manifest.read_bytes() == before

    manifest.unlink()
    (tree(layers, name) / "unheard").write_text("")
    found = check(layers, name)
    assert (found.state, found.damage) == ("damaged", f"{CONTENT}: removed")


def test_without_its_fingerprint_a_layer_is_read(layers: Subject) -> None:
    fingerprint = layers.store.directory / key_of("one") / FINGERPRINT
    fingerprint.write_bytes(b"rubbish")
    assert check(layers).state == "unchanged"
    fingerprint.unlink()
    assert check(layers).state == "unchanged"
    assert fingerprint.exists()
    fingerprint.unlink()
    flip_a_bit(tree(layers) / "pkg_image")
    assert check(layers).damage == "pkg_image/file: sha256"


def test_a_change_of_the_document_is_found(layers: Subject) -> None:
    layers.begin("two", "third").document.write_text("<persistent/>")
    layers.commit(layers.store.opened("third"), "three")
    assert check(layers, "three").state == "unchanged"
    (layers.store.directory / key_of("three") / "document.xml").write_text("<persistenT/>")
    assert check(layers, "three").damage == "/document.xml: sha256"


def test_a_layer_of_an_earlier_version_is_used_and_said_to_be_unrecorded(layers: Subject) -> None:
    directory = layers.store.directory / key_of("one")
    record = (directory / "layer.json").read_text()
    start = record.index('"content":"') + len('"content":"')
    (directory / "layer.json").write_text(record[:start] + record[start + 64 :])
    (directory / CONTENT).unlink()
    (directory / FINGERPRINT).unlink()
    store = type(layers.store)(layers.store.directory, layers.store._trees)
    layers.store = store

    assert check(layers).state == "unrecorded"
    found = store.find(key_of("one"))
    assert found is not None
    assert found.checked_at == 0
    layers.make("three", "one", lambda root: (root / "else").write_text("more"))
    assert check(layers, "three").state == "unchanged"
    three = read_text(store.directory / key_of("three"))
    assert three is not None
    assert b'"path":"pkg_image/link"' in three


def test_a_whole_check_is_noted(layers: Subject) -> None:
    before = layers.store.find(key_of("one"))
    assert before is not None
    assert before.checked_at > 0
    assert layers.store.check(key_of("one"), True, idle=True, expected="").state == "unchanged"
    after = layers.store.find(key_of("one"))
    assert after is not None
    assert after.checked_at > before.checked_at


def test_a_published_name_of_a_file_is_no_damage(
    layers: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if layers.store.directory.stat().st_dev != tmp_path.stat().st_dev:
        return  # only plain directories share files with artifacts by links
    file = layers.store.file(key_of("one"), "pkg_image/file")
    os.link(file, tmp_path / "published")
    assert check(layers).state == "unchanged"
    (tmp_path / "published").unlink()
    assert check(layers).state == "unchanged"

    monkeypatch.delattr("store.layers.walk._digest_of")
    with layers.store.lent(key_of("one"), "pkg_image/file") as lent:
        os.link(lent, tmp_path / "again")
    assert check(layers).state == "unchanged"


def test_the_digest_of_the_manifest_is_the_expected_one(layers: Subject) -> None:
    one = layers.store.find(key_of("one"))
    assert one is not None
    known = one.record.content
    assert layers.store.check(key_of("one"), False, idle=False, expected=known).state == "unchanged"
    found = layers.store.check(key_of("one"), False, idle=False, expected="0" * 64)
    assert found.damage == "layer.json: content is not as in the event log"
    assert layers.store.find(key_of("one")) is None
