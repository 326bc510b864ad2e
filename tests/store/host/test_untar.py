"""Reading archives that may be forged: what was written is read, and anything else is an error."""

import contextlib
import io
import random
import stat
import tarfile
from pathlib import Path

import pytest

from store.host.entries import entries_of
from store.host.tar import TarWriter
from store.host.untar import DamagedArchive, Member, TarReader
from tests.dcd.checkpoints.hostile_tree import add_socket, plant

pytestmark = pytest.mark.root

BLOCK = 512


def read(archive: bytes) -> list[tuple[Member, bytes]]:
    reader = TarReader(io.BytesIO(archive))
    found = []
    while (member := reader.next()) is not None:
        content = bytearray(member.size if member.size < 1 << 24 else 0)
        for offset, piece in reader.content(member):
            content[offset : offset + len(piece)] = piece
        found.append((member, bytes(content)))
    return found


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    tree = tmp_path_factory.mktemp("tree")
    plant(tree)
    add_socket(tree)
    out = io.BytesIO()
    writer = TarWriter(out.write, marks_sockets=True)
    for entry in entries_of(tree):
        writer.add(entry, f"tree/{entry.name}")
    writer.close()
    return out.getvalue()


def sparse(size: bytes, listed: str, data: bytes, **more: bytes) -> bytes:
    """An archive with one sparse file."""
    out = io.BytesIO()
    writer = TarWriter(out.write)
    index = listed.encode() + bytes(-len(listed) % BLOCK)
    member = tarfile.TarInfo("./GNUSparseFile.0/x")
    member.size = len(index) + len(data)
    records = {"major": b"1", "minor": b"0", "name": b"x", "realsize": size, **more}
    writer._header(member, {f"GNU.sparse.{key}": value for key, value in records.items()}, 0)
    writer._put(index + data)
    writer._pad()
    writer.close()
    return out.getvalue()


def test_the_standard_librarys_reader_finds_the_same(archive: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive)) as other:
        theirs = other.getmembers()
    ours = read(archive)
    assert [member.name.rstrip(b"/") for member, _ in ours] == [
        name.name.encode("utf-8", "surrogateescape").rstrip(b"/") for name in theirs
    ]
    assert [member.size for member, _ in ours if member.same_as is None] == [
        one.size for one in theirs if not one.islnk()
    ]
    kinds = {stat.S_IFMT(member.kind) for member, _ in ours}
    assert {stat.S_IFSOCK, stat.S_IFIFO, stat.S_IFBLK, stat.S_IFCHR, stat.S_IFLNK} < kinds


def test_a_sparse_file() -> None:
    ((member, content),) = read(sparse(b"9", "3\n1\n2\n5\n1\n9\n0\n", b"abc"))
    assert (member.name, content) == (b"x", b"\0ab\0\0c\0\0\0")


@pytest.mark.parametrize(
    "forged",
    [
        sparse(b"9", "2\n5\n1\n1\n2\n", b"abc"),
        sparse(b"9", "2\n1\n2\n2\n1\n", b"abc"),
        sparse(b"5", "1\n4\n2\n", b"ab"),
        sparse(b"9", "1\n4\n2\n", b"abc"),
        sparse(b"9", "1\n4\n3\n", b"ab"),
        sparse(b"9", "99999999\n", b""),
        sparse(b"9", "1\n-4\n2\n", b"ab"),
        sparse(b"9", "1\n" + "9" * 30 + "\n2\n", b"ab"),
        sparse(b"9", "x\n", b""),
        sparse(b"9", "1\n4\n", b""),
        sparse(b"x", "1\n4\n2\n", b"ab"),
        sparse(b"9", "1\n4\n2\n", b"ab", major=b"0"),
        sparse(b"9", "0" * 3000, b""),
    ],
    ids=lambda archive: str(len(archive)),
)
def test_a_forged_list_of_a_sparse_file(forged: bytes) -> None:
    with pytest.raises(DamagedArchive):
        read(forged)


def test_records_without_end(archive: bytes) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 1 << 32
    with pytest.raises(DamagedArchive, match="records of"):
        read(header.tobuf(tarfile.USTAR_FORMAT) + bytes(1 << 16))


def test_damage_at_any_place_is_an_error_of_its_own_or_another_archive(archive: bytes) -> None:
    places = random.Random(1)
    whole = read(archive)
    damaged = 0
    for _ in range(150):
        changed = bytearray(archive)
        at = places.randrange(len(archive))
        changed[at] ^= 1 << places.randrange(8)
        try:
            damaged += read(bytes(changed)) == whole
        except DamagedArchive:
            damaged += 1
        with pytest.raises(DamagedArchive):
            read(archive[: min(at, len(archive) - 12_000)])
    assert damaged > 40


def test_a_forged_header_with_a_right_sum(archive: bytes) -> None:
    """Any bytes in the fields of a header, whose sum is right."""
    source = random.Random(2)
    for _ in range(2000):
        block = bytearray(archive[:BLOCK])
        for _ in range(4):
            block[source.choice([*range(124), *range(124, 148), *range(156, 512)])] = (
                source.randrange(256)
            )
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        with contextlib.suppress(DamagedArchive):
            read(bytes(block) + bytes(BLOCK * 20))


def test_entries_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b", "a.d", "a"):
        (tmp_path / name).mkdir()
    (tmp_path / "a/x").touch()
    assert [one.name for one in entries_of(tmp_path)] == ["", "a", "a/x", "a.d", "b"]
    assert [one.name for one in entries_of(tmp_path, lambda name: name == "a")] == ["", "a.d", "b"]
