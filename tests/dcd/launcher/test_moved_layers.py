"""A layer becomes a stream, and the same layer again on another host; anything else leaves nothing."""

import contextlib
import gzip
import io
import json
import os
import signal
import stat
import subprocess
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pytest

from dcd.launcher.client import Launcher
from dcd.launcher.operations import Operations
from dcd.launcher.orders import Bounds, Setup
from statemachine.errors import (
    DcdError,
    NotFound,
    PermissionDenied,
    Refused,
    Unprepared,
    UsageError,
)
from statemachine.results import Artifact
from store.artifacts import Artifacts
from store.host.plain import as_plain
from store.host.tar import TarWriter
from store.host.untar import TarReader
from store.layers import ExpectedLayer, Layer, LayerRecord
from store.layers import stream as streams
from store.layers.copy import CopyTrees
from store.layers.directory import LayerDirectory
from store.layers.overlay import OverlayTrees
from store.layers.trees import Trees
from store.logs import AttemptLogs
from store.packages import Packages
from tests.dcd.checkpoints.hostile_tree import add_socket, fingerprint, plant
from tests.store.layers.conftest import Subject, key_of

pytestmark = [pytest.mark.root, pytest.mark.slow]

EPOCH = 1_700_000_000
Work = Callable[[Path], Any]


class Host:
    """A host with layers."""

    def __init__(self, directory: Path, trees: Trees) -> None:
        directory.mkdir()
        store = LayerDirectory(directory / "layers" / trees.name, trees)
        store.directory.parent.mkdir()
        store.prepare()
        self.subject = Subject(store)
        self.operations = Operations(
            store,
            Artifacts(directory / "artifacts"),
            AttemptLogs(directory / "logs"),
            directory / "blobs",
            Packages(directory / "packages"),
            "state",
            bounds=Bounds(shares_layers=True),
        )

    def make(self, name: str, parent: str | None, work: Work, document: str | None = None) -> Layer:
        workspace = self.subject.begin(parent, f"making-{name}")
        self.subject.change(workspace, work)
        record = LayerRecord(
            key_of(name), workspace.parent, "build", "one", 2, 7.5, warnings=("w",), epoch=EPOCH
        )
        return self.subject.store.commit(workspace, record, document)

    def packed(self, name: str) -> bytes:
        receiving, sending = os.pipe()
        with os.fdopen(receiving, "rb") as read:
            child = os.fork()
            if child == 0:
                os.close(receiving)
                self.operations.pack_layer(key_of(name), sending)
                os._exit(0)
            os.close(sending)
            stream = read.read()
        assert os.waitpid(child, 0)[1] == 0
        return stream

    def take(self, stream: bytes, expected: ExpectedLayer) -> Layer:
        with TemporaryFile() as source:
            source.write(stream)
            source.seek(0)
            return self.operations.unpack_layer(source.fileno(), expected)

    def refuses(self, stream: bytes, expected: ExpectedLayer) -> str:
        """Why it refuses a stream, of which nothing is left."""
        before = self.names()
        with pytest.raises(Refused) as refused:
            self.take(stream, expected)
        assert self.names() == before
        return str(refused.value)

    def names(self) -> list[str]:
        layers = [path.name for path in self.subject.store.directory.iterdir()]
        return sorted([*layers, *self.subject.work()])


def expected(layer: Layer) -> ExpectedLayer:
    record = layer.record
    return ExpectedLayer(record.key, record.parent, record.content, layer.directory.parent.name)


@pytest.fixture(params=[OverlayTrees, CopyTrees], ids=["overlay", "copy"])
def hosts(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Host, Host]:
    return Host(tmp_path / "one", request.param()), Host(tmp_path / "other", request.param())


@pytest.fixture
def overlays(tmp_path: Path) -> tuple[Host, Host]:
    return Host(tmp_path / "one", OverlayTrees()), Host(tmp_path / "other", OverlayTrees())


def of_layers(name: str) -> bool:
    return name != "trusted.overlay.origin"


def lower(root: Path) -> None:
    (root / "media").mkdir()
    (root / "pkg_image").mkdir()
    tree = root / "pkg_image"
    plant(tree)
    add_socket(tree)
    (tree / "removed").write_text("removed")
    (tree / "emptied/below").mkdir(parents=True)
    (tree / "renamed/kept").mkdir(parents=True)
    (tree / "renamed/file").write_text("renamed")
    (tree / "before").write_text("before")
    os.utime(tree / "before", ns=(0, -1_500_000_001))
    os.setxattr(tree / "before", "user.a=b%", b"=")
    os.setxattr(tree / "before", "trusted.note", b"\0")


