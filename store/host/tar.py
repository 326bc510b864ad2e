"""Tar archives of a tree: pax, with everything that the tree has.

Kept are owners as numbers, modes, times, links, hard links, devices, FIFOs, holes, extended attributes,
capabilities, and POSIX ACLs. Names stay bytes. Sockets are left out, tar has none; or they are FIFOs that a
record marks. The bytes depend on the tree alone. GNU tar is not used: version 1.34 writes ACLs with the user
names of the build host, which are other users of the image, and looks for holes in ways that depend on the
host's file system. `store.host.untar` reads these archives.

Source: pax(1), "pax Interchange Format"; GNU tar's manual, "PAX Format, Version 1.0" of sparse files, and the
keywords SCHILY.xattr; star(5), SCHILY.acl; acl(5), "ACL text forms"; the kernel's posix_acl_xattr.h.
"""

import os
import stat
import struct
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from statemachine.errors import CheckpointError
from store.host.attributes import attributes_of
from store.host.entries import Entry
from store.host.sparse import filled_ranges

_BLOCK_BYTES = 512
_HOLE_BYTES = 4096
"""The unit of holes: the block of all common file systems."""
_CHUNK_BYTES = 1 << 20
_LARGEST_OCTAL = {"size": 1 << 33, "id": 1 << 21, "time": 1 << 33}
"""What the fields of ustar cannot hold."""
_LONGEST_NAME = 99
"""That of a field, less the slash that a directory gets."""
_TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
    stat.S_IFSOCK: tarfile.FIFOTYPE,
}
_ACLS = {"system.posix_acl_access": "access", "system.posix_acl_default": "default"}
_ACL_VERSION = 2
_ACL_TAGS = {1: "user:", 2: "user:{}", 4: "group:", 8: "group:{}", 16: "mask:", 32: "other:"}

ATTRIBUTE = "SCHILY.xattr."
"""The beginning of the keys of extended attributes; `%` and `=` in their names are escaped as in URLs."""

TYPE, SOCKET = "DCD.type", b"socket"
"""The record of a FIFO that is a socket."""

Write = Callable[[bytes], object]


