"""The format of compressed lofi images: byte by byte as lofiadm writes it, and what damage does."""

import hashlib
import lzma
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcd.checkpoints.image.illumos.lofi import (
    SEGMENT_BYTES,
    Algorithm,
    compress,
    decompress,
    read_index,
)
from statemachine.errors import CheckpointError

TEXT = b"illumos " * (SEGMENT_BYTES // 8)


def packed(tmp_path: Path, content: bytes, algorithm: Algorithm = "gzip") -> Path:
    source, target = tmp_path / "plain", tmp_path / "packed"
    source.write_bytes(content)
    compress(source, target, algorithm)
    return target


def test_the_header_and_the_index_are_those_of_lofiadm(tmp_path: Path) -> None:
    content = TEXT + TEXT[:1024]
    data = packed(tmp_path, content).read_bytes()
    # A name of 36 bytes and three numbers; three entries of an index, the last one the end.
    assert data[:36] == b"gzip" + bytes(32)
    assert struct.unpack_from(">III", data, 36) == (SEGMENT_BYTES, 3, 1024)
    first, second, end = struct.unpack_from(">QQQ", data, 48)
    base = 48 + 24
    assert first == 0
    assert data[base] == 1
    assert zlib.decompress(data[base + 1 : base + second]) == TEXT
    assert data[base + second] == 1
    assert zlib.decompress(data[base + second + 1 : base + end]) == TEXT[:1024]
    assert len(data) % 512 == 0
    assert not any(data[base + end :])


def test_lzma_has_the_header_of_lzma_files_with_the_dictionary_of_lofiadm(tmp_path: Path) -> None:
    data = packed(tmp_path, TEXT, "lzma").read_bytes()
    assert data[:36] == b"lzma" + bytes(32)
    (end,) = struct.unpack_from(">Q", data, 56)
    segment = data[64 : 64 + end]
    assert segment[0] == 1
    assert struct.unpack_from("<BIQ", segment, 1) == (0x5D, 8 << 20, len(TEXT))
    unsized = segment[1:6] + b"\xff" * 8 + segment[14:]
    assert lzma.decompress(unsized, lzma.FORMAT_ALONE) == TEXT


def test_a_segment_that_hardly_shrinks_is_stored(tmp_path: Path) -> None:
    noise = hashlib.shake_128(b"noise").digest(SEGMENT_BYTES)
    data = packed(tmp_path, noise).read_bytes()
    assert data[64] == 0
    assert data[65 : 65 + SEGMENT_BYTES] == noise


@settings(deadline=None, max_examples=15)
@given(
    blocks=st.lists(st.binary(min_size=1, max_size=64), min_size=1, max_size=20),
    sectors=st.integers(1, 600),
    algorithm=st.sampled_from(["gzip", "gzip-6", "gzip-9", "lzma"]),
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    blocks: list[bytes],
    sectors: int,
    algorithm: Algorithm,
) -> None:
    pattern = b"".join(blocks)
    content = (pattern * (sectors * 512 // len(pattern) + 1))[: sectors * 512]
    target = packed(tmp_path_factory.mktemp("lofi"), content, algorithm)
    assert b"".join(decompress(target)) == content
    with target.open("rb") as file:
        assert read_index(file).size_bytes == len(content)


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    assert packed(tmp_path, TEXT).read_bytes() == packed(tmp_path, TEXT).read_bytes()


@pytest.mark.parametrize("size", [0, 100, 513])
def test_a_file_that_lofi_cannot_take_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(CheckpointError, match="cannot be a lofi image"):
        packed(tmp_path, bytes(size))


@pytest.mark.parametrize(
    ("at", "value", "why"),
    [
        (0, b"zstd", "its algorithm is 'zstd'"),
        (40, b"\0\0\0\1", "its index is incomplete"),
        (44, b"\0\3\0\0", "its index is incomplete"),
        (56, bytes(8), "does not ascend"),
        (70, b"\0\0\0\0\0\0\0\0", "Error"),
    ],
)
def test_damage_is_reported(tmp_path: Path, at: int, value: bytes, why: str) -> None:
    target = packed(tmp_path, TEXT)
    data = bytearray(target.read_bytes())
    data[at : at + len(value)] = value
    target.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        b"".join(decompress(target))
    assert why in caught.value.details


def test_a_file_without_a_header_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"gzip")
    with pytest.raises(CheckpointError, match="no compressed lofi image"):
        list(decompress(tmp_path / "x"))