def upper(root: Path) -> None:
    tree = root / "pkg_image"
    (tree / "removed").unlink()
    (tree / "emptied/below").rmdir()
    (tree / "emptied").rmdir()
    (tree / "emptied").mkdir()
    (tree / "renamed").rename(tree / "moved")
    (tree / "moved/new").write_text("new")
    (tree / "zeta").write_text("changed")
    os.chown(tree / "etc", 1234, 5)
    os.chown(root, 3, 4)
    root.chmod(0o751)


def test_a_stack_of_two_arrives_as_it_was(hosts: tuple[Host, Host]) -> None:
    one, other = hosts
    first = one.make("first", None, lower, "<dc/>")
    second = one.make("second", "first", upper, "<dc><x/></dc>")
    for name, layer in (("first", first), ("second", second)):
        taken = other.take(one.packed(name), expected(layer))
        assert taken.record == replace(layer.record, brought=True)
        trees = [
            fingerprint(found.directory / "tree", attributes=of_layers) for found in (layer, taken)
        ]
        assert trees[0] == trees[1]
        roots = [(found.directory / "tree").stat() for found in (layer, taken)]
        assert len({(s.st_mode, s.st_uid, s.st_gid, s.st_mtime_ns) for s in roots}) == 1
        store = other.subject.store
        assert store.document(key_of(name)) == one.subject.store.document(key_of(name))
        assert store.check(key_of(name), True, False, layer.record.content).state == "unchanged"
    shown = [each.subject.read("second", fingerprint) for each in hosts]
    assert shown[0] == shown[1]
    assert other.subject.work() == []


def test_a_layer_that_is_there_is_not_made_again(overlays: tuple[Host, Host]) -> None:
    one, other = overlays
    layer = one.make("first", None, lower)
    found = one.take(b"", expected(layer))
    assert found.directory == layer.directory
    other.make("first", None, lambda root: (root / "else").touch())
    assert "other content here" in other.refuses(one.packed("first"), expected(layer))


def test_what_does_not_fit_is_refused(overlays: tuple[Host, Host], tmp_path: Path) -> None:
    one, other = overlays
    first = one.make("first", None, lower)
    second = one.make("second", "first", upper)
    stream = one.packed("second")
    with pytest.raises(NotFound):
        other.take(stream, expected(second))
    assert "is not layer" in other.refuses(stream, expected(first))
    whole = Host(tmp_path / "copy", CopyTrees())
    assert "back end overlay" in whole.refuses(one.packed("first"), expected(first))
    for wrong in (
        {"key": key_of("x")},
        {"content": "0" * 64},
        {"content": ""},
    ):
        assert other.refuses(one.packed("first"), replace(expected(first), **wrong))
    other.make("first", None, lambda root: (root / "else").touch())
    assert "content" in other.refuses(stream, expected(second))
    with pytest.raises(NotFound):
        one.operations.pack_layer(key_of("none"), 1)


