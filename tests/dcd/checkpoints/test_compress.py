"""SquashfsPkgImgMod: the image as the live system will find it, and what is said of what is lost."""

import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from dcd.checkpoints.image.compress import SquashfsPkgImgMod
from dcd.manifest.values import BadValue, convert
from statemachine.errors import CheckpointError, InvalidManifest

pytestmark = pytest.mark.skipif(
    shutil.which("mksquashfs") is None, reason="squashfs-tools is not installed"
)

RESULT = "media/iso/live/filesystem.squashfs"
EPOCH = 1700000000

# struct posix_acl_xattr: version 2, then (tag, permissions, id): owner, user 1000, group, mask, others.
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, 7, who)
    for tag, who in ((1, 2**32 - 1), (2, 1000), (4, 2**32 - 1), (16, 2**32 - 1), (32, 2**32 - 1))
)


@pytest.fixture
def filled(bench: Any) -> Any:
    """A bench with a small image."""
    (bench.image / "etc").mkdir()
    (bench.image / "etc/motd").write_text("hello\n")
    (bench.image / "etc/link").symlink_to("/etc/motd")
    (bench.image / "var/cache/apt").mkdir(parents=True)
    (bench.image / "var/cache/apt/pkgcache.bin").write_bytes(os.urandom(4096))
    for number in range(300):
        (bench.image / f"etc/file{number}").write_text(str(number))
    return bench


def listing(bench: Any) -> list[str]:
    shown = subprocess.run(
        ["unsquashfs", "-l", "-d", "", bench.root / RESULT],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [line for line in shown.stdout.splitlines() if line.startswith("/")]


@pytest.mark.parametrize(
    ("compression", "level", "block"),
    [
        ("zstd", 3, 1024),
        ("zstd", None, 128),
        ("gzip", 1, 4),
        ("xz", None, 1024),
        ("lz4", None, 256),
    ],
)
def test_the_image_is_compressed_as_asked(
    filled: Any, compression: Any, level: int | None, block: int
) -> None:
    filled.execute(SquashfsPkgImgMod("squash", compression, level, block))
    shown = subprocess.run(
        ["unsquashfs", "-s", filled.root / RESULT], capture_output=True, text=True, check=True
    ).stdout
    assert f"Compression {compression}" in shown
    assert f"Block size {block * 1024}" in shown
    content = subprocess.run(
        ["unsquashfs", "-cat", filled.root / RESULT, "etc/motd"], capture_output=True, check=True
    )
    assert content.stdout == b"hello\n"
    assert "/etc/link" in listing(filled)


def test_the_same_image_gives_the_same_bytes_at_another_time(filled: Any) -> None:
    results = []
    for now in (EPOCH + 10, EPOCH + 20):
        os.utime(filled.image / "etc/motd", (now, now))
        checkpoint = SquashfsPkgImgMod("squash", compression_level=1)
        doc = filled.execute(SquashfsPkgImgMod("squash", compression_level=1))
        checkpoint.execute(filled.context(doc, environment={"SOURCE_DATE_EPOCH": str(EPOCH)}))
        results.append((filled.root / RESULT).read_bytes())
    assert results[0] == results[1]
    assert struct.unpack("<I", results[0][8:12]) == (EPOCH,)


def test_excluded_paths_are_left_out_and_the_image_keeps_them(filled: Any) -> None:
    filled.execute(SquashfsPkgImgMod("squash", exclude=("/var/cache/apt/*", "etc/file1?")))
    names = listing(filled)
    assert "/var/cache/apt" in names
    assert "/var/cache/apt/pkgcache.bin" not in names
    assert "/etc/file9" in names
    assert "/etc/file12" not in names
    assert (filled.image / "var/cache/apt/pkgcache.bin").exists()


def test_progress_only_rises_and_ends_at_one(filled: Any) -> None:
    filled.execute(SquashfsPkgImgMod("squash", compression_level=1))
    fractions = [report.fraction for report in filled.reports if report.fraction is not None]
    assert len(fractions) > 50
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def set_acl(path: Path) -> None:
    try:
        os.setxattr(path, "system.posix_acl_access", ACL)
    except OSError as error:
        pytest.skip(f"this host has no POSIX ACLs at {path}: {error.strerror}")


def test_files_whose_acls_are_lost_are_named(filled: Any) -> None:
    set_acl(filled.image / "etc/motd")
    filled.execute(SquashfsPkgImgMod("squash", compression_level=1))
    (said,) = [report.message for report in filled.reports if report.warning]
    assert said == "POSIX ACLs are not kept, squashfs has none: etc/motd"


def test_acls_can_be_refused_before_anything_is_written(filled: Any) -> None:
    set_acl(filled.image / "etc/motd")
    with pytest.raises(CheckpointError, match="POSIX ACLs") as caught:
        filled.execute(SquashfsPkgImgMod("squash", posix_acls="fail"))
    assert "etc/motd" in caught.value.details
    assert not (filled.root / RESULT).exists()


@pytest.mark.parametrize("pattern", ["etc", "etc/motd", "e*/mot?", "/etc/"])
def test_acls_of_what_is_left_out_do_not_matter(filled: Any, pattern: str) -> None:
    set_acl(filled.image / "etc/motd")
    filled.execute(
        SquashfsPkgImgMod("squash", compression_level=1, posix_acls="fail", exclude=(pattern,))
    )


@pytest.mark.parametrize("pattern", ["motd", "etc/motd/x", "etc/.*", "*/*/*"])
def test_acls_of_what_is_not_left_out_do(filled: Any, pattern: str) -> None:
    set_acl(filled.image / "etc/motd")
    with pytest.raises(CheckpointError, match="POSIX ACLs"):
        filled.execute(SquashfsPkgImgMod("squash", posix_acls="fail", exclude=(pattern,)))


def test_an_image_without_acls_is_not_complained_about(filled: Any) -> None:
    filled.execute(SquashfsPkgImgMod("squash", compression_level=1, posix_acls="fail"))
    assert "ACL" not in filled.messages()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"compression_level": 23}, "out of range"),
        ({"compression_level": 0}, "out of range"),
        ({"compression_type": "gzip", "compression_level": 10}, "out of range"),
        ({"compression_type": "xz", "compression_level": 1}, "xz has no compression_level"),
        ({"compression_type": "lz4", "compression_level": 1}, "lz4 has no compression_level"),
        ({"exclude": ("/",)}, "leaves nothing"),
    ],
)
def test_impossible_arguments_are_refused_when_the_manifest_is_checked(
    filled: Any, arguments: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidManifest, match=problem) as caught:
        filled.execute(SquashfsPkgImgMod("squash", **arguments))
    assert caught.value.resolution
    assert not (filled.root / RESULT).exists()


