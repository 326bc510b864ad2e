"""Downloaded packages and what belongs to them, each file stored once under its sha256.

Packages are offered to every build, so that none is downloaded twice. With `capture`, what a build used stays
as long as the build: its packages, the repository files that they were chosen by, and the list that names all
of them (`store.resolved`), from which `store.captured` makes repositories again.

The daemon has `Packages`. An attempt gets `Lent`, two of its directories: the packages, which it sees
read-only, and one of its own for copies of what it has downloaded. After the end of all its processes,
`take_in` digests these, syncs them and gives them their names in the store. Until then they are in a
directory that the next start removes, so a crash leaves neither a part of a package nor anything else.

The launcher takes in, so an attempt cannot store a file under a digest that it does not have, and `require`
refuses a list that names what is not there.

A package is digested again whenever it is used. One that was damaged on disk counts as missing, and is
replaced when it has been downloaded again. Packages have no owners: their digests come from lists that apt
trusts, and everybody with such a list can download the package. So what was downloaded with a login of a
manifest, or was beside it, must not be kept.

Contents of IPS packages are here too, under names of another form (`store.contents`). Those of an attempt
whose daemon died are kept by the next start. Blocking.
"""

import contextlib
import gzip
import hashlib
import os
import re
import shutil
import stat
import threading
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, BinaryIO

from statemachine.errors import DcdError, NotFound
from store import contents
from store.host.durable import DiskFull, reporting_disk_full, sync_directory, sync_file_system
from store.host.regular import open_regular
from store.host.removal import try_to_remove_tree
from store.resolved import MOST_BYTES, Resolved, decoded

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(rf"{_SHA256.pattern}|{contents.NAME.pattern}")
_USED = "used-"
_PART = ".part"
_ADOPTED = ".adopted-"
_CHUNK_BYTES = 1024 * 1024

CAPTURES = ("packages", "digests", "none")
"""What is kept of what transfers use: all files; the list with their digests; nothing."""


@dataclass(frozen=True, slots=True)
class Package:
    """A package, or a file of one. `sha256` is its name in the store, `used_at` the Unix time of its last
    use."""

    sha256: str
    size_bytes: int
    used_at: float


@dataclass(frozen=True, slots=True)
class Lent:
    """What an attempt may use of the store: the directory `kept`, which it only reads, and `incoming`, its
    own. `capture` is the daemon's setting."""

    kept: Path
    incoming: Path
    capture: str = "none"

    def is_empty(self) -> bool:
        """Whether there is nothing to copy."""
        return next(self.kept.iterdir(), None) is None

    def copy(self, sha256: str, target: Path) -> bool:
        """Copy a package to a new file. Returns False, and leaves no file, when the store does not have it,
        or not with this digest."""
        try:
            source = _open(self.kept / _named(sha256))
        except OSError:
            return False
        with source, target.open("xb") as sink:
            found = _copied(source, sink)
        if found != sha256:
            target.unlink()
            return False
        (self.incoming / f"{_USED}{sha256}").touch()
        return True

    def has(self, sha256: str) -> bool:
        """Whether the store has a file of that digest, or will have it after this attempt."""
        name = _named(sha256)
        return (self.incoming / name).exists() or (self.kept / name).exists()

    def keep(self, file: Path) -> str:
        """Offer a downloaded package to the store. Returns its digest, or "" when there is no space for it,
        unless packages are captured: then that is an error, DiskFull."""
        with _open(file) as source, self._storing() as part:
            with part.open("xb") as sink:
                sha256 = _copied(source, sink)
            return self._name(part, sha256)
        return ""

    def keep_compressed(self, file: Path) -> str:
        """Store a file compressed, the same bytes each time. Returns the digest of these. Raises DiskFull."""
        with _open(file) as source, self._storing() as part:
            with part.open("xb") as sink, gzip.GzipFile("", "wb", 1, sink, mtime=0) as packed:
                shutil.copyfileobj(source, packed, _CHUNK_BYTES)
            with part.open("rb") as content:
                sha256 = hashlib.file_digest(content, "sha256").hexdigest()
            return self._name(part, sha256)
        return ""

    def add(self, content: bytes) -> str:
        """Store a text. Returns its digest. Raises DiskFull."""
        with self._storing() as part:
            part.write_bytes(content)
            return self._name(part, hashlib.sha256(content).hexdigest())
        return ""

    def listed(self, sha256: str) -> Resolved | None:
        """The list with this digest; None when the store does not have it. Raises DcdError when it is
        damaged."""
        try:
            with _open(self.kept / _named(sha256)) as source:
                content = source.read(MOST_BYTES + 1)
        except OSError:
            return None
        if hashlib.sha256(content).hexdigest() != sha256:
            return None
        return decoded(content)

    def contents(self) -> list[str]:
        """The contents of IPS packages that the store has, by the names that pkg gives them."""
        return [
            entry.name.removeprefix(contents.PREFIX)
            for entry in os.scandir(self.kept)
            if contents.NAME.fullmatch(entry.name)
        ]

    def content(self, name: str) -> Path:
        """The place of a file that `contents` names. It is only read."""
        return self.kept / _named(f"{contents.PREFIX}{name}")

    def note_use(self, name: str) -> None:
        """Note that this attempt uses a file that `contents` names, so that it stays for longer."""
        (self.incoming / f"{_USED}{_named(f'{contents.PREFIX}{name}')}").touch()

    @contextlib.contextmanager
    def _storing(self) -> Iterator[Path]:
        """A new file that gets its name when it is complete. Without capture, a full disk ends the block."""
        part = self.incoming / _PART
        try:
            with reporting_disk_full("storing packages", self.incoming):
                yield part
        except DiskFull:
            if self.capture == CAPTURES[0]:
                raise
        finally:
            part.unlink(missing_ok=True)

    def _name(self, part: Path, sha256: str) -> str:
        part.chmod(0o444)
        part.rename(self.incoming / sha256)
        return sha256