def test_a_reader_that_ends_and_a_damaged_manifest(overlays: tuple[Host, Host]) -> None:
    one, _ = overlays
    layer = one.make("first", None, lambda root: (root / "x").write_bytes(os.urandom(1 << 20)))
    receiving, sending = os.pipe()
    os.close(receiving)
    with pytest.raises(Unprepared):
        one.operations.pack_layer(key_of("first"), sending)
    os.close(sending)
    (layer.directory / "content.jsonl.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(Refused, match="manifest"):
        one.operations.pack_layer(key_of("first"), 2)


def test_no_flipped_byte_and_no_cut_stream_becomes_a_layer(overlays: tuple[Host, Host]) -> None:
    one, other = overlays
    layer = one.make("first", None, lower)
    stream = one.packed("first")
    plain = _zstd("-d", stream)
    for at in (0, 40, len(stream) // 3, len(stream) // 2, len(stream) - 3):
        flipped = bytearray(stream)
        flipped[at] ^= 0x10
        assert other.refuses(bytes(flipped), expected(layer))
    for cut in (0, 1, len(stream) // 2, len(stream) - 1):
        assert other.refuses(stream[:cut], expected(layer))
    assert other.refuses(plain, expected(layer)), "not compressed"
    for content in (
        plain[:-12000],
        plain + bytes(10240),
        plain + b"x",
        plain[:-512] + b"x" * 512,
        b"x" * 512,
    ):
        assert other.refuses(_zstd("-1", content), expected(layer))
    assert other.take(stream, expected(layer)).record == replace(layer.record, brought=True)


def _zstd(what: str, content: bytes) -> bytes:
    return subprocess.run(
        ["zstd", "-qc", what], input=content, capture_output=True, check=True
    ).stdout


class Forged:
    """A stream for a layer, of other entries: the manifest and the record are right."""

    def __init__(self, host: Host) -> None:
        (host.subject.store.directory.parent / "secret").write_text("secret")
        self.layer = host.make("first", None, self.tree, "<dc/>")
        self.out = io.BytesIO()
        self.writer = TarWriter(self.out.write)
        reader = TarReader(io.BytesIO(_zstd("-d", host.packed("first"))))
        for _ in range(3):
            member = reader.next()
            assert member is not None
            self.writer.add_bytes(member.name.decode(), reader.whole(member, 1 << 30), 0)
        self.member("tree", tarfile.DIRTYPE)

    @staticmethod
    def tree(root: Path) -> None:
        (root / "directory").mkdir()
        (root / "directory/file").write_text("x")
        (root / "link").symlink_to("/etc")

    def member(self, name: str, kind: bytes, link: str = "", **records: bytes) -> None:
        found = tarfile.TarInfo(name)
        found.type, found.linkname, found.mode = kind, link, 0o755
        self.writer._header(found, dict(records), 0)

    def file(self, name: str, content: bytes = b"x") -> None:
        self.writer.add_bytes(name, content, 0)

    @property
    def stream(self) -> bytes:
        self.writer.close()
        return _zstd("-1", self.out.getvalue())


def _records(**found: bytes) -> Callable[[Forged], None]:
    names = {key.replace("__", "."): value for key, value in found.items()}
    return lambda forged: forged.member("tree/directory", tarfile.DIRTYPE, **names)


def _followed(forged: Forged) -> None:
    forged.member("tree/link", tarfile.SYMTYPE, "/etc")
    forged.file("tree/link/file")


def _twice(forged: Forged) -> None:
    forged.member("tree/directory", tarfile.DIRTYPE)
    forged.file("tree/directory/file")
    forged.file("tree/directory/file")


def _larger(forged: Forged) -> None:
    forged.member("tree/directory", tarfile.DIRTYPE)
    forged.file("tree/directory/file", b"xy")


def _through(forged: Forged) -> None:
    forged.member("tree/link", tarfile.SYMTYPE, "/etc/passwd")
    forged.file("tree/link")


FORGERIES: dict[str, Callable[[Forged], None]] = {
    "up": lambda forged: forged.file("tree/../x"),
    "up at once": lambda forged: forged.file("../x"),
    "up later": lambda forged: forged.file("tree/directory/../../x"),
    "absolute": lambda forged: forged.file("/etc/x"),
    "absolute in the tree": lambda forged: forged.file("tree//etc/x"),
    "a dot": lambda forged: forged.file("tree/./x"),
    "beside the tree": lambda forged: forged.file("treex"),
    "the root again": lambda forged: forged.member("tree", tarfile.DIRTYPE),
    "no directory": lambda forged: forged.file("tree/directory/file"),
    "in a link": _followed,
    "over a link": _through,
    "twice": _twice,
    "not of the layer": lambda forged: forged.file("tree/other"),
    "larger": _larger,
    "a link to outside": lambda forged: forged.member("tree/link", tarfile.LNKTYPE, "tree/../../../secret"),
    "a link to what is not there": lambda forged: forged.member("tree/link", tarfile.LNKTYPE, "tree/x"),
    "a link to a directory": lambda forged: forged.member("tree/link", tarfile.LNKTYPE, "tree"),
    "a device": lambda forged: forged.member("tree/link", tarfile.BLKTYPE),
    "continuous": lambda forged: forged.member("tree/link", tarfile.CONTTYPE),
    "long name of GNU": lambda forged: forged.member("tree/link", tarfile.GNUTYPE_LONGNAME),
    "global records": lambda forged: forged.member("tree/link", tarfile.XGLTYPE),
    "unknown record": _records(comment=b"x"),
    "no time": _records(mtime=b"1e9"),
    "a time without end": _records(mtime=b"9" * 5000),
    "no owner": _records(uid=b"-1"),
    "a huge owner": _records(uid=b"9" * 20),
    "an attribute of the host": _records(SCHILY__xattr__security__selinux=b"x"),
    "a reference of overlayfs": _records(SCHILY__xattr__trusted__overlay__origin=b"x"),
    "content elsewhere": _records(SCHILY__xattr__trusted__overlay__metacopy=b""),
    "leads out": _records(SCHILY__xattr__trusted__overlay__redirect=b"../../secret"),
    "leads out from the root": _records(SCHILY__xattr__trusted__overlay__redirect=b"/../x"),
    "other attributes": _records(SCHILY__xattr__user__x=b"y"),
    "nothing more": lambda forged: None,
}  # fmt: skip


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
def test_what_leads_out_or_is_not_of_the_layer_leaves_nothing(
    overlays: tuple[Host, Host], tmp_path: Path, forge: Callable[[Forged], None]
) -> None:
    one, other = overlays
    forged = Forged(one)
    forge(forged)
    before = sorted(map(str, tmp_path.rglob("*")))
    with pytest.raises((Refused, Unprepared)):
        other.take(forged.stream, expected(forged.layer))
    assert sorted(map(str, tmp_path.rglob("*"))) == before


def test_too_many_whiteouts(overlays: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MOST_WHITEOUTS", 10)
    one, other = overlays
    forged = Forged(one)
    for number in range(11):
        forged.member(f"tree/{number}", tarfile.CHRTYPE)
    assert "too many" in other.refuses(forged.stream, expected(forged.layer))


@pytest.mark.parametrize("path", ["../../secret", "directory/file", "directory", "link"])
def test_an_artifact_that_a_forged_record_names_changes_nothing(
    overlays: tuple[Host, Host], path: str
) -> None:
    """Committing a layer gives its artifacts the mode of artifacts; the manifest has another one."""
    one, other = overlays
    secret = other.subject.store.directory.parent / "secret"
    secret.touch(0o600)
    layer = one.make("first", None, Forged.tree)
    record = replace(layer.record, artifacts=(Artifact("x", path, "iso", 1, "0" * 64),))
    file = layer.directory / "layer.json"
    file.write_text(json.dumps({**json.loads(file.read_bytes()), "record": as_plain(record)}))
    one.subject.store._known.clear()
    with contextlib.suppress(DcdError):
        other.take(one.packed("first"), expected(layer))
        assert path in ("directory", "link")
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert other.subject.work() == []


def test_a_killed_process_leaves_a_workspace_that_the_next_start_removes(
    overlays: tuple[Host, Host],
) -> None:
    one, other = overlays
    layer = one.make("first", None, lower)
    stream = one.packed("first")
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(sending)
        other.operations.unpack_layer(receiving, expected(layer))
        os._exit(0)
    os.close(receiving)
    os.write(sending, stream[: len(stream) // 2])
    deadline = time.monotonic() + 20
    while not other.subject.work():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(sending)
    assert [name.partition("-")[0] for name in other.subject.work()] == ["unpacking"]
    other.subject.store.reconcile((), ())
    assert other.names() == [".work"]
    assert other.take(stream, expected(layer)).record == replace(layer.record, brought=True)


def test_through_the_launcher(launcher: Launcher, setup: Setup, tmp_path: Path) -> None:
    launcher.prepare(replace(setup, backend="overlay", bounds=Bounds(shares_layers=True)))
    workspace = launcher.layers.begin(None, "b.0.1")
    (workspace.stored_tree / "file").write_text("x")
    layer = launcher.commit("b.0.1", LayerRecord(key_of("x"), None, "b", "one", 1, 1.0), None)
    with (tmp_path / "stream").open("w+b") as file:
        launcher.pack_layer(layer.record.key, file.fileno())
        launcher.layers.remove(layer.record.key)
        file.seek(0)
        taken = launcher.unpack_layer(file.fileno(), expected(layer))
        assert taken.record == replace(layer.record, brought=True)
        file.seek(3)
        launcher.layers.remove(layer.record.key)
        with pytest.raises(Refused):
            launcher.unpack_layer(file.fileno(), expected(layer))
    assert launcher.layers.find(layer.record.key) is None
    assert list(launcher.layers.workspaces()) == []
    directory = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(UsageError):
        launcher.pack_layer(layer.record.key, directory)
    os.close(directory)
    with pytest.raises(UsageError):
        launcher.call("pack_layer", key=layer.record.key, sink=1)


def test_without_a_registry_no_layer_is_handed_out(
    launcher: Launcher, setup: Setup, tmp_path: Path
) -> None:
    launcher.prepare(setup)
    launcher.layers.begin(None, "b.0.1")
    layer = launcher.commit("b.0.1", LayerRecord(key_of("x"), None, "b", "one", 1, 1.0), None)
    with (tmp_path / "stream").open("w+b") as file:
        with pytest.raises(PermissionDenied):
            launcher.pack_layer(layer.record.key, file.fileno())
        with pytest.raises(PermissionDenied):
            launcher.unpack_layer(file.fileno(), expected(layer))
        assert file.seek(0, 2) == 0


def test_zstd_has_no_rights() -> None:
    receiving, sending = os.pipe()
    with (
        os.fdopen(receiving, "rb"),
        os.fdopen(sending, "wb"),
        streams._zstd("-d", stdin=receiving, stdout=subprocess.PIPE) as process,
    ):
        status = Path(f"/proc/{process.pid}/status").read_text()
        process.kill()
    found = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert found["Uid"].split() == found["Gid"].split() == ["65534"] * 4
    assert found["Groups"].strip() == ""
    assert int(found["CapEff"], 16) == int(found["CapPrm"], 16) == 0
