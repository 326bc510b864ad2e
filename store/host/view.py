"""The root directory of a less trusted process, as a list of steps.

A view is an ordered list of steps, each a small piece of data that can describe itself (`describe`) and carry
itself out below a directory (`apply`). `enter` creates a new root from nothing but the steps, and detaches
the host's root. For the first process of its own mount namespace.

Paths in the view are those of the host: where a path of the host leads over a link, the view has the same
link.

Source: mount_setattr(2), pivot_root(2), mount_namespaces(7).
"""

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from store.host.devices import ALL_DEVICES, mount_devices
from store.host.mounts import (
    NO_DEVICES,
    NO_SUID,
    READ_ONLY,
    attach,
    bind,
    change_root,
    copy_of,
    mount,
    restrict,
    withhold_from_copies,
)
from store.host.regular import open_regular
from store.host.system_paths import SOFTWARE

_COPY_BYTES = "16m"
"""Size limit of copied settings."""

_ROOT_BYTES = "4m"
"""Size limit of the new root itself, which holds directories and links."""


class Step(Protocol):
    """One step in the construction of a view."""

    @property
    def target(self) -> Path:
        """The changed path in the view: the path of the host, without links."""
        ...

    def describe(self) -> str:
        """The step for a message: `show /usr`."""
        ...

    def apply(self, root: Path) -> None:
        """Carry it out in the view under construction at `root`. Raises OSError."""
        ...