class Packages:
    """The packages in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._kept, self._incoming = directory / "kept", directory / "incoming"

    def prepare(self, gid: int = -1) -> None:
        """Create the directory if it does not exist, accessible to its owner and one group (-1: the process's
        own), and remove what attempts of a dead daemon had downloaded, but contents of IPS packages. No
        attempt may run."""
        if self._kept.exists() and self._incoming.exists():
            # An error leaves less in a cache.
            with contextlib.suppress(OSError):
                self._take_contents(self._incoming.glob(f"*/{contents.DIRECTORY}"))
        try_to_remove_tree(self._incoming)
        for part in (self.directory, self._kept, self._incoming):
            part.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.chown(part, -1, gid)
            part.chmod(0o750)

    def lend(self, attempt: str, capture: str = "none") -> Lent:
        """The store for an attempt, by a name that no other running attempt has."""
        incoming = self._incoming / attempt
        try_to_remove_tree(incoming)
        incoming.mkdir(mode=0o700)
        return Lent(self._kept, incoming, capture)

    def take_in(self, lent: Lent) -> int:
        """Store what an attempt has downloaded, after the end of all its processes. Returns the number of
        files. Raises OSError; the attempt's directory is removed in any case."""
        try:
            entries = sorted(lent.incoming.iterdir())
            for entry in entries:
                if entry.name.startswith(_USED):
                    self._touch(entry.name.removeprefix(_USED))
            whole = [entry for entry in entries if _is_whole(entry)]
            if whole:
                sync_file_system(self.directory)
                for entry in whole:
                    entry.rename(self._kept / entry.name)
                sync_directory(self._kept)
            return len(whole) + self._take_contents([lent.incoming / contents.DIRECTORY])
        finally:
            try_to_remove_tree(lent.incoming)

    def adopt(self, content: BinaryIO, sha256: str) -> None:
        """Store a file of this digest, on disk. Raises DcdError when it has another, DiskFull."""
        # Of this thread: another one may store the same file at the same time.
        part = self._incoming / f"{_ADOPTED}{threading.get_native_id()}"
        with reporting_disk_full("storing packages", self.directory):
            try:
                with part.open("wb") as sink:
                    found = _copied(content, sink)
                    os.fchmod(sink.fileno(), 0o444)
                    os.fsync(sink.fileno())
                if found != sha256:
                    raise DcdError(f"the file for {sha256} is damaged", f"its sha256 is {found}")
                part.rename(self._kept / _named(sha256))
            finally:
                part.unlink(missing_ok=True)
            sync_directory(self._kept)

    def stored(self) -> list[Package]:
        """All packages, least recently used first."""
        found = []
        for path in self._kept.iterdir():
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                found.append(Package(path.name, status.st_size, status.st_mtime))
        return sorted(found, key=lambda package: (package.used_at, package.sha256))

    def has(self, sha256: str) -> bool:
        """Whether there is a file of that digest; what is no digest names none."""
        return bool(_NAME.fullmatch(sha256)) and (self._kept / sha256).is_file()

    def path(self, sha256: str) -> Path:
        """The read-only file of a digest. Raises NotFound."""
        path = self._kept / sha256
        if not self.has(sha256):
            raise NotFound(
                f"the package store does not have {sha256}",
                "it was not captured, or was removed since",
                "build again with capture = packages in the daemon's configuration",
            )
        return path

    def resolved(self, sha256: str) -> Resolved:
        """The list of that digest, which is checked. Raises NotFound, and DcdError for a damaged one."""
        with open_regular(self.path(sha256)) as file:
            content = file.read(MOST_BYTES + 1)
        if hashlib.sha256(content).hexdigest() != sha256:
            raise DcdError(
                "a list of captured packages is damaged", f"{sha256} in {self.directory}"
            )
        return decoded(content)

    def missing(self, resolved: Resolved) -> list[str]:
        """The digests in a list whose files are not there, or not of the size in the list."""
        found = []
        for sha256, size_bytes in resolved.stored().items():
            try:
                size = (self._kept / sha256).stat().st_size
            except FileNotFoundError:
                size = -1
            if size < 0 or size_bytes not in (None, size):
                found.append(sha256)
        return found

    def require(self, sha256: str) -> None:
        """Raise DcdError unless the list of that digest is there with every file that it names."""
        if missing := self.missing(self.resolved(sha256)):
            raise DcdError(
                "packages of this checkpoint were not captured",
                f"missing in {self.directory}: {', '.join(missing[:5])}"
                + (f" and {len(missing) - 5} more" if len(missing) > 5 else ""),
                "resume the build",
            )

    def over(self, max_bytes: int, needed: Collection[str] = ()) -> list[Package]:
        """The packages to remove, so that the others do not exceed a size: the least recently used, none of
        those that are `needed`."""
        packages = self.stored()
        excess = sum(package.size_bytes for package in packages) - max_bytes
        chosen = []
        for package in packages:
            if excess <= 0:
                break
            if package.sha256 in needed:
                continue
            chosen.append(package)
            excess -= package.size_bytes
        return chosen

    def remove(self, sha256: str) -> None:
        """Remove a package if it exists. An attempt that is reading it can do so to the end."""
        (self._kept / _named(sha256)).unlink(missing_ok=True)

    def _take_contents(self, directories: Iterable[Path]) -> int:
        found = [pair for directory in directories for pair in contents.taken(directory)]
        if found:
            sync_file_system(self.directory)
            for path, name in found:
                path.rename(self._kept / name)
            sync_directory(self._kept)
        return len(found)

    def _touch(self, sha256: str) -> None:
        # Another user's file, where workers are not the daemon's: its place in the order stays.
        with contextlib.suppress(FileNotFoundError, PermissionError, ValueError):
            os.utime(self._kept / _named(sha256))


def _named(sha256: str) -> str:
    if not _NAME.fullmatch(sha256):
        raise ValueError(f"{sha256!r} is not a sha256")
    return sha256


def _open(path: Path) -> BufferedReader:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    return os.fdopen(descriptor, "rb")


def _copied(source: IO[bytes], sink: IO[bytes]) -> str:
    """Copy, and return the sha256."""
    digest = hashlib.sha256()
    while chunk := source.read(_CHUNK_BYTES):
        digest.update(chunk)
        sink.write(chunk)
    return digest.hexdigest()


def _is_whole(entry: Path) -> bool:
    """Whether an entry of an attempt's directory is a package: a file of its own with the digest that it is
    named by. With a second name it could be written by that name later."""
    if not _SHA256.fullmatch(entry.name):
        return False
    try:
        with _open(entry) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                return False
            return hashlib.file_digest(file, "sha256").hexdigest() == entry.name
    except OSError:
        return False
