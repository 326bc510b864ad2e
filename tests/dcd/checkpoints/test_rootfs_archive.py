"""RootfsArchive: a tree with everything that is hard to keep, read by programs of others."""

import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from dcd.checkpoints.rootfs.archive import RootfsArchive
from dcd.manifest.diagnostics import refuse
from dcd.manifest.values import BadValue, convert
from statemachine.errors import CheckpointError, InvalidManifest
from store.host.tar import _record
from tests.dcd.checkpoints.hostile_tree import EPOCH, OLD, add_socket, fingerprint, plant

pytestmark = pytest.mark.root

SUFFIXES = {"zstd": ".zst", "xz": ".xz", "gzip": ".gz", "none": ""}


@pytest.fixture
def planted(bench: Any) -> Any:
    plant(bench.image)
    return bench


def packed(bench: Any, **arguments: Any) -> Path:
    """The only result of a RootfsArchive with these arguments, as it is delivered."""
    checkpoint = RootfsArchive("archive", **arguments)
    doc = bench.doc()
    refuse(checkpoint.check(doc))
    checkpoint.execute(bench.context(doc, environment={"SOURCE_DATE_EPOCH": str(EPOCH)}))
    result: Path = bench.root / bench.artifacts[-1].path
    return result


def run(*argv: Any, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(argv, check=True, capture_output=True, **options)


def emptied(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return path


@pytest.mark.parametrize("compression", SUFFIXES)
def test_gnu_tar_unpacks_the_same_tree(planted: Any, tmp_path: Path, compression: str) -> None:
    archive = packed(planted, compression=compression)
    assert archive.name == f"test.tar{SUFFIXES[compression]}"
    out = emptied(tmp_path / "out")
    run("tar", "--extract", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner",
        "--same-owner", "--preserve-permissions", "--file", archive, "--directory", out)  # fmt: skip
    assert fingerprint(out) == fingerprint(planted.image)


def test_bsdtar_unpacks_the_same_tree(planted: Any, tmp_path: Path) -> None:
    archive = packed(planted)
    out = emptied(tmp_path / "out")
    run("bsdtar", "-x", "-p", "--numeric-owner", "--acls", "--xattrs", "-f", archive, "-C", out,
        env={**os.environ, "LC_ALL": "C.UTF-8"})  # fmt: skip
    assert fingerprint(out, holes=False) == fingerprint(planted.image, holes=False)


def test_attributes_of_a_tar_may_have_names_that_are_no_text() -> None:
    assert _record("SCHILY.xattr.user.\udcff", b"v") == b"25 SCHILY.xattr.user.\xff=v\n"


def test_acls_of_a_tar_name_no_user_of_the_build_host(planted: Any) -> None:
    """The user of the ACL exists on this host, with a name, and need not exist in the image."""
    content = packed(planted, compression="none").read_bytes()
    assert b"user:1:rwx" in content
    assert b"user:daemon" not in content


def test_cpio_unpacks_the_tree_without_attributes(planted: Any, tmp_path: Path) -> None:
    archive = packed(planted, format="cpio", compression="gzip")
    out = emptied(tmp_path / "out")
    content = run("gzip", "--decompress", "--stdout", archive).stdout
    run("cpio", "--extract", "--preserve-modification-time", "--quiet", input=content, cwd=out)

    def kept(root: Path) -> dict[bytes, tuple[Any, ...]]:
        """GNU cpio gives times to files only, in whole seconds."""
        return {
            name: (*one[:3], stat.S_ISREG(one[0]) and one[3] // 10**9, *one[4:])
            for name, one in fingerprint(root, attributes=lambda _: False, holes=False).items()
        }

    assert kept(out) == kept(planted.image)
    (warning,) = [one.message for one in planted.reports if one.warning]
    assert "extended attributes and capabilities are not kept" in warning
    assert "usr/bin/ping" in warning


def test_unsquashfs_unpacks_the_tree_without_acls(planted: Any, tmp_path: Path) -> None:
    archive = packed(planted, format="squashfs", level=1)
    run("unsquashfs", "-quiet", "-no-progress", "-dest", tmp_path / "out", archive)

    def kept(name: str) -> bool:
        return not name.startswith("system.")

    found = fingerprint(tmp_path / "out", attributes=kept, holes=False)
    expected = fingerprint(planted.image, attributes=kept, holes=False)
    assert {name: (*one[:3], one[3] // 10**9, *one[4:]) for name, one in found.items()} == {
        name: (*one[:3], one[3] // 10**9, *one[4:]) for name, one in expected.items()
    }
    assert [one.message for one in planted.reports if one.warning] == [
        "POSIX ACLs are not kept, squashfs has none: acl, shared"
    ]


def test_the_kernel_reads_the_same_tree_from_erofs(
    planted: Any, tmp_path: Path, own_mounts: None
) -> None:
    archive = packed(planted, format="erofs")
    run("fsck.erofs", archive)
    assert b"Filesystem created:" in run("dump.erofs", archive).stdout
    out = emptied(tmp_path / "out")
    run("mount", "-o", "loop,ro", archive, out)
    try:
        assert fingerprint(out, holes=False) == fingerprint(planted.image, holes=False)
    finally:
        run("umount", out)


@pytest.mark.parametrize("format_", ["tar", "cpio", "squashfs"])
def test_another_copy_with_later_times_gives_the_same_bytes(
    planted: Any, tmp_path: Path, format_: Any
) -> None:
    os.utime(planted.image / "usr", (EPOCH, EPOCH))
    first = packed(planted, format=format_).read_bytes()
    copy = tmp_path / "copy"
    copy.mkdir()
    linked = [planted.image / name for name in ("note", "a-note", "-note")]
    others = [path for path in sorted(planted.image.iterdir(), reverse=True) if path not in linked]
    for group in (linked, *([path] for path in others)):  # in another order
        run("cp", "--archive", "--", *group, copy)
    run("touch", "--reference", planted.image, copy)
    os.utime(copy / "usr", (EPOCH + 50, EPOCH + 50))
    shutil.rmtree(planted.image)
    copy.rename(planted.image)
    assert packed(planted, format=format_).read_bytes() == first


def test_what_is_excluded_is_left_out_everywhere(planted: Any, tmp_path: Path) -> None:
    for format_ in ("tar", "cpio", "squashfs", "erofs"):
        archive = packed(planted, format=format_, exclude=("/usr/bin/*", "sparse"))
        listing = {
            "tar": ("tar", "--list", "--file", archive),
            "cpio": ("sh", "-c", f"zstd -dc {archive} | cpio --list"),
            "squashfs": ("unsquashfs", "-l", archive),
            "erofs": ("fsck.erofs", f"--extract={tmp_path / 'e'}", archive),
        }[format_]
        text = run(*listing).stdout.decode(errors="replace")
        if format_ == "erofs":
            text = "\n".join(str(one) for one in (tmp_path / "e").rglob("*"))
        assert "usr/bin" in text
        assert "ping" not in text
        assert "sparse" not in text.lower()
    assert (planted.image / "usr/bin/ping").exists()


def test_a_socket_is_left_out_of_a_tar_with_a_warning(planted: Any) -> None:
    add_socket(planted.image)
    archive = packed(planted)
    assert b"socket" not in run("tar", "--list", "--file", archive).stdout
    assert "sockets are not kept, tar has none: socket" in planted.messages()


def test_a_program_of_the_unpacked_archive_runs(bench: Any, tmp_path: Path) -> None:
    bench.add_shell()
    out = emptied(tmp_path / "out")
    run("tar", "--extract", "--file", packed(bench), "--directory", out)
    said = run("unshare", "--mount", "--root", out, "/bin/sh", "-c", "echo from inside").stdout
    assert said == b"from inside\n"


@pytest.mark.parametrize("format_", ["cpio", "squashfs", "erofs"])
def test_times_that_a_format_does_not_have_are_refused_before_it_is_written(
    bench: Any, format_: Any
) -> None:
    (bench.image / "old").write_text("old")
    os.utime(bench.image / "old", (-OLD, -OLD))
    with pytest.raises(CheckpointError, match=f"times that {format_} cannot hold") as caught:
        packed(bench, format=format_)
    assert "old" in caught.value.details
    assert list((bench.root / "media").iterdir()) == []


def test_a_tar_keeps_times_before_1970_and_after_2242(bench: Any, tmp_path: Path) -> None:
    for name, seconds in (("old", -OLD), ("new", 1 << 33)):
        (bench.image / name).write_text(name)
        os.utime(bench.image / name, (seconds, seconds))
    checkpoint = RootfsArchive("archive")
    checkpoint.execute(bench.context(bench.doc()))
    out = emptied(tmp_path / "out")
    archive = bench.root / bench.artifacts[-1].path
    run("tar", "--extract", "--file", archive, "--directory", out)
    assert [int((out / name).stat().st_mtime) for name in ("old", "new")] == [-OLD, 1 << 33]


def test_a_file_of_4_gib_is_too_large_for_cpio_and_not_for_tar(bench: Any, tmp_path: Path) -> None:
    with (bench.image / "large").open("wb") as file:
        file.truncate(9 << 30)
    with pytest.raises(CheckpointError, match="too large for cpio"):
        packed(bench, format="cpio")
    archive = packed(bench)
    out = emptied(tmp_path / "out")
    run("tar", "--extract", "--file", archive, "--directory", out)
    assert (out / "large").stat().st_size == 9 << 30


def test_lost_attributes_can_be_refused(planted: Any) -> None:
    for format_, what in (("cpio", "extended attributes"), ("squashfs", "POSIX ACLs")):
        with pytest.raises(CheckpointError, match=what):
            packed(planted, format=format_, lost_attributes="fail")
    assert list((planted.root / "media").iterdir()) == []


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_result_that_is_larger_than_allowed_is_no_result(bench: Any, compression: Any) -> None:
    (bench.image / "noise").write_bytes(os.urandom(200_000))
    with pytest.raises(CheckpointError, match="larger than it may be") as caught:
        packed(bench, compression=compression, max_size="100kb")
    assert "102400 bytes" in caught.value.details
    assert list((bench.root / "media").iterdir()) == []
    assert compression == "zstd" or list((bench.root / "tmp").iterdir()) == []


def test_an_empty_image_is_an_error(bench: Any) -> None:
    with pytest.raises(CheckpointError, match="an image is missing"):
        packed(bench)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"compression": "lz4"}, "tar is not compressed with lz4"),
        ({"format": "squashfs", "compression": "none"}, "squashfs is not compressed with none"),
        ({"level": 20}, "zstd has no level 20"),
        ({"compression": "none", "level": 1}, "none has no level 1"),
        ({"format": "erofs", "level": 13}, "lz4hc has no level 13 in erofs"),
        ({"format": "squashfs", "compression": "lz4", "level": 1}, "lz4 has no level 1"),
        ({"exclude": ("/",)}, "leaves nothing of the image"),
    ],
)
def test_bad_arguments_are_refused(bench: Any, arguments: Any, message: str) -> None:
    with pytest.raises(InvalidManifest, match=message):
        refuse(RootfsArchive("archive", **arguments).check(bench.doc()))


@pytest.mark.parametrize(("argument", "text"), [("compression", "brotli"), ("format", "zip")])
def test_an_unknown_compression_or_format_is_refused_with_the_known_ones(
    argument: str, text: str
) -> None:
    hints = get_type_hints(RootfsArchive, include_extras=True)
    with pytest.raises(BadValue) as caught:
        convert(text, hints[argument])
    assert "none" in caught.value.expected or "erofs" in caught.value.expected
