"""Programs of UEFI firmware as files: what their headers say.

Reads the headers only, of files that may be anything.
Source: Microsoft's PE format, "Optional Header Data Directories" and "The Attribute Certificate Table".
"""

import struct
from pathlib import Path

_HEADERS_BYTES = 4096
_PE32_PLUS = 0x20B
_OPTIONAL_HEADER = 24
"""Where it begins, after the signature and the header of COFF."""
_CERTIFICATES = 112 + 4 * 8
"""In the optional header: the place (4 bytes) and the size (4 bytes) of the table of certificates."""


def is_signed(program: Path) -> bool:
    """Whether a program has a signature, by whomever. False for a file that is no program of 64 bits."""
    with program.open("rb") as file:
        head = file.read(_HEADERS_BYTES)
    try:
        (at,) = struct.unpack_from("<I", head, 0x3C)
        magic = struct.unpack_from("<H", head, at + _OPTIONAL_HEADER)[0]
        place, size = struct.unpack_from("<II", head, at + _OPTIONAL_HEADER + _CERTIFICATES)
    except struct.error:
        return False
    known = head[:2] == b"MZ" and head[at : at + 4] == b"PE\0\0" and magic == _PE32_PLUS
    return known and place > 0 and size > 0 and place + size <= program.stat().st_size