@dataclass(frozen=True, slots=True)
class Shown:
    """The file or directory `source` of the host, visible at `target`, with all mounts below it unless it is
    shown `alone`. Its devices cannot be opened, and its set-uid programs have no effect."""

    source: Path
    target: Path
    writable: bool = False
    alone: bool = False

    def describe(self) -> str:
        """`show /usr`."""
        place = "" if self.source == self.target else f" at {self.target}"
        return f"show {self.source}{place}{', writable' if self.writable else ''}"

    def apply(self, root: Path) -> None:
        """Mount a copy of the mount."""
        try:
            copy = copy_of(self.source, recursive=not self.alone)
        except OSError as error:
            # In a user namespace, mounts below belong to their parent: it cannot be copied without them.
            if error.errno != errno.EINVAL or not self.alone:
                raise
            copy = copy_of(self.source)
        try:
            restrict(copy, NO_SUID | NO_DEVICES | (0 if self.writable else READ_ONLY))
            target = f"{root}{self.target}"
            _make(target, directory=stat.S_ISDIR(os.fstat(copy).st_mode))
            attach(copy, target)
        finally:
            os.close(copy)


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link of the host."""

    target: Path
    destination: Path

    def describe(self) -> str:
        """`link /bin to usr/bin`."""
        return f"link {self.target} to {self.destination}"

    def apply(self, root: Path) -> None:
        """Create the link, unless a directory shown around it contains it."""
        link = _below(root, self.target)
        try:
            link.symlink_to(self.destination)
        except FileExistsError:
            pass
        except FileNotFoundError:
            link.parent.mkdir(parents=True)
            link.symlink_to(self.destination)


@dataclass(frozen=True, slots=True)
class Place:
    """A directory that every system has, which contains only what is shown there."""

    target: Path

    def describe(self) -> str:
        """`make the directory /var/lib`."""
        return f"make the directory {self.target}"

    def apply(self, root: Path) -> None:
        """Create it if it does not exist."""
        _below(root, self.target).mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True, slots=True)
class Empty:
    """A directory of the view's own, in memory and initially empty. `limits` are options of tmpfs for its
    size and number of files."""

    target: Path
    mode: int = 0o755
    limits: str = ""

    def describe(self) -> str:
        """`make an empty /run`."""
        return f"make an empty {self.target}"

    def apply(self, root: Path) -> None:
        """Mount a new file system."""
        target = _below(root, self.target)
        target.mkdir(parents=True, exist_ok=True)
        options = [f"mode={self.mode:o}", *filter(None, [self.limits])]
        mount("tmpfs", target, ",".join(options), NO_SUID | NO_DEVICES)


@dataclass(frozen=True, slots=True)
class Copied:
    """A copy of a file or directory of the host, in memory. `reader` (user and group by number) can also
    read those files in it that are not world-readable."""

    target: Path
    reader: tuple[int, int]

    def describe(self) -> str:
        """`copy /etc/apt`."""
        return f"copy {self.target}"

    def apply(self, root: Path) -> None:
        """Copy it to a new file system: no copy is ever on a disk."""
        target = _below(root, self.target)
        if self.target.is_dir():
            target.mkdir(parents=True, exist_ok=True)
            mount("tmpfs", target, f"mode=755,size={_COPY_BYTES}", NO_SUID | NO_DEVICES)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
        self._copy(self.target, target)

    def _copy(self, source: Path, target: Path) -> None:
        if source.is_dir():
            target.mkdir(exist_ok=True)
            for entry in source.iterdir():
                self._copy(entry, target / entry.name)
            return
        try:
            with open_regular(source, follow=True) as file:
                target.write_bytes(file.read())
                readable = os.fstat(file.fileno()).st_mode & stat.S_IROTH
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINVAL):  # a dangling link, a FIFO
                raise
            return
        target.chmod(0o444 if readable else 0o400)
        if not readable:
            os.chown(target, *self.reader)

    def finish(self, root: Path) -> None:
        """Make it read-only."""
        if (target := _below(root, self.target)).is_mount():
            restrict(target, READ_ONLY, recursive=False)


@dataclass(frozen=True, slots=True)
class Hidden:
    """A hidden file or directory inside a visible one."""

    target: Path

    def describe(self) -> str:
        """`hide /proc/kcore`."""
        return f"hide {self.target}"

    def apply(self, root: Path) -> None:
        """Mount an empty file or directory on it, if it exists."""
        target = f"{root}{self.target}"
        if os.access(f"{target}/", os.F_OK):
            mount("tmpfs", target, "mode=755", NO_SUID | NO_DEVICES)
        elif os.access(target, os.F_OK):
            # A device on this mount cannot be opened, nor a socket connected to.
            Closed(self.target).apply(root)

    def finish(self, root: Path) -> None:
        """Make it read-only, after all steps inside it."""
        if os.path.ismount(target := f"{root}{self.target}"):
            restrict(target, READ_ONLY, recursive=False)


@dataclass(frozen=True, slots=True)
class Closed:
    """A file that every system has and that cannot be opened, as programs expect."""

    target: Path

    def describe(self) -> str:
        """`close /etc/shadow`."""
        return f"close {self.target}"

    def apply(self, root: Path) -> None:
        """Mount a device that cannot be opened on it."""
        target = _below(root, self.target)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        bind(Path("/dev/null"), target)
        restrict(target, READ_ONLY | NO_DEVICES)


@dataclass(frozen=True, slots=True)
class ReadOnly:
    """A read-only file or directory inside a writable one."""

    target: Path

    def describe(self) -> str:
        """`make /proc/sys read-only`."""
        return f"make {self.target} read-only"

    def apply(self, root: Path) -> None:
        """Mount it on itself, read-only, if it exists."""
        if os.access(target := f"{root}{self.target}", os.F_OK):
            bind(target, target)
            restrict(target, READ_ONLY)


@dataclass(frozen=True, slots=True)
class Processes:
    """The namespace's own /proc, writable except for its read-only parts: the one that is mounted at /proc
    already, or a `new` one."""

    new: bool = False
    target: Path = Path("/proc")

    def describe(self) -> str:
        """`show the namespace's processes at /proc`."""
        return f"show the namespace's processes at {self.target}"

    def apply(self, root: Path) -> None:
        """Show the /proc of this namespace."""
        (target := _below(root, self.target)).mkdir()
        if self.new:
            mount("proc", target, "", NO_SUID | NO_DEVICES)
        else:
            bind(Path("/proc"), target)
            restrict(target, NO_SUID | NO_DEVICES)


@dataclass(frozen=True, slots=True)
class Devices:
    """A /dev with the standard devices and `more`: names, or `ALL_DEVICES` for the host's whole /dev. No node
    can be created in it."""

    more: tuple[str, ...] = ()
    target: Path = Path("/dev")

    def describe(self) -> str:
        """`make /dev with kvm`."""
        return f"make {self.target} with {', '.join(self.more) or 'the standard devices'}"

    def apply(self, root: Path) -> None:
        """Mount it."""
        (target := _below(root, self.target)).mkdir()
        if ALL_DEVICES in self.more:
            bind(Path("/dev"), target)
            restrict(target, READ_ONLY | NO_SUID)
            # The terminals of the host stay hidden.
            mount("devpts", target / "pts", "newinstance,ptmxmode=0666,mode=620", NO_SUID)
        else:
            mount_devices(target, self.more)

    def finish(self, root: Path) -> None:
        """Make it read-only, after all steps inside it."""
        if ALL_DEVICES not in self.more:
            restrict(_below(root, self.target), READ_ONLY, recursive=False)


def shown(path: Path, *, writable: bool = False) -> Iterator[Step]:
    """The steps that show a path of the host at the same path, with the links on the way to it."""
    return _shown(path, os.path.realpath(path), writable=writable)


def if_there(path: Path) -> Iterator[Step]:
    """The steps that show a path of the host, if it exists."""
    try:
        # Looks at the path once, for its links and its end.
        real = os.path.realpath(path, strict=True)
    except OSError:
        if not path.exists():
            return
        raise
    yield from _shown(path, real, writable=False)


def all_there(paths: Iterable[Path]) -> Iterator[Step]:
    """The same for many normalized paths, in the same few directories, of which most hosts have some only."""
    plain: dict[Path, bool] = {}
    for path in paths:
        try:
            status = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        above = path.parent
        if above not in plain:
            plain[above] = os.path.realpath(above) == os.fspath(above)
        if plain[above] and not stat.S_ISLNK(status.st_mode):
            yield Shown(path, path)
        else:
            yield from if_there(path)


def _shown(path: Path, real: str, *, writable: bool) -> Iterator[Step]:
    if real != os.fspath(path):
        yield from links(path)
        path = Path(real)
    yield Shown(path, path, writable)


def software() -> Iterator[Step]:
    """The steps that show the system's software."""
    for name in SOFTWARE:
        yield from if_there(Path("/", name))


