"""Packing a directory that a manifest names, with the user's permissions, for the daemon.

The archive (tar, in the pax format) depends only on the directory's contents: entries are sorted, and have
modes, links, hard links and times in whole seconds, but no owner. Links are packed as links and never
followed; only the directory itself may be behind one. What cannot be in an image is an error that names it:
nothing is left out silently. Kind `packages` takes the .deb files only.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import tarfile

MOST_ENTRIES = 500_000
"""A larger tree is a mistake, such as the root of a file system."""

MOST_FAULTS = 20
"""The most faults that are reported of one tree."""

KINDS = ("tree", "packages")

_TYPES = {
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a named pipe",
}


class Fault(NamedTuple):
    """What is wrong with an entry of a tree, and the remedy."""

    message: str
    remedy: str


class TreeFaults(Exception):
    """A directory that cannot be packed, with all its faults."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__(faults[0].message)
        self.faults = faults


@contextmanager
def packed(path: str, kind: str) -> Iterator[tuple[BufferedRandom, int]]:
    """The archive of a directory, in a temporary file that is open at its end, and the directory's mode.
    Raises TreeFaults, with every fault."""
    import tempfile

    entries = _entries(Path(path), kind)
    with tempfile.TemporaryFile() as file:
        _write(file, Path(path), entries)
        yield file, stat.S_IMODE(Path(path).stat().st_mode)


def check_tree(path: str, kind: str) -> None:
    """Raise TreeFaults unless the directory can be packed."""
    _entries(Path(path), kind)


def tree_digest(path: str, kind: str) -> str:
    """The sha256 of the archive. Raises TreeFaults."""
    with packed(path, kind) as (file, _):
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entries(root: Path, kind: str) -> list[tuple[str, os.stat_result]]:
    """The entries below a directory, by their path in it, sorted."""
    found: list[tuple[str, os.stat_result]] = []
    faults: list[Fault] = []
    pending = [""]
    while pending and len(found) <= MOST_ENTRIES and len(faults) < MOST_FAULTS:
        below = pending.pop()
        try:
            with os.scandir(root / below) as listing:
                names = [entry.name for entry in listing]
        except NotADirectoryError:
            remedy = "name a directory; a single file is added by <configuration source= dest=>"
            raise TreeFaults([Fault(f"{root} is not a directory", remedy)]) from None
        except FileNotFoundError:
            raise TreeFaults([Fault(f"there is no directory {root}", "correct the path")]) from None
        except OSError as error:
            faults.append(_unreadable(root / below, error))
            continue
        for name in names:
            inner = f"{below}/{name}" if below else name
            try:
                # A link to a package stands for it; in a tree, links stay links.
                follow = kind == "packages" and name.endswith(".deb")
                status = (root / inner).stat(follow_symlinks=follow)
            except OSError as error:
                faults.append(_unreadable(root / inner, error))
                continue
            if stat.S_ISDIR(status.st_mode):
                pending.append(inner)
            if kind == "packages" and not _is_package(name, status):
                continue
            if what := _TYPES.get(stat.S_IFMT(status.st_mode)):
                remedy = "remove it, or name a directory without it"
                faults.append(Fault(f"{root / inner} is {what}, which is not added", remedy))
            elif stat.S_ISREG(status.st_mode) and not os.access(root / inner, os.R_OK):
                faults.append(_unreadable(root / inner, None))
            found.append((inner, status))
    if len(found) > MOST_ENTRIES:
        remedy = "name a smaller directory, or pack it with tar and use TransferArchive"
        faults.append(Fault(f"{root} has more than {MOST_ENTRIES} entries", remedy))
    if kind == "packages" and not found and not faults:
        faults.append(Fault(f"{root} has no packages", "put .deb files into it"))
    if faults:
        raise TreeFaults(faults)
    return sorted(found)


def _is_package(name: str, status: os.stat_result) -> bool:
    return name.endswith(".deb") and not stat.S_ISDIR(status.st_mode)


def _unreadable(path: Path, error: OSError | None) -> Fault:
    reason = "Permission denied" if error is None else error.strerror or str(error)
    return Fault(f"cannot read {path}: {reason}", "make it readable, or remove it")


def _write(file: IO[bytes], root: Path, entries: list[tuple[str, os.stat_result]]) -> None:
    import tarfile

    links: dict[tuple[int, int], str] = {}
    with tarfile.open(
        fileobj=file, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape"
    ) as tar:
        tar.addfile(_member(".", root.stat()))
        for name, status in entries:
            member = _member(name, status)
            identity = (status.st_dev, status.st_ino)
            if stat.S_ISLNK(status.st_mode):
                member.type = tarfile.SYMTYPE
                member.linkname = os.readlink(root / name)  # noqa: PTH115 - a Path changes its text
            elif stat.S_ISREG(status.st_mode) and status.st_nlink > 1 and identity in links:
                member.type, member.linkname = tarfile.LNKTYPE, links[identity]
            elif stat.S_ISREG(status.st_mode):
                links[identity] = name
                _add_file(tar, member, root / name, status)
                continue
            tar.addfile(member)


def _member(name: str, status: os.stat_result) -> "tarfile.TarInfo":
    import tarfile

    member = tarfile.TarInfo(name)
    member.mode = stat.S_IMODE(status.st_mode)
    member.mtime = int(status.st_mtime)
    if stat.S_ISDIR(status.st_mode):
        member.type = tarfile.DIRTYPE
    return member


def _add_file(
    tar: "tarfile.TarFile", member: "tarfile.TarInfo", path: Path, status: os.stat_result
) -> None:
    """Add a file. Raises TreeFaults when it changes meanwhile, or is another one by now."""
    import tarfile

    member.size = status.st_size
    try:
        real = path.resolve()
        descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as content:
            begin = os.fstat(descriptor)
            tar.addfile(member, content)
            end = os.fstat(descriptor)
    except tarfile.ReadError:
        raise _changed(path) from None
    except OSError as error:
        if error.strerror is None:  # tarfile's: the file became shorter
            raise _changed(path) from None
        raise TreeFaults([_unreadable(path, error)]) from None
    states = {(each.st_ino, each.st_size, each.st_mtime_ns) for each in (status, begin, end)}
    if len(states) > 1:
        raise _changed(path)


def _changed(path: Path) -> TreeFaults:
    return TreeFaults([Fault(f"{path} changed while it was read", "try again")])
