"""TransferArchive: archives of several kinds, unpacked beneath their destination."""

import contextlib
import io
import os
import struct
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.transfer.archive import TransferArchive
from dcd.manifest.values import InputPath
from statemachine.errors import CheckpointError, InvalidManifest

# struct posix_acl_xattr: version 2, then (tag, permissions, id): owner, user 1000, group, mask, others.
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, 6, who)
    for tag, who in ((1, 2**32 - 1), (2, 1000), (4, 2**32 - 1), (16, 2**32 - 1), (32, 2**32 - 1))
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/a file").write_text("content")
    (tree / "etc/link").symlink_to("/no/such")
    (tree / "hard").hardlink_to(tree / "etc/a file")
    return tree


def unpack(bench: Any, archive: Path, *elements: str) -> None:
    bench.execute(
        TransferArchive("unpack", InputPath("image.archive")),
        *elements,
        inputs={"image.archive": archive},
    )


COMMANDS = {
    "tar": "tar -cf - .",
    "tar.gz": "tar -czf - .",
    "tar.xz": "tar -cJf - .",
    "tar.zst": "tar -cf - . | zstd -q",
    "tar.bz2": "python3 -c 'import tarfile,sys; tarfile.open(fileobj=sys.stdout.buffer,"
    'mode="w|bz2").add(".")\'',
    "cpio": "find . | cpio -o -H newc --quiet",
    "cpio.gz": "find . | cpio -o -H newc --quiet | gzip",
    "cpio.zst": "find . | cpio -o -H odc --quiet | zstd -q",
}


@pytest.mark.parametrize("kind", COMMANDS)
def test_every_kind_is_known_by_its_content(
    bench: Any, tmp_path: Path, tree: Path, kind: str
) -> None:
    archive = tmp_path / "blob"
    with archive.open("wb") as sink:
        subprocess.run(["sh", "-c", COMMANDS[kind]], cwd=tree, stdout=sink, check=True)
    unpack(bench, archive)
    assert (bench.image / "etc/a file").read_text() == "content"
    assert (bench.image / "etc/link").readlink() == Path("/no/such")
    assert (bench.image / "hard").samefile(bench.image / "etc/a file")
    assert list((bench.root / "tmp").iterdir()) == []


def test_the_destination_may_hold_something_and_its_links_are_not_followed_out(
    bench: Any, tmp_path: Path
) -> None:
    host = tmp_path / "host"
    host.mkdir()
    (bench.image / "var").symlink_to(host)
    (bench.image / "kept").write_text("kept")
    archive = tmp_path / "blob"
    with tarfile.open(archive, "w") as tar:
        tar.addfile(tarfile.TarInfo("var/evil"), io.BytesIO())
    unpack(bench, archive)
    assert list(host.iterdir()) == []
    assert (bench.image / "kept").read_text() == "kept"


def hostile_tar(archive: Path, outside: Path) -> None:
    with tarfile.open(archive, "w") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, str(outside)
        tar.addfile(link)
        for name in ("link/evil", "../evil", f"{outside}/evil"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())


def hostile_cpio(archive: Path, outside: Path) -> None:
    tree = archive.parent / "hostile"
    (tree / "a").mkdir(parents=True)
    (tree / "a/link").symlink_to(outside)
    first = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], input=b"a\na/link\n", cwd=tree, capture_output=True
    )
    (tree / "a/link").unlink()
    (tree / "a/link").mkdir()
    (tree / "a/link/evil").write_text("evil")
    second = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"],
        input=f"a/link/evil\n{tree}/a/link/evil\n".encode(),
        cwd=tree,
        capture_output=True,
    )
    trailer = first.stdout.rindex(b"070701")
    archive.write_bytes(first.stdout[:trailer] + second.stdout)
    (tree / "a/link/evil").unlink()


@pytest.mark.parametrize("make", [hostile_tar, hostile_cpio])
def test_a_hostile_archive_writes_nothing_outside(bench: Any, tmp_path: Path, make: Any) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    make(tmp_path / "blob", outside)
    before = {*tmp_path.iterdir(), *bench.root.iterdir()}
    with contextlib.suppress(CheckpointError):
        unpack(bench, tmp_path / "blob")
    assert list(outside.iterdir()) == []
    assert {*tmp_path.iterdir(), *bench.root.iterdir()} == before
    assert (bench.image / "link").is_symlink() or (bench.image / "a/link").is_symlink()


def test_what_is_no_archive_is_said_to_be_none(bench: Any, tmp_path: Path) -> None:
    (tmp_path / "blob").write_text("hello")
    with pytest.raises(CheckpointError, match=r"image\.archive cannot be unpacked: it is not"):
        unpack(bench, tmp_path / "blob")


