"""What every layer back end does, on real file systems."""

import hashlib
import os
import stat
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from statemachine.errors import CheckpointError, NotFound, Refused
from statemachine.results import Artifact
from store.layers.directory import LayerDirectory
from store.layers.interface import Layer, LayerRecord
from tests.store.layers.conftest import Subject, key_of

pytestmark = pytest.mark.root


def nothing(root: Path) -> None:
    """A checkpoint that leaves its workspace as it is."""


def writes(name: str, text: str) -> Callable[[Path], int]:
    return lambda root: (root / name).write_text(text)


def reads(name: str) -> Callable[[Path], str]:
    return lambda tree: (tree / name).read_text()


def names(tree: Path) -> list[str]:
    return sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))


class TestWorkspace:
    def test_the_first_is_empty(self, subject: Subject) -> None:
        assert subject.change(subject.begin(None), names) == []

    def test_one_on_a_layer_holds_what_the_layer_holds(self, subject: Subject) -> None:
        subject.make("one", None, writes("file", "first"))
        assert subject.change(subject.begin("one"), reads("file")) == "first"

    def test_what_it_changes_does_not_change_its_parent(self, subject: Subject) -> None:
        subject.make("one", None, writes("file", "first"))

        def append(root: Path) -> None:
            with (root / "file").open("a") as file:
                file.write(" and more")

        subject.make("two", "one", append)
        assert subject.read("one", reads("file")) == "first"
        assert subject.read("two", reads("file")) == "first and more"

    def test_two_on_one_layer_do_not_meet(self, subject: Subject) -> None:
        subject.make("one", None, nothing)
        left, right = subject.begin("one", "left"), subject.begin("one", "right")
        subject.change(left, writes("left", ""))
        subject.change(right, writes("right", ""))
        subject.commit(left, "two")
        subject.commit(right, "three")
        assert subject.read("two", names) == ["left"]
        assert subject.read("three", names) == ["right"]

    def test_on_several_layers_takes_no_more_files_than_on_one(self, subject: Subject) -> None:
        for number in range(4):
            subject.make(f"l{number}", f"l{number - 1}" if number else None, nothing)
        files = []
        for parent in ("l0", "l3"):
            workspace = subject.begin(parent)
            subject.change(workspace, nothing)
            files.append(len(list(workspace.directory.rglob("*"))))
            subject.store.discard(workspace)
        assert files[0] == files[1]

    def test_what_was_done_in_it_is_there_when_it_is_entered_again(self, subject: Subject) -> None:
        workspace = subject.begin(None)
        subject.change(workspace, writes("file", "kept"))
        assert subject.change(workspace, reads("file")) == "kept"

    def test_on_a_layer_that_is_not_there_is_refused(self, subject: Subject) -> None:
        with pytest.raises(NotFound):
            subject.begin("missing")
        assert subject.work() == []

    def test_a_second_of_the_same_name_is_refused(self, subject: Subject) -> None:
        workspace = subject.begin(None)
        with pytest.raises(Refused):
            subject.begin(None)
        subject.change(workspace, nothing)

    @pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "a\n"])
    def test_a_name_that_could_lead_elsewhere_is_refused(self, subject: Subject, name: str) -> None:
        with pytest.raises(ValueError, match="cannot name"):
            subject.begin(None, name)

    def test_discard_leaves_nothing_and_may_be_repeated(self, subject: Subject) -> None:
        subject.make("one", None, nothing)
        workspace = subject.begin("one")
        subject.change(workspace, writes("file", "x"))
        subject.store.discard(workspace)
        subject.store.discard(workspace)
        assert subject.work() == []
        subject.store.remove(key_of("one"))
        assert list(subject.store.layers()) == []

    def test_unprivileged_helpers_can_pass_to_an_overlay_but_nobody_into_layers(
        self, subject: Subject
    ) -> None:
        layer = subject.make("one", None, nothing)
        assert stat.S_IMODE(layer.directory.stat().st_mode) == 0o700
        workspace = subject.begin("one")
        assert stat.S_IMODE(workspace.document.parent.stat().st_mode) == 0o700


