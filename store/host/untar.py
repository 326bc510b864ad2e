"""Reading archives that `store.host.tar` has written, from a source that may be hostile.

Accepted is what that module writes, and nothing else: pax with the records that it uses, sparse files of
version 1.0, no names of GNU tar, no global records. The standard library's tarfile loses extended attributes
and fractions of seconds, and skips what it does not know. All sizes are bounded before anything is read. What
names mean is up to the reader's user; here they are bytes.

Source: pax(1), "pax Interchange Format"; GNU tar's manual, "PAX Format, Version 1.0" of sparse files.
"""

import os
import re
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from store.host.tar import ATTRIBUTE, SOCKET, TYPE

MOST_RECORDS_BYTES = 4 << 20
"""The size of the records of a member; an extended attribute has at most 64 KiB (xattr(7))."""

MOST_AREAS = 1_000_000
"""The parts of a sparse file."""

_BLOCK_BYTES = 512
_CHUNK_BYTES = 1 << 20
_KINDS = {
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.LNKTYPE: stat.S_IFREG,
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}
_RECORD = re.compile(rb"([1-9][0-9]{0,7}) ([^=]+)=")
_NUMBER = re.compile(rb"[0-9]{1,20}")
_TIME = re.compile(rb"(-?)([0-9]{1,12})(?:\.([0-9]{1,9}))?")
_ESCAPE = re.compile(r"%(25|3D)")
_IGNORED = ("hdrcharset", "SCHILY.acl.access", "SCHILY.acl.default")
_USED = ("path", "linkpath", "uid", "gid", "size", "mtime", TYPE)
_SPARSE = ("GNU.sparse.major", "GNU.sparse.minor", "GNU.sparse.realsize", "GNU.sparse.name")


class DamagedArchive(Exception):
    """What was read is no archive of `store.host.tar`, or not all of it."""


@dataclass(frozen=True, slots=True)
class Member:
    """An entry of an archive. `kind` is the type of the file, as `stat.S_IFMT` has it; `same_as` is the
    earlier name of a file with several, which then has nothing else; `size` is that of the file with its
    holes, and `areas` are the parts of it that the archive has, as offset and length."""

    name: bytes
    kind: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    areas: tuple[tuple[int, int], ...] = ()
    target: bytes = b""
    same_as: bytes | None = None
    device: int = 0
    attributes: dict[str, bytes] = field(default_factory=dict)


