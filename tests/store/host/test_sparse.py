"""Digests of files with holes."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from store.host.sparse import sha256_of

MIB = 1 << 20
CONTENTS: dict[str, tuple[tuple[int, bytes], ...]] = {
    "empty": (),
    "small": ((0, b"x"),),
    "whole": ((0, os.urandom(MIB + 5)),),
    "holes": ((3 * MIB, os.urandom(MIB)), (9 * MIB + 7, b"y"), (12 * MIB, bytes(MIB))),
    "a hole at its end": ((0, os.urandom(5000)), (8 * MIB, b"")),
    "one hole": ((5 * MIB + 1, b""),),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_a_digest_is_that_of_the_whole_content(tmp_path: Path, name: str) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        for at, content in CONTENTS[name]:
            file.truncate(max(at, file.tell()))
            os.pwrite(file.fileno(), content, at)
    with path.open("rb") as file:
        assert sha256_of(file.fileno()) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_holes_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.write(bytes(MIB))
        os.fsync(file.fileno())
        file.truncate(64 * MIB)
    with path.open("rb") as file:
        sha256_of(file.fileno())
    cached = subprocess.check_output(["fincore", "--bytes", "--noheadings", "-o", "RES", path])
    assert int(cached) < 8 * MIB
