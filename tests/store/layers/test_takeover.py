"""Results taken over onto another layer: equal to what a fresh run gives there, or not taken over.

The checkpoint of these tests copies what its hooks name into boot/: as `mkinitramfs` does, it enumerates the
hooks, looks for programs by name, and copies directories that they name by their paths.
"""

import os
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from statemachine.errors import Refused
from statemachine.plan import Inputs
from store.layers.copy import CopyTrees
from store.layers.directory import LayerDirectory
from store.layers.interface import LayerRecord
from store.layers.takeover import take_over
from tests.store.layers.conftest import Subject

pytestmark = [pytest.mark.slow, pytest.mark.root]

EPOCH = 1_000_000_000

INPUTS = Inputs(
    whole=("image/hooks/**", "boot/**"),
    unread=("image/doc/**", "media/**"),
    texts=("image/hooks/*",),
    programs=("image/bin/*",),
    libraries=("image/lib/*",),
    passed=("image/etc",),
)


def boot(root: Path) -> None:
    """The checkpoint: gather what the hooks name."""
    image, target = root / "image", root / "boot"
    target.mkdir(exist_ok=True)
    gathered = []
    for hook in sorted((image / "hooks").iterdir()):
        for name in hook.read_text().split():
            if name.startswith("/"):
                below = sorted((image / name[1:]).glob("*"))
                gathered += [f"{each.name}: {each.read_text()}" for each in below]
                continue
            program = image / "bin" / name
            if program.is_file():
                content = program.read_text()
                gathered.append(f"{name}: {content}")
                gathered += [
                    f"{library}: {(image / 'lib' / library).read_text()}"
                    for library in re.findall(r"[\w.+-]+\.so[\w.]*", content)
                    if (image / "lib" / library).is_file()
                ]
    (target / "archive").write_text("\n".join(gathered))
    (target / "archive").chmod(0o640)
    (target / "latest").unlink(missing_ok=True)
    (target / "latest").symlink_to("archive")


def base(root: Path) -> None:
    for directory in ("hooks", "bin", "lib", "doc", "etc"):
        (root / "image" / directory).mkdir(parents=True, exist_ok=True)
    files = {
        "hooks/fs": "fsck mount missing",
        "bin/fsck": "needs libfs.so.1",
        "bin/mount": "mounts",
        "bin/less": "pages",
        "lib/libfs.so.1": "a library",
        "etc/conf": "settings",
        "doc/readme": "read me",
    }
    for name, content in files.items():
        (root / "image" / name).write_text(content)


class Layers:
    """A store in which layers are made one after another, and results taken over."""

    def __init__(self, store: LayerDirectory, change: Callable[[Any, Any], Any]) -> None:
        self.store = store
        self._change = change

    def make(self, parent: str | None, work: Callable[[Path], Any]) -> str:
        key = secrets.token_hex(32)
        workspace = self.store.begin(parent, f"w{key[:8]}")
        self._change(workspace, work)
        self.store.commit(workspace, self._record(key, parent))
        return key

    def take(self, source: str, onto: str, inputs: Inputs = INPUTS) -> str:
        key = secrets.token_hex(32)
        record = self._record(key, onto)
        take_over(self.store, record, source, inputs, f"t{key[:8]}")
        return key

    def digest(self, key: str) -> str:
        layer = self.store.find(key)
        assert layer is not None
        return layer.record.content

    def _record(self, key: str, parent: str | None) -> LayerRecord:
        return LayerRecord(key, parent, "build", "boot", 1, 1.0, epoch=EPOCH)