class TarReader:
    """An archive that is read from a stream, once, from its beginning. All methods raise `DamagedArchive`."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source

    def next(self) -> Member | None:
        """The next member, whose content then has to be read; None at the end."""
        block = self._exactly(_BLOCK_BYTES)
        if block == bytes(_BLOCK_BYTES):
            self._end()
            return None
        header = _header(block)
        records: dict[str, bytes] = {}
        if header.type == tarfile.XHDTYPE:
            if not 0 < header.size <= MOST_RECORDS_BYTES:
                raise DamagedArchive(f"records of {header.size} bytes")
            records = _records(self._padded(header.size))
            header = _header(self._exactly(_BLOCK_BYTES))
        return self._member(header, records)

    def content(self, member: Member) -> Iterator[tuple[int, bytes]]:
        """The content of a member, in pieces, each with its offset in the file."""
        for start, length in member.areas:
            position = start
            while position < start + length:
                piece = self._exactly(min(start + length - position, _CHUNK_BYTES))
                yield position, piece
                position += len(piece)
        self._exactly(-sum(length for _, length in member.areas) % _BLOCK_BYTES)

    def whole(self, member: Member, most_bytes: int) -> bytes:
        """The content of a small member."""
        if member.kind != stat.S_IFREG or member.size > most_bytes:
            raise DamagedArchive(f"{member.name[:100]!r} is no file of up to {most_bytes} bytes")
        return b"".join(piece for _, piece in self.content(member))

    def _member(self, header: tarfile.TarInfo, records: dict[str, bytes]) -> Member:
        kind = _KINDS.get(header.type)
        size = _number(records, "size", header.size)
        if kind is None or size < 0 or (size and header.type != tarfile.REGTYPE):
            raise DamagedArchive(f"a member of type {header.type!r} with {size} bytes")
        if TYPE in records:
            if header.type != tarfile.FIFOTYPE or records[TYPE] != SOCKET:
                raise DamagedArchive("a member of an unknown type")
            kind = stat.S_IFSOCK
        name, real_size = records.get("path", os.fsencode(header.name)), size
        areas: tuple[tuple[int, int], ...] = ((0, size),)
        if any(key in records for key in _SPARSE):
            name, real_size, areas = self._sparse(records, size)
        target = records.get("linkpath", os.fsencode(header.linkname))
        return Member(
            name=name,
            kind=kind,
            mode=stat.S_IMODE(header.mode),
            uid=_number(records, "uid", header.uid),
            gid=_number(records, "gid", header.gid),
            mtime_ns=_time(records, header.mtime),
            size=real_size,
            areas=areas if size else (),
            target=target if header.type == tarfile.SYMTYPE else b"",
            same_as=target if header.type == tarfile.LNKTYPE else None,
            device=_device(header) if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0,
            attributes={
                _ESCAPE.sub(_unescaped, key.removeprefix(ATTRIBUTE)): value
                for key, value in records.items()
                if key.startswith(ATTRIBUTE)
            },
        )

    def _sparse(
        self, records: dict[str, bytes], size: int
    ) -> tuple[bytes, int, tuple[tuple[int, int], ...]]:
        """The name, the size and the parts of a sparse file, whose content begins with a list of them."""
        if (records.get(_SPARSE[0]), records.get(_SPARSE[1])) != (b"1", b"0"):
            raise DamagedArchive("a sparse file of an unknown version")
        real_size = _number(records, _SPARSE[2], -1)
        numbers = self._numbers(size)
        areas = tuple(zip(numbers[1::2], numbers[2::2], strict=True))
        end = 0
        for start, length in areas:
            if start < end:
                raise DamagedArchive("a sparse file with parts in disorder")
            end = start + length
        listed = size - sum(length for _, length in areas)
        text = sum(len(str(number)) + 1 for number in numbers)
        if end > real_size or listed != text + -text % _BLOCK_BYTES:
            raise DamagedArchive("a sparse file of another size than its parts")
        return records.get("GNU.sparse.name", b""), real_size, areas

    def _numbers(self, size: int) -> list[int]:
        """The list at the beginning of a sparse file: how many parts, and offset and length of each."""
        numbers: list[int] = []
        rest, wanted, left = b"", 1, size
        while len(numbers) < wanted:
            left -= _BLOCK_BYTES
            if left < 0:
                raise DamagedArchive("a sparse file without its list of parts")
            *lines, rest = (rest + self._exactly(_BLOCK_BYTES)).split(b"\n")
            for line in lines:
                if not _NUMBER.fullmatch(line) or len(numbers) >= wanted:
                    raise DamagedArchive("a sparse file with a damaged list of parts")
                numbers.append(int(line))
                wanted = 1 + 2 * numbers[0]
                if numbers[0] > MOST_AREAS:
                    raise DamagedArchive("a sparse file of too many parts")
        return numbers

    def _end(self) -> None:
        """Read what follows the first block of zeros: zeros, up to the end of a record."""
        rest = self._source.read(tarfile.RECORDSIZE + 1)
        if not _BLOCK_BYTES <= len(rest) <= tarfile.RECORDSIZE or rest.strip(b"\0"):
            raise DamagedArchive("the end is not that of an archive")

    def _padded(self, size: int) -> bytes:
        return self._exactly(size + -size % _BLOCK_BYTES)[:size]

    def _exactly(self, count: int) -> bytes:
        found = self._source.read(count)
        if len(found) != count:
            raise DamagedArchive("it ends too early")
        return found


def _header(block: bytes) -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise DamagedArchive(f"a header cannot be read: {error}") from error
    if min(header.mode, header.uid, header.gid, header.devmajor, header.devminor) < 0:
        raise DamagedArchive("a header with a negative number")
    return header


def _records(data: bytes) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    at = 0
    while at < len(data):
        start = _RECORD.match(data, at)
        end = at + int(start[1]) if start else 0
        if start is None or not start.end() < end <= len(data) or data[end - 1 : end] != b"\n":
            raise DamagedArchive("a record cannot be read")
        key = os.fsdecode(start[2])
        known = key in (*_USED, *_IGNORED, *_SPARSE) or key.startswith(ATTRIBUTE)
        if key in found or not known:
            raise DamagedArchive(f"an unknown or repeated record: {key[:100]!a}")
        found[key] = data[start.end() : end - 1]
        at = end
    return found


def _number(records: dict[str, bytes], key: str, of_header: int) -> int:
    if (text := records.get(key)) is None:
        return of_header
    if not _NUMBER.fullmatch(text):
        raise DamagedArchive(f"the {key} of a member is no number")
    return int(text)


def _time(records: dict[str, bytes], of_header: float) -> int:
    """The time in nanoseconds since 1970."""
    if (text := records.get("mtime")) is None:
        return int(of_header) * 1_000_000_000
    if (parts := _TIME.fullmatch(text)) is None:
        raise DamagedArchive("the time of a member is none")
    absolute = int(parts[2]) * 1_000_000_000 + int((parts[3] or b"").ljust(9, b"0"))
    return -absolute if parts[1] else absolute


def _device(header: tarfile.TarInfo) -> int:
    try:
        return os.makedev(header.devmajor, header.devminor)
    except OverflowError:
        raise DamagedArchive("a device with a number that is none") from None


def _unescaped(escape: re.Match[str]) -> str:
    return {"25": "%", "3D": "="}[escape[1]]
