"""Hashes of passwords, made with the host's libcrypt."""

import subprocess

import pytest

from dcd.platform.password_hash import LONGEST_BYTES, hashed
from statemachine.errors import CheckpointError


@pytest.mark.parametrize("password", ["sesame", "a b:c'\"$x", "\u00e9\u4f60", "x" * LONGEST_BYTES])
def test_another_program_finds_the_same_hash(password: str) -> None:
    found = hashed(password, "material")
    salt = found.split("$")[2]
    openssl = ["openssl", "passwd", "-6", "-salt", salt, "-stdin"]
    made = subprocess.run(openssl, input=password.encode(), capture_output=True, check=True)
    if len(password.encode()) < 256:  # openssl reads no more
        assert made.stdout.decode().strip() == found


def test_the_same_material_gives_the_same_hash_and_other_material_another() -> None:
    assert hashed("sesame", "1700000000\0live") == hashed("sesame", "1700000000\0live")
    assert hashed("sesame", "1700000000\0live") != hashed("sesame", "1700000000\0root")
    salts = {hashed(password, "m").split("$")[2] for password in ("a", "b")}
    assert len(salts) == 1  # Nothing of the password is in it.


@pytest.mark.parametrize("password", ["", "a\0b", "x" * (LONGEST_BYTES + 1)])
def test_what_cannot_be_hashed_is_refused_and_not_repeated(password: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        hashed(password, "m")
    assert "a\0b" not in str(caught.value)
    assert "xxx" not in str(caught.value)