def in_place(store: LayerDirectory) -> Callable[[Any, Any], Any]:
    def change(workspace: Any, work: Callable[[Path], Any]) -> None:
        with store.enter(workspace) as root:
            work(root)

    return change


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory, where layers are synced in no time."""
    with TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


@pytest.fixture
def layers(subject: Subject) -> Layers:
    """Each back end in turn."""
    return Layers(subject.store, subject.change)


def both(layers: Layers, edit: Callable[[Path], Any], inputs: Inputs = INPUTS) -> tuple[str, str]:
    """The digests of a result that was taken over an edit of the layer below, and of a fresh one."""
    below = layers.make(None, base)
    source = layers.make(below, boot)
    edited = layers.make(below, edit)
    taken = layers.take(source, edited, inputs)
    return layers.digest(taken), layers.digest(layers.make(edited, boot))


def write(name: str, content: str) -> Callable[[Path], Any]:
    return lambda root: (root / "image" / name).write_text(content)


def remove(name: str) -> Callable[[Path], Any]:
    return lambda root: (root / "image" / name).unlink()


def add_package(root: Path) -> None:
    (root / "image/bin/nano").write_text("edits with libnew.so.2")
    (root / "image/lib/libnew.so.2").write_text("a new library")
    (root / "image/share/nano").mkdir(parents=True)
    (root / "image/share/nano/colours").write_text("red")
    (root / "image/doc/readme").write_text("changed")
    os.utime(root / "image/etc", (5, 5))


def add_directory(root: Path) -> None:
    (root / "image/share/new").mkdir(parents=True)
    (root / "image/share/new/missing").write_text(
        "a name of a hook, in a directory that is not searched"
    )


@pytest.mark.parametrize(
    "edit", [add_package, add_directory, remove("bin/less"), write("doc/new", "text")]
)
def test_a_result_that_is_taken_over_is_what_a_fresh_run_gives(
    layers: Layers, edit: Callable[[Path], Any]
) -> None:
    taken, fresh = both(layers, edit)
    assert taken == fresh
    assert [name for name, _ in layers.store.workspaces()] == []


@pytest.mark.parametrize(
    ("edit", "path"),
    [
        (write("hooks/new", "less"), "image/hooks/new"),
        (write("hooks/fs", "less"), "image/hooks/fs"),
        (write("bin/fsck", "another"), "image/bin/fsck"),
        (write("bin/less", "changed, though nobody names it"), "image/bin/less"),
        (write("bin/missing", "it was looked for"), "image/bin/missing"),
        (remove("bin/mount"), "image/bin/mount"),
        (remove("lib/libfs.so.1"), "image/lib/libfs.so.1"),
        (write("etc/conf", "other settings"), "image/etc/conf"),
        (lambda root: (root / "image/bin/fsck").chmod(0o700), "image/bin/fsck"),
        (lambda root: (root / "boot").mkdir(), "boot"),
    ],
)
def test_what_the_checkpoint_may_read_has_to_be_the_same(
    layers: Layers, edit: Callable[[Path], Any], path: str
) -> None:
    with pytest.raises(Refused, match=re.escape(f"{path} differs")):
        both(layers, edit)
    assert [name for name, _ in layers.store.workspaces()] == []


def test_a_name_that_a_pattern_of_a_hook_fits_counts(layers: Layers) -> None:
    below = layers.make(None, lambda root: (base(root), write("hooks/glob", "lib*_s.so.*")(root)))
    source = layers.make(below, boot)
    edited = layers.make(below, write("lib/libgcc_s.so.1", "new"))
    with pytest.raises(Refused, match=r"libgcc_s\.so\.1 differs"):
        layers.take(source, edited)


def test_what_is_new_in_a_directory_that_a_hook_names_counts(layers: Layers) -> None:
    def below(root: Path) -> None:
        base(root)
        (root / "image/share").mkdir()
        write("hooks/copies", "/share")(root)

    start = layers.make(None, below)
    source = layers.make(start, boot)
    with pytest.raises(Refused, match="image/share/new differs"):
        layers.take(source, layers.make(start, write("share/new", "not named by any hook")))


def test_what_is_new_in_a_directory_that_hooks_name_on_the_way_does_not_count(
    layers: Layers,
) -> None:
    below = layers.make(None, lambda root: (base(root), write("hooks/way", "/etc/none")(root)))
    source = layers.make(below, boot)
    layers.take(source, layers.make(below, write("etc/new", "not named by any hook")))


def test_a_program_that_looks_for_nothing_of_what_it_names_is_no_reader(layers: Layers) -> None:
    below = layers.make(None, lambda root: (base(root), write("bin/fsck", "help: less")(root)))
    source = layers.make(below, boot)
    onto = layers.make(below, write("bin/help", "text"))
    with pytest.raises(Refused, match="image/bin/help differs"):
        layers.take(source, onto)
    layers.take(source, onto, replace(INPUTS, leaves=("image/bin/fsck",)))


def test_names_in_new_directories_count_where_they_are_searched(layers: Layers) -> None:
    with pytest.raises(Refused, match="missing differs"):
        both(layers, add_directory, replace(INPUTS, searched=("image/share/**",)))


def test_a_file_that_the_checkpoint_itself_changes_is_an_input(layers: Layers) -> None:
    def appends(root: Path) -> None:
        with (root / "image/doc/readme").open("a") as file:
            file.write("\nbooted")

    below = layers.make(None, base)
    source = layers.make(below, appends)
    edited = layers.make(below, write("doc/readme", "something else"))
    with pytest.raises(Refused, match="readme differs, which the checkpoint changes"):
        layers.take(source, edited)
    other = layers.make(below, write("doc/other", "text"))
    assert layers.digest(layers.take(source, other)) == layers.digest(layers.make(other, appends))


def test_a_result_that_removes_something_is_not_taken_over(layers: Layers) -> None:
    below = layers.make(None, base)
    source = layers.make(below, remove("doc/readme"))
    edited = layers.make(below, write("doc/other", "text"))
    with pytest.raises(Refused, match="cannot be applied elsewhere"):
        layers.take(source, edited)


def test_a_link_in_the_place_of_a_directory_is_not_entered(layers: Layers, tmp_path: Path) -> None:
    def notes(root: Path) -> None:
        (root / "image/etc/booted").write_text("yes")

    def replaces(root: Path) -> None:
        (root / "image/etc/conf").unlink()
        (root / "image/etc").rmdir()
        (root / "image/etc").symlink_to(tmp_path)

    below = layers.make(None, base)
    source = layers.make(below, notes)
    edited = layers.make(below, replaces)
    with pytest.raises(Refused):
        layers.take(source, edited, replace(INPUTS, unread=("**",)))
    assert not (tmp_path / "booted").exists()


NAMES = ("fsck", "mount", "less", "missing", "nano", "libfs.so.1", "libnew.so.2")
PLACES = ("bin", "lib", "hooks", "doc", "doc", "share")
EDITS = st.lists(
    st.tuples(
        st.sampled_from(("write", "remove", "chmod", "touch")),
        st.sampled_from(PLACES),
        st.sampled_from(NAMES),
        st.sampled_from(
            ("fsck less", "needs libnew.so.2", "nano", "mount libfs.so.1", "/share", "")
        ),
    ),
    max_size=4,
)


def edited(edits: list[tuple[str, str, str, str]]) -> Callable[[Path], None]:
    def work(root: Path) -> None:
        for verb, place, name, content in edits:
            path = root / "image" / place / name
            path.parent.mkdir(exist_ok=True)
            match verb:
                case "write":
                    path.write_text(content)
                case "remove":
                    path.unlink(missing_ok=True)
                case "chmod" if path.exists():
                    path.chmod(0o750)
                case "touch" if path.exists():
                    os.utime(path, (7, 7))

    return work


def explore(
    directory: Path, checkpoint: Callable[[Path], Any], inputs: Inputs, examples: int
) -> tuple[int, list[Any]]:
    """Over random edits below: how many results were taken over, and the edits after which one differs from a
    fresh result."""
    store = LayerDirectory(directory / "layers", CopyTrees())
    store.prepare()
    layers = Layers(store, in_place(store))
    count, wrong = 0, []

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(first=EDITS, second=EDITS)
    def tried(first: Any, second: Any) -> None:
        nonlocal count
        if wrong:
            return
        below = layers.make(None, lambda root: (base(root), edited(first)(root)))
        source = layers.make(below, checkpoint)
        onto = layers.make(below, edited(second))
        try:
            taken = layers.take(source, onto, inputs)
        except Refused:
            return
        count += 1
        if layers.digest(taken) != layers.digest(layers.make(onto, checkpoint)):
            wrong.append((first, second))

    tried()
    return count, wrong


def test_over_random_edits_every_result_that_is_taken_over_is_that_of_a_fresh_run(
    memory: Path,
) -> None:
    count, wrong = explore(memory, boot, INPUTS, 150)
    assert wrong == []
    assert count > 20


def test_control_an_input_that_is_not_declared_is_caught(memory: Path) -> None:
    def reads_more(root: Path) -> None:
        boot(root)
        texts = [path.read_text() for path in sorted((root / "image/doc").iterdir())]
        (root / "boot/documents").write_text("\n".join(texts))

    _, wrong = explore(memory, reads_more, INPUTS, 150)
    assert wrong != []