def links(path: Path) -> Iterator[Link]:
    """The links of the host on the way to a path, its last part included."""
    place, rest = Path("/"), list(path.parts[1:])
    for _ in range(40):  # as many as the kernel follows
        while rest:
            place /= rest.pop(0)
            if place.is_symlink():
                break
        else:
            return
        destination = place.readlink()
        yield Link(place, destination)
        whole = Path(os.path.normpath(place.parent.resolve() / destination))
        place, rest = Path("/"), [*whole.parts[1:], *rest]


ELSEWHERE = Path("/sys")
"""A directory of every Linux, as the place of a view that does not show it."""


def enter(steps: Iterable[Step], place: Path = ELSEWHERE) -> None:
    """Create the view at the directory `place`, and change the root of this namespace to it. Deeper paths
    come later, so that they are inside what was created before; of two steps for one path the later one
    wins. Raises OSError."""
    ordered = sorted(dict.fromkeys(steps), key=lambda step: len(step.target.parts))
    mount("tmpfs", place, f"mode=755,size={_ROOT_BYTES}", NO_SUID | NO_DEVICES)
    withhold_from_copies(place)
    for step in ordered:
        try:
            step.apply(place)
        except OSError as error:
            raise OSError(error.errno, f"cannot {step.describe()}: {error.strerror}") from error
    for step in ordered:
        if isinstance(step, Copied | Hidden | Devices):
            step.finish(place)
    restrict(place, READ_ONLY, recursive=False)
    change_root(place)


def _make(target: str, *, directory: bool) -> None:
    """Create an empty file or directory, with the directories on the way to it, unless it exists."""
    make = os.mkdir if directory else os.mknod
    try:
        make(target)
    except FileExistsError:
        pass
    except FileNotFoundError:
        Path(target).parent.mkdir(parents=True)
        make(target)


def _below(root: Path, path: Path) -> Path:
    # Faster than joining: there are many paths, and nothing else is done before an attempt begins.
    return Path(f"{root}{path}")