@pytest.mark.parametrize("kind", COMMANDS)
@pytest.mark.parametrize("present", [False, True])
def test_a_damaged_archive_is_named_with_its_line(
    bench: Any, tmp_path: Path, tree: Path, kind: str, present: bool
) -> None:
    whole = subprocess.run(
        ["sh", "-c", COMMANDS[kind]], cwd=tree, stdout=subprocess.PIPE, check=True
    ).stdout
    (tmp_path / "blob").write_bytes(whole[: min(len(whole) // 2, 700)])
    if present:
        (bench.image / "etc").mkdir()
    with pytest.raises(CheckpointError) as caught:
        unpack(
            bench,
            tmp_path / "blob",
            '<execution>\n<checkpoint name="unpack" mod_path="dcd/checkpoints/transfer/archive" '
            'checkpoint_class="TransferArchive">\n'
            '<arg name="archive">image.archive</arg></checkpoint></execution>',
        )
    assert caught.value.brief.startswith("image.archive cannot be unpacked: ")
    assert "the archive is named at manifest.xml:3" in caught.value.details
    assert caught.value.resolution


@pytest.mark.parametrize("blocks", [2.3, 5.3, 5.9])
def test_a_tar_archive_that_is_cut_off_in_a_block_is_damaged(
    bench: Any, tmp_path: Path, tree: Path, blocks: float
) -> None:
    whole = subprocess.run(["tar", "-cf", "-", "."], cwd=tree, capture_output=True, check=True)
    (tmp_path / "blob").write_bytes(whole.stdout[: int(512 * blocks)])
    with pytest.raises(CheckpointError, match="cannot be unpacked"):
        unpack(bench, tmp_path / "blob")


def test_a_tar_archive_without_an_end_is_unpacked_with_a_warning(
    bench: Any, tmp_path: Path, tree: Path
) -> None:
    whole = subprocess.run(
        ["tar", "-cf", "-", "etc/link", "etc/a file"], cwd=tree, capture_output=True, check=True
    )
    (tmp_path / "blob").write_bytes(whole.stdout[: 512 * 3])
    unpack(bench, tmp_path / "blob")
    assert "the tar archive has no end" in bench.messages()


def test_the_destination_is_the_softwares(bench: Any, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "blob", "w") as tar:
        tar.addfile(tarfile.TarInfo("file"), io.BytesIO())
    unpack(
        bench,
        tmp_path / "blob",
        '<software name="unpack" type="ARCHIVE"><destination><dir path="{MEDIA_DIR}/iso"/></destination>'
        "</software>",
    )
    assert (bench.root / "media/iso/file").is_file()


def test_a_destination_outside_the_workspace_is_refused(bench: Any) -> None:
    destination = '<destination><dir path="/srv"/></destination>'
    with pytest.raises(InvalidManifest, match="not a path that begins with an area"):
        bench.doc(f'<software name="unpack" type="ARCHIVE">{destination}</software>')


@pytest.mark.parametrize("present", [False, True])
def test_lists_of_rights_in_an_archive_are_kept(bench: Any, tmp_path: Path, present: bool) -> None:
    source, archive = tmp_path / "source", tmp_path / "blob"
    source.mkdir()
    (source / "shared").write_text("for two")
    os.setxattr(source / "shared", "system.posix_acl_access", ACL)
    subprocess.run(["tar", "--acls", "-cf", archive, "-C", source, "."], check=True)
    if present:
        (bench.image / "etc").mkdir()
    unpack(bench, archive)
    assert os.getxattr(bench.image / "shared", "system.posix_acl_access") == ACL


@pytest.mark.root
@pytest.mark.usefixtures("own_mounts")
@pytest.mark.parametrize("with_acl", [False, True])
def test_lists_of_rights_that_the_place_cannot_hold_are_an_error(
    bench: Any, tmp_path: Path, with_acl: bool
) -> None:
    source, archive = tmp_path / "source", tmp_path / "blob"
    source.mkdir()
    (source / "shared").write_text("for two")
    if with_acl:
        os.setxattr(source / "shared", "system.posix_acl_access", ACL)
    subprocess.run(["tar", "--acls", "-cf", archive, "-C", source, "."], check=True)
    subprocess.run(["mount", "-t", "ramfs", "ramfs", bench.image], check=True)
    try:
        if not with_acl:
            unpack(bench, archive)
            assert (bench.image / "shared").read_text() == "for two"
            return
        with pytest.raises(CheckpointError, match="1 attributes of files could not be") as caught:
            unpack(bench, archive)
    finally:
        subprocess.run(["umount", bench.image], check=True)
    assert "POSIX ACL of ./shared" in caught.value.details
    assert "ext4" in caught.value.resolution


@pytest.mark.root
@pytest.mark.usefixtures("own_mounts")
def test_attributes_that_the_place_cannot_hold_are_an_error(bench: Any, tmp_path: Path) -> None:
    source, archive = tmp_path / "source", tmp_path / "blob"
    source.mkdir()
    (source / "noted").write_text("content")
    os.setxattr(source / "noted", "user.note", b"of the file")
    subprocess.run(["tar", "--xattrs", "-cf", archive, "-C", source, "."], check=True)
    # A file system without extended attributes.
    subprocess.run(["mount", "-t", "ramfs", "ramfs", bench.image], check=True)
    try:
        with pytest.raises(CheckpointError, match="1 attributes of files could not be") as caught:
            unpack(bench, archive)
    finally:
        subprocess.run(["umount", bench.image], check=True)
    assert "'user.note'" in caught.value.details