@dataclass(slots=True)
class TarWriter:
    """An archive that is being written with `write`, with the extended attributes that `keeps` names, and
    sockets if `marks_sockets`. `first` are the names of files that have several."""

    write: Write
    keeps: Callable[[str], bool] = lambda name: True
    marks_sockets: bool = False
    first: dict[tuple[int, int], str] = field(default_factory=dict)
    written: int = 0

    def add(self, entry: Entry, name: str) -> None:
        """Add an entry under a name. Raises `CheckpointError` for a file that changes meanwhile."""
        status = entry.status
        if entry.kind == stat.S_IFSOCK and not self.marks_sockets:
            return
        identity = (status.st_dev, status.st_ino)
        member = tarfile.TarInfo(name)
        member.type = _TYPES[entry.kind]
        member.mode = stat.S_IMODE(status.st_mode)
        member.uid, member.gid = status.st_uid, status.st_gid
        if status.st_nlink > 1 and entry.kind != stat.S_IFDIR and identity in self.first:
            member.type, member.linkname = tarfile.LNKTYPE, self.first[identity]
            self._header(member, _time_record(status.st_mtime_ns), status.st_mtime_ns)
            return
        self.first[identity] = name
        records = _time_record(status.st_mtime_ns)
        if entry.kind == stat.S_IFSOCK:
            records[TYPE] = SOCKET
        for attribute, value in sorted(attributes_of(entry.path).items()):
            if not self.keeps(attribute):
                continue
            if attribute in _ACLS:
                records[f"SCHILY.acl.{_ACLS[attribute]}"] = _acl_text(value, entry)
            records[ATTRIBUTE + _escaped(attribute)] = value
        if entry.kind == stat.S_IFLNK:
            member.linkname = os.readlink(entry.path)  # noqa: PTH115 - as it is written
        elif entry.kind in (stat.S_IFCHR, stat.S_IFBLK):
            member.devmajor, member.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
        elif entry.kind == stat.S_IFREG:
            self._file(entry, member, records)
            return
        self._header(member, records, status.st_mtime_ns)

    def add_bytes(self, name: str, content: bytes, seconds: int) -> None:
        """Add a file of root's with that content."""
        member = tarfile.TarInfo(name)
        member.mode, member.size = 0o644, len(content)
        self._header(member, {}, seconds * 1_000_000_000)
        self._put(content)
        self._pad()

    def add_directory(self, name: str, seconds: int) -> None:
        """Add a directory of root's."""
        member = tarfile.TarInfo(name)
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        self._header(member, {}, seconds * 1_000_000_000)

    def close(self) -> None:
        """Write the end of the archive."""
        self._put(bytes(2 * _BLOCK_BYTES))
        self._put(bytes(-self.written % tarfile.RECORDSIZE))

    def _file(self, entry: Entry, member: tarfile.TarInfo, records: dict[str, bytes]) -> None:
        size = entry.status.st_size
        descriptor = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            areas = [(0, size)]
            if size and os.lseek(descriptor, 0, os.SEEK_HOLE) < size:
                areas = [
                    (start, end - start)
                    for start, end in filled_ranges(descriptor, size, _HOLE_BYTES)
                ]
            sparse = areas != [(0, size)]
            index = b""
            if sparse:
                # An empty area at the end says where the file ends.
                listed = areas if sum(areas[-1] if areas else ()) == size else [*areas, (size, 0)]
                numbers = [len(listed), *(number for area in listed for number in area)]
                index = "".join(f"{number}\n" for number in numbers).encode()
                index += bytes(-len(index) % _BLOCK_BYTES)
                records["GNU.sparse.major"], records["GNU.sparse.minor"] = b"1", b"0"
                records["GNU.sparse.name"] = os.fsencode(member.name)
                records["GNU.sparse.realsize"] = str(size).encode()
                directory, _, last = member.name.rpartition("/")
                member.name = f"{directory or '.'}/GNUSparseFile.0/{last}"
            member.size = len(index) + sum(length for _, length in areas)
            self._header(member, records, entry.status.st_mtime_ns)
            self._put(index)
            for start, length in areas:
                self._copy(descriptor, start, length, entry)
            self._pad()
        finally:
            os.close(descriptor)

    def _copy(self, descriptor: int, start: int, length: int, entry: Entry) -> None:
        while length:
            data = os.pread(descriptor, min(length, _CHUNK_BYTES), start)
            if not data:
                raise CheckpointError(
                    f"{entry.shown} of the image became shorter while it was read",
                    "something changes the image while it is packed",
                    "resume the build",
                )
            self._put(data)
            start, length = start + len(data), length - len(data)

    def _header(self, member: tarfile.TarInfo, records: dict[str, bytes], mtime_ns: int) -> None:
        """Write the header of a member, after one with what its own fields cannot hold."""
        seconds = mtime_ns // 1_000_000_000
        for key, value in (("path", member.name), ("linkpath", member.linkname)):
            encoded = os.fsencode(value)
            if not encoded.isascii() or len(encoded) > _LONGEST_NAME:
                try:
                    encoded.decode()
                except UnicodeDecodeError:
                    if len(encoded) <= _LONGEST_NAME:
                        continue  # The field itself is bytes.
                    records["hdrcharset"] = b"BINARY"
                records[key] = encoded
        for key, number in (("uid", member.uid), ("gid", member.gid)):
            if number >= _LARGEST_OCTAL["id"]:
                records[key] = str(number).encode()
                setattr(member, key, 0)
        if member.size >= _LARGEST_OCTAL["size"]:
            records["size"] = str(member.size).encode()
            member.size = 0
        member.mtime = seconds if 0 <= seconds < _LARGEST_OCTAL["time"] else 0
        if records:
            self._records(records, member.name)
        member.name = _cut(member.name)
        member.linkname = _cut(member.linkname)
        self._put(member.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape"))

    def _records(self, records: dict[str, bytes], name: str) -> None:
        # The character set counts for what follows it.
        ordered = sorted(records.items(), key=lambda one: (one[0] != "hdrcharset", one[0]))
        content = b"".join(_record(key, value) for key, value in ordered)
        directory, _, last = name.rpartition("/")
        header = tarfile.TarInfo(_cut(f"{directory or '.'}/PaxHeaders/{last}"))
        header.type, header.size = tarfile.XHDTYPE, len(content)
        self._put(header.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape"))
        self._put(content)
        self._pad()

    def _put(self, data: bytes) -> None:
        self.write(data)
        self.written += len(data)

    def _pad(self) -> None:
        self._put(bytes(-self.written % _BLOCK_BYTES))


def write_tar(write: Write, entries: Iterable[Entry], prefix: str = ".") -> None:
    """Write an archive of the entries, with names below `prefix`."""
    tar = TarWriter(write)
    for entry in entries:
        tar.add(entry, f"{prefix}/{entry.name}")
    tar.close()


def sockets(entries: Iterable[Entry]) -> list[str]:
    """The names of the entries that no archive holds."""
    return [entry.name for entry in entries if entry.kind == stat.S_IFSOCK]


def _record(key: str, value: bytes) -> bytes:
    """A record of pax: its own length in decimal digits, a blank, KEY=VALUE, a newline."""
    rest = b" " + os.fsencode(key) + b"=" + value + b"\n"
    length = len(rest) + len(str(len(rest)))
    if len(str(length)) + len(rest) != length:
        length += 1
    return str(length).encode() + rest


def _escaped(attribute: str) -> str:
    return attribute.replace("%", "%25").replace("=", "%3D")


def _time_record(mtime_ns: int) -> dict[str, bytes]:
    """The record for a time that is no whole number of octal digits."""
    seconds, fraction = divmod(abs(mtime_ns), 1_000_000_000)
    if not fraction and mtime_ns >= 0 and seconds < _LARGEST_OCTAL["time"]:
        return {}
    text = f"{'-' if mtime_ns < 0 else ''}{seconds}"
    return {"mtime": (f"{text}.{fraction:09}".rstrip("0") if fraction else text).encode()}


def _acl_text(value: bytes, entry: Entry) -> bytes:
    """The text form of an ACL, with numbers."""
    try:
        (version,) = struct.unpack_from("<I", value)
        rows = list(struct.iter_unpack("<HHI", value[4:]))
        if version != _ACL_VERSION:
            raise ValueError(version)
        lines = [
            f"{_ACL_TAGS[tag].format(who)}:{''.join(sign if may & bit else '-' for sign, bit in _RIGHTS)}"
            for tag, may, who in rows
        ]
    except (struct.error, ValueError, KeyError) as error:
        raise CheckpointError(
            f"the POSIX ACL of {entry.shown} cannot be read",
            f"its form is unknown: {error!r}",
            "remove it (setfacl --remove-all) in a checkpoint before",
        ) from error
    return "\n".join((*lines, "")).encode()


_RIGHTS = (("r", 4), ("w", 2), ("x", 1))


def _cut(name: str) -> str:
    """A name that its field can hold; a record has the whole."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= _LONGEST_NAME else os.fsdecode(encoded[:_LONGEST_NAME])
