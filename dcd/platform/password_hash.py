"""Hashes of passwords, computed on the build host: no program of an image ever sees a password.

The hash is sha512crypt, which every current system can check, computed by the host's libcrypt. Its salt is
derived from `material` and not from the password, so that the same build gives the same bytes.
Source: crypt(3), crypt(5) of libxcrypt.
"""

import ctypes
import hashlib
import re
from collections.abc import Callable
from typing import cast

from statemachine.errors import CheckpointError, Unprepared

LONGEST_BYTES = 511
"""CRYPT_MAX_PASSPHRASE_SIZE of libxcrypt, without the NUL."""

_LIBRARIES = ("libcrypt.so.1", "libcrypt.so.2", "libcrypt.so")
_CRYPT_DATA_BYTES = 1 << 15
"""struct crypt_data of libxcrypt has 32 KiB."""
_LETTERS = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SALT_LETTERS = 16


def hashed(password: str, material: str) -> str:
    """The hash of a password. Raises CheckpointError for one that cannot be hashed, without repeating it, and
    Unprepared on a host without libcrypt."""
    phrase = password.encode("utf-8")
    if not phrase or b"\0" in phrase or len(phrase) > LONGEST_BYTES:
        raise CheckpointError(
            "a password cannot be hashed",
            f"it is empty, has more than {LONGEST_BYTES} bytes, or contains a NUL",
            "choose another",
        )
    data = ctypes.create_string_buffer(_CRYPT_DATA_BYTES)
    made = _crypt_r()(phrase, f"$6${_salt(material)}$".encode("ascii"), data)
    text = made.decode("ascii") if made else ""
    if not re.fullmatch(r"\$6\$[./0-9A-Za-z]{1,16}\$[./0-9A-Za-z]{86}", text):
        raise Unprepared(
            "this host's libcrypt does not support sha512crypt hashes",
            "crypt_r failed",
            "install libxcrypt (Debian: libcrypt1)",
        )
    return text


def _salt(material: str) -> str:
    digest = hashlib.sha256(material.encode("utf-8", "surrogateescape")).digest()
    return "".join(_LETTERS[byte & 63] for byte in digest[:_SALT_LETTERS])


def _crypt_r() -> Callable[[bytes, bytes, object], bytes | None]:
    for name in _LIBRARIES:
        try:
            found = ctypes.CDLL(name).crypt_r
        except (OSError, AttributeError):
            continue
        found.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p]
        found.restype = ctypes.c_char_p
        return cast(Callable[[bytes, bytes, object], bytes | None], found)
    raise Unprepared(
        "this host has no libcrypt to hash passwords",
        f"looked for {', '.join(_LIBRARIES)}",
        "install libxcrypt (Debian: libcrypt1)",
    )