def test_an_empty_image_is_refused(bench: Any) -> None:
    with pytest.raises(CheckpointError, match="image is empty"):
        bench.execute(SquashfsPkgImgMod("squash"))


def test_an_image_that_no_medium_may_hold_is_refused_at_once(filled: Any) -> None:
    most = """<distro_spec><img_params><media_im><max_size><size val="1kb"/></max_size></media_im>
        </img_params></distro_spec>"""
    with pytest.raises(CheckpointError, match="the compressed image is larger") as caught:
        filled.execute(SquashfsPkgImgMod("squash"), most)
    assert "max_size of media_im is 0.0 MiB (1024 bytes)" in caught.value.details


@pytest.mark.parametrize("seconds", [-1, -3_000_000_000 // 2, 2**32])
def test_times_that_squashfs_cannot_hold_are_refused_before_anything_is_written(
    filled: Any, seconds: int
) -> None:
    os.utime(filled.image / "etc/link", (seconds, seconds), follow_symlinks=False)
    with pytest.raises(CheckpointError, match="times that squashfs cannot hold") as caught:
        filled.execute(SquashfsPkgImgMod("squash"))
    assert "etc/link" in caught.value.details
    assert "touch" in caught.value.resolution
    assert not (filled.root / RESULT).exists()
    filled.execute(SquashfsPkgImgMod("squash", compression_level=1, exclude=("etc/link",)))


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "1970-01-01 00:00"), (2**32 - 1, "2106-02-07 06:28")]
)
def test_the_first_and_the_last_time_of_squashfs_are_kept(
    filled: Any, seconds: int, shown: str
) -> None:
    os.utime(filled.image / "etc/motd", (seconds, seconds))
    filled.execute(SquashfsPkgImgMod("squash", compression_level=1))
    told = subprocess.run(
        ["unsquashfs", "-lln", "-d", "", filled.root / RESULT, "etc/motd"],
        capture_output=True, text=True, check=True, env={**os.environ, "TZ": "UTC"},
    ).stdout  # fmt: skip
    assert f"{shown} /etc/motd" in told


def test_a_time_after_the_builds_own_is_set_back_however_late_it_is(filled: Any) -> None:
    os.utime(filled.image / "etc/motd", (2**32 + 5, 2**32 + 5))
    context = filled.context(filled.doc(), environment={"SOURCE_DATE_EPOCH": str(EPOCH)})
    SquashfsPkgImgMod("squash", compression_level=1).execute(context)
    told = subprocess.run(
        ["unsquashfs", "-lln", "-d", "", filled.root / RESULT, "etc/motd"],
        capture_output=True, text=True, check=True, env={**os.environ, "TZ": "UTC"},
    ).stdout  # fmt: skip
    assert "2023-11-14 22:13 /etc/motd" in told


def test_a_block_has_one_of_the_sizes_of_mksquashfs() -> None:
    size = get_type_hints(SquashfsPkgImgMod)["block_size_kib"]
    assert convert("64", size) == 64
    for wrong in ("100", "2", "2048"):
        with pytest.raises(BadValue, match=wrong):
            convert(wrong, size)
