"""Programs of UEFI firmware as files: what their headers say.

Reads the headers only, of files that may be anything.
Source: Microsoft's PE format, "Optional Header", "Optional Header Data Directories" and "The Attribute
Certificate Table".
"""

import struct
from pathlib import Path

from statemachine.errors import CheckpointError

_HEADERS_BYTES = 4096
_PE32_PLUS = 0x20B
_OPTIONAL_HEADER = 24
"""Where it begins, after the signature and the header of COFF."""
_IMAGE_BASE, _SIZE_OF_IMAGE, _CERTIFICATES = 24, 56, 112 + 4 * 8
"""In the optional header: the address (8 bytes) at which it is linked and the size (4 bytes) in memory; the
place (4 bytes) and the size (4 bytes) of the table of certificates."""


def is_signed(program: Path) -> bool:
    """Whether a program has a signature, by whomever. False for a file that is no program of 64 bits."""
    header = _optional_header(program)
    if header is None:
        return False
    place, size = struct.unpack_from("<II", header, _CERTIFICATES)
    return bool(place > 0 and size > 0 and place + size <= program.stat().st_size)


def loaded_range(program: Path) -> tuple[int, int]:
    """The address at which a program is linked, and its size in memory, in bytes. Raises `CheckpointError`
    for a file that is no program of 64 bits."""
    header = _optional_header(program)
    if header is None:
        raise CheckpointError(
            f"{program.name} of the image is no program of UEFI firmware",
            str(program),
            "install the unmodified package that it belongs to",
        )
    (base,) = struct.unpack_from("<Q", header, _IMAGE_BASE)
    (size,) = struct.unpack_from("<I", header, _SIZE_OF_IMAGE)
    return base, size


def _optional_header(program: Path) -> bytes | None:
    """The optional header with what is read of it, or None for a file that has none."""
    with program.open("rb") as file:
        head = file.read(_HEADERS_BYTES)
    if len(head) < 64 or head[:2] != b"MZ":
        return None
    (at,) = struct.unpack_from("<I", head, 0x3C)
    header = head[at + _OPTIONAL_HEADER :]
    if head[at : at + 4] != b"PE\0\0" or len(header) < _CERTIFICATES + 8:
        return None
    return header if struct.unpack_from("<H", header)[0] == _PE32_PLUS else None