class TestCommit:
    def test_makes_a_layer_that_is_found(self, subject: Subject) -> None:
        workspace = subject.begin(None)
        subject.change(workspace, writes("file", "x" * 100_000))
        artifact = Artifact("a.iso", "media/a.iso", "iso", 1, "0" * 64)
        record = LayerRecord(key_of("one"), None, "build", "transfer", 2, 3.5, (artifact,))
        assert subject.store.find(record.key) is None
        made = subject.store.commit(workspace, record)
        assert made.record == replace(record, content=made.record.content)
        assert len(made.record.content) == 64
        assert subject.store.find(record.key) == made
        assert list(subject.store.layers()) == [made]
        assert subject.work() == []

    def test_gives_artifacts_the_digests_of_their_files(self, subject: Subject) -> None:
        def first(tree: Path) -> None:
            (tree / "media").mkdir()
            (tree / "media/below").write_text("below")

        def second(tree: Path) -> None:
            (tree / "media/own").write_text("own")

        subject.make("one", None, first)
        workspace = subject.begin("one")
        subject.change(workspace, second)
        delivered = (
            Artifact("a", "media/own", "text", 3, sha256=""),
            Artifact("b", "media/own", "text", 3, sha256="0" * 64),
            Artifact("c", "media/below", "text", 5, "", evidence=True),
        )
        record = LayerRecord(key_of("two"), key_of("one"), "build", "it", 1, 1.0, delivered)
        own, below = (hashlib.sha256(each).hexdigest() for each in (b"own", b"below"))
        expected = tuple(
            replace(each, sha256=digest)
            for each, digest in zip(delivered, (own, own, below), strict=True)
        )
        assert subject.store.commit(workspace, record).record.artifacts == expected
        # What a restart finds is the same.
        again = LayerDirectory(subject.store.directory, subject.store._trees)
        assert (found := again.find(key_of("two"))) is not None
        assert found.record.artifacts == expected

    @pytest.mark.parametrize("path", ["media/nothing", "media", "link", "../../../etc/passwd"])
    def test_refuses_an_artifact_without_a_file(self, subject: Subject, path: str) -> None:
        workspace = subject.begin(None)

        def fill(tree: Path) -> None:
            (tree / "media").mkdir()
            (tree / "file").write_text("x")
            (tree / "link").symlink_to("file")

        subject.change(workspace, fill)
        record = LayerRecord(
            key_of("one"), None, "build", "it", 1, 1.0, (Artifact("a", path, "text", 1, sha256=""),)
        )
        with pytest.raises(CheckpointError, match="left no file for its artifact a"):
            subject.store.commit(workspace, record)
        assert subject.store.find(key_of("one")) is None

    def test_of_a_key_that_is_there_keeps_the_first(self, subject: Subject) -> None:
        first, second = subject.begin(None, "first"), subject.begin(None, "second")
        subject.change(first, writes("file", "first"))
        subject.change(second, writes("file", "second"))
        subject.commit(first, "one", seconds=1.0)
        assert subject.commit(second, "one", seconds=2.0).record.seconds == 1.0
        assert subject.read("one", reads("file")) == "first"
        assert subject.work() == []

    def test_of_one_key_by_many_threads_makes_one_layer(self, subject: Subject) -> None:
        workspaces = [subject.begin(None, f"w{number}") for number in range(4)]
        for number, workspace in enumerate(workspaces):
            subject.change(workspace, writes("file", str(number)))
        made: list[Layer] = []
        threads = [
            threading.Thread(
                target=lambda w, n: made.append(subject.commit(w, "one", n)), args=pair
            )
            for pair in zip(workspaces, range(4), strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(made)) == 1
        assert len(made) == 4
        assert float(subject.read("one", reads("file"))) == made[0].record.seconds
        assert subject.work() == []

    def test_keeps_the_document_and_hands_it_on(self, subject: Subject) -> None:
        workspace = subject.begin(None)
        assert not workspace.document.exists()
        workspace.document.write_text("<persistent/>")
        subject.commit(workspace, "one")
        assert subject.store.document(key_of("one")) == "<persistent/>"
        workspace = subject.begin("one")
        assert workspace.document.read_text() == "<persistent/>"
        workspace.document.write_text("<persistent><more/></persistent>")
        subject.commit(workspace, "two")
        assert subject.store.document(key_of("one")) == "<persistent/>"
        assert subject.store.document(key_of("two")) == "<persistent><more/></persistent>"

    def test_of_a_layer_without_document(self, subject: Subject) -> None:
        subject.make("one", None, nothing)
        assert subject.store.document(key_of("one")) is None
        with pytest.raises(NotFound):
            subject.store.document(key_of("missing"))

    def test_measures_what_the_layer_takes(self, subject: Subject) -> None:
        def write(root: Path) -> None:
            (root / "file").write_bytes(os.urandom(3 * 2**20))

        size = subject.make("one", None, write).size_bytes
        assert 3 * 2**20 <= size < 4 * 2**20


class TestTree:
    """What is kept of files, in the layer that makes them and in the next."""

    @pytest.fixture
    def trees(self, subject: Subject) -> Subject:
        def make(root: Path) -> None:
            image = root / "pkg_image"
            image.mkdir(mode=0o751)
            (image / "empty").mkdir()
            (image / "file").write_text("content")
            os.chown(image / "file", 12, 34)
            (image / "file").chmod(0o4711)
            os.utime(image / "file", ns=(1_000_000_001, 2_000_000_002))
            (image / "link").symlink_to("/nowhere")
            (image / "n\xe4me with\nline").write_text("odd")
            os.link(image / "file", image / "other-name")
            os.mkfifo(image / "pipe")
            os.mknod(image / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
            with (image / "sparse").open("wb") as file:
                file.truncate(64 * 2**20)
            if subject.keeps_attributes:
                os.setxattr(image / "file", "user.note", b"\x00\xff")
                os.setxattr(image / "link", "trusted.note", b"of the link", follow_symlinks=False)
                capability = bytes.fromhex("0100000200200000000000000000000000000000")
                os.setxattr(image / "sparse", "security.capability", capability)
                subprocess.run(["setfacl", "-m", "u:77:rx", image / "empty"], check=True)

        subject.make("one", None, make)
        subject.make("two", "one", nothing)
        return subject

    @pytest.fixture(params=["one", "two"])
    def look(self, trees: Subject, request: pytest.FixtureRequest) -> Callable[..., object]:
        return lambda look: trees.read(request.param, lambda tree: look(tree / "pkg_image"))

    def test_all_of_them(self, subject: Subject, look: Callable[..., object]) -> None:
        def described(image: Path) -> object:
            file = (image / "file").stat()
            sparse = (image / "sparse").stat()
            return {
                "directory mode": stat.S_IMODE(image.stat().st_mode),
                "mode": stat.S_IMODE(file.st_mode),
                "owner": (file.st_uid, file.st_gid),
                "time": file.st_mtime_ns,
                "one file under two names": (file.st_ino == (image / "other-name").stat().st_ino),
                "target": (image / "link").readlink(),
                "odd name": (image / "n\xe4me with\nline").read_text(),
                "empty directory": list((image / "empty").iterdir()),
                "pipe": stat.S_ISFIFO((image / "pipe").stat().st_mode),
                "device": (image / "null").stat().st_rdev,
                "hole": (sparse.st_size, sparse.st_blocks < 100),
            }

        assert look(described) == {
            "directory mode": 0o751,
            "mode": 0o4711,
            "owner": (12, 34),
            "time": 2_000_000_002 // subject.time_grain_ns * subject.time_grain_ns,
            "one file under two names": True,
            "target": Path("/nowhere"),
            "odd name": "odd",
            "empty directory": [],
            "pipe": True,
            "device": os.makedev(1, 3),
            "hole": (64 * 2**20, True),
        }

    def test_their_attributes(self, subject: Subject, look: Callable[..., object]) -> None:
        if not subject.keeps_attributes:
            pytest.skip("this host's file system for the test has no extended attributes")

        def described(image: Path) -> object:
            access = subprocess.run(
                ["getfacl", "--omit-header", "--numeric", "--absolute-names", image / "empty"],
                check=True,
                capture_output=True,
                text=True,
            )
            return (
                os.getxattr(image / "file", "user.note"),
                os.getxattr(image / "link", "trusted.note", follow_symlinks=False),
                len(os.getxattr(image / "sparse", "security.capability")),
                "user:77:r-x" in access.stdout,
            )

        assert look(described) == (b"\x00\xff", b"of the link", 20, True)

    def test_hard_links_survive_writing(self, trees: Subject) -> None:
        if not trees.keeps_hard_links:
            pytest.skip(
                "this host's overlayfs breaks links of earlier layers, as its module documents"
            )
        trees.make("three", "two", writes("pkg_image/file", "changed"))
        assert trees.read("three", reads("pkg_image/other-name")) == "changed"


class TestFile:
    def test_is_found_in_whichever_layer_holds_it(self, subject: Subject) -> None:
        def make(root: Path) -> None:
            (root / "media").mkdir()
            (root / "media" / "image.iso").write_text("iso")

        subject.make("one", None, make)
        subject.make("two", "one", writes("media/notes", "notes"))
        subject.make("three", "two", nothing)
        for name in ("one", "two", "three"):
            assert subject.store.file(key_of(name), "media/image.iso").read_text() == "iso"
        assert subject.store.file(key_of("three"), "media/notes").read_text() == "notes"

    @pytest.mark.parametrize(
        "path",
        ["missing", "media", "media/link", "there/image.iso", "media/image.iso/x", "..", "/media",
         "media/../media/image.iso", "", "."],
    )  # fmt: skip
    def test_is_a_regular_file_inside_reached_without_links(
        self, subject: Subject, path: str
    ) -> None:
        def make(root: Path) -> None:
            (root / "media").mkdir()
            (root / "media" / "image.iso").write_text("iso")
            (root / "media" / "link").symlink_to("image.iso")
            (root / "there").symlink_to("media")

        subject.make("one", None, make)
        subject.make("two", "one", nothing)
        with pytest.raises(NotFound):
            subject.store.file(key_of("two"), path)

    def test_of_a_layer_that_is_not_there(self, subject: Subject) -> None:
        with pytest.raises(NotFound):
            subject.store.file(key_of("missing"), "media/image.iso")


class TestRemoval:
    def test_takes_the_layer_away(self, subject: Subject) -> None:
        layer = subject.make("one", None, writes("file", "x"))
        subject.store.remove(layer.record.key)
        assert subject.store.find(layer.record.key) is None
        assert not layer.directory.exists()
        assert subject.work() == []
        with pytest.raises(NotFound):
            subject.store.remove(layer.record.key)

    def test_is_refused_while_a_layer_stands_on_it(self, subject: Subject) -> None:
        subject.make("one", None, writes("file", "x"))
        subject.make("two", "one", nothing)
        with pytest.raises(Refused):
            subject.store.remove(key_of("one"))
        assert subject.read("two", reads("file")) == "x"
        subject.store.remove(key_of("two"))
        subject.store.remove(key_of("one"))

    def test_is_refused_while_a_workspace_stands_on_it(self, subject: Subject) -> None:
        subject.make("one", None, writes("file", "x"))
        workspace = subject.begin("one")
        with pytest.raises(Refused):
            subject.store.remove(key_of("one"))
        assert subject.change(workspace, reads("file")) == "x"

    def test_of_what_is_no_key_reaches_nothing(self, subject: Subject) -> None:
        for key in ("..", ".work", "", "x" * 64):
            assert subject.store.find(key) is None
            with pytest.raises(NotFound):
                subject.store.remove(key)
        assert subject.store.directory.exists()

    def test_a_layer_can_be_made_again(self, subject: Subject) -> None:
        subject.make("one", None, writes("file", "old"))
        subject.store.remove(key_of("one"))
        subject.make("one", None, writes("file", "new"))
        assert subject.read("one", reads("file")) == "new"


def test_use_is_noted_by_touch_only(subject: Subject) -> None:
    layer = subject.make("one", None, writes("file", "x"))
    os.utime(layer.directory / "layer.json", (1000, 1000))
    subject.read("one", reads("file"))
    found = subject.store.find(key_of("one"))
    assert found is not None
    assert found.used_at == 1000
    subject.store.touch(key_of("one"))
    touched = subject.store.find(key_of("one"))
    assert touched is not None
    assert touched.used_at > 1000
    with pytest.raises(NotFound):
        subject.store.touch(key_of("missing"))


class TestReconcile:
    def test_keeps_known_layers_and_what_they_stand_on(self, subject: Subject) -> None:
        subject.make("one", None, nothing)
        subject.make("two", "one", nothing)
        subject.make("three", "two", nothing)
        subject.make("other", "one", nothing)
        removed = subject.store.reconcile({key_of("two")}, ())
        assert removed == [f"layer {key_of('other')}", f"layer {key_of('three')}"] or removed == [
            f"layer {key_of('three')}",
            f"layer {key_of('other')}",
        ]
        assert {layer.record.key for layer in subject.store.layers()} == {
            key_of("one"),
            key_of("two"),
        }

    def test_removes_dead_workspaces_and_keeps_living_ones(self, subject: Subject) -> None:
        subject.make("one", None, writes("file", "x"))
        subject.begin(None, "dead")
        living = subject.begin("one", "living")
        assert subject.store.reconcile((), {"living"}) == ["workspace dead"]
        assert subject.change(living, reads("file")) == "x"

    def test_finishes_a_removal(self, subject: Subject) -> None:
        layer = subject.make("one", None, nothing)
        subject.store._take_away(layer.record.key)  # and the daemon dies
        assert subject.store.find(layer.record.key) is None
        assert len(subject.store.reconcile({layer.record.key}, ())) == 1
        assert subject.work() == []

    def test_removes_a_layer_that_was_damaged_and_all_that_stands_on_it(
        self, subject: Subject
    ) -> None:
        subject.make("one", None, nothing)
        damaged = subject.make("two", "one", nothing)
        subject.make("three", "two", nothing)
        (damaged.directory / "layer.json").write_text("{")
        store = type(subject.store)(subject.store.directory, subject.store._trees)
        store.reconcile({key_of(name) for name in ("one", "two", "three")}, ())
        assert [layer.record.key for layer in store.layers()] == [key_of("one")]

    def test_leaves_alone_what_is_not_its_own(self, subject: Subject) -> None:
        (subject.store.directory / "lost+found").mkdir()
        assert subject.store.reconcile((), ()) == []
        assert (subject.store.directory / "lost+found").exists()


@pytest.mark.slow
def test_many_layers_stand_on_each_other(subject: Subject) -> None:
    depth = 128 if subject.store.name == "overlay" else 45
    parent = None
    for number in range(depth):
        subject.make(f"l{number}", parent, writes(f"file{number}", str(number)))
        parent = f"l{number}"
    assert parent is not None
    assert len(subject.read(parent, names)) == depth
    assert subject.change(subject.begin(parent), reads("file0")) == "0"
    assert subject.store.file(key_of(parent), "file0").read_text() == "0"
