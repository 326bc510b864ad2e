"""The root directory that a worker sees, made of steps.

A view is an ordered list of steps, each a small piece of data that can say what it does (`describe`) and do
it below a directory (`apply`). `enter` makes a new root of them, in which there is nothing else, and leaves
the host's behind. For the first process of a mount namespace of one's own.

Every path in the view is the path of the host: where a link of the host is on the way to what is shown, the
view has the same link.

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

_ROOT_BYTES = "4m"
"""What the new root itself may hold: directories and links."""


class Step(Protocol):
    """One step of making a view."""

    @property
    def target(self) -> Path:
        """Where in the view it changes something; the path of the host, without links."""
        ...

    def describe(self) -> str:
        """What it does, for a message: `show /usr`."""
        ...

    def apply(self, root: Path) -> None:
        """Do it, in the view that is being made at `root`. Raises OSError."""
        ...


@dataclass(frozen=True, slots=True)
class Shown:
    """What is at `source` on the host is in sight at `target`, with all that is mounted below it unless it is
    shown `alone`. No device of it can be opened and no program in it gives rights."""

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
            # In a user namespace what is mounted below belongs to it: neither is there without the other.
            if error.errno != errno.EINVAL or not self.alone:
                raise
            copy = copy_of(self.source)
        try:
            restrict(copy, NO_SUID | NO_DEVICES | (0 if self.writable else READ_ONLY))
            target = _below(root, self.target)
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                if stat.S_ISDIR(os.fstat(copy).st_mode):
                    target.mkdir()
                else:
                    target.touch()
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
        """Make the link, unless it came with what is shown around it."""
        link = _below(root, self.target)
        if not os.path.lexists(link):
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(self.destination)


@dataclass(frozen=True, slots=True)
class Place:
    """A directory that every system has, with nothing in it but what is shown there."""

    target: Path

    def describe(self) -> str:
        """`make the directory /var/lib`."""
        return f"make the directory {self.target}"

    def apply(self, root: Path) -> None:
        """Make it, unless it is there."""
        _below(root, self.target).mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True, slots=True)
class Empty:
    """A directory of the attempt's own, in memory and empty at first."""

    target: Path
    mode: int = 0o755

    def describe(self) -> str:
        """`make an empty /run`."""
        return f"make an empty {self.target}"

    def apply(self, root: Path) -> None:
        """Mount a new file system."""
        target = _below(root, self.target)
        target.mkdir(parents=True, exist_ok=True)
        mount("tmpfs", target, f"mode={self.mode:o}", NO_SUID | NO_DEVICES)


@dataclass(frozen=True, slots=True)
class Hidden:
    """What is not in sight although something around it is."""

    target: Path

    def describe(self) -> str:
        """`hide /proc/kcore`."""
        return f"hide {self.target}"

    def apply(self, root: Path) -> None:
        """Mount something empty on it, if it is there."""
        target = _below(root, self.target)
        if target.is_dir():
            mount("tmpfs", target, "mode=755", NO_SUID | NO_DEVICES)
        elif target.exists():
            # Nobody opens a device on this mount, or connects to one.
            Closed(self.target).apply(root)

    def finish(self, root: Path) -> None:
        """Make it read-only, once what is shown in it has its place."""
        if (target := _below(root, self.target)).is_mount():
            restrict(target, READ_ONLY, recursive=False)


@dataclass(frozen=True, slots=True)
class Closed:
    """A file that every system has and that nobody opens, as programs expect of it."""

    target: Path

    def describe(self) -> str:
        """`close /etc/shadow`."""
        return f"close {self.target}"

    def apply(self, root: Path) -> None:
        """Mount on it a device that cannot be opened."""
        target = _below(root, self.target)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        bind(Path("/dev/null"), target)
        restrict(target, READ_ONLY | NO_DEVICES)


@dataclass(frozen=True, slots=True)
class ReadOnly:
    """What can be seen and not changed, although something around it can."""

    target: Path

    def describe(self) -> str:
        """`make /proc/sys read-only`."""
        return f"make {self.target} read-only"

    def apply(self, root: Path) -> None:
        """Mount it on itself, if it is there."""
        if (target := _below(root, self.target)).exists():
            bind(target, target)
            restrict(target, READ_ONLY)


@dataclass(frozen=True, slots=True)
class Processes:
    """The namespace's own /proc, writable as far as its parts are not made read-only."""

    target: Path = Path("/proc")

    def describe(self) -> str:
        """`show the attempt's processes at /proc`."""
        return f"show the attempt's processes at {self.target}"

    def apply(self, root: Path) -> None:
        """Show what is mounted at /proc of this namespace."""
        (target := _below(root, self.target)).mkdir()
        bind(Path("/proc"), target)
        restrict(target, NO_SUID | NO_DEVICES)


@dataclass(frozen=True, slots=True)
class Devices:
    """A /dev with the standard devices and `more`: names, or `ALL_DEVICES` for the host's whole /dev. Nobody
    makes a node in it."""

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
            # Terminals of the host are not the attempt's.
            mount("devpts", target / "pts", "newinstance,ptmxmode=0666,mode=620", NO_SUID)
        else:
            mount_devices(target, self.more)

    def finish(self, root: Path) -> None:
        """Let nobody make a node in it, now that all that belongs in it is there."""
        if ALL_DEVICES not in self.more:
            restrict(_below(root, self.target), READ_ONLY, recursive=False)


def shown(path: Path, *, writable: bool = False) -> Iterator[Step]:
    """The steps that show a path of the host at its place: it, and the links on the way to it."""
    real = path.resolve()
    if real != path:
        yield from links(path)
    yield Shown(real, real, writable)


def links(path: Path) -> Iterator[Link]:
    """The links of the host on the way to a path, its own last part included."""
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


def enter(steps: Iterable[Step], place: Path) -> None:
    """Make the view, at the directory `place`, and change the root of this namespace to it. What is deeper
    comes later, and so is in what was put there before; of two steps for one place the later one counts.
    Raises OSError."""
    ordered = sorted(dict.fromkeys(steps), key=lambda step: len(step.target.parts))
    mount("tmpfs", place, f"mode=755,size={_ROOT_BYTES}", NO_SUID | NO_DEVICES)
    withhold_from_copies(place)
    for step in ordered:
        try:
            step.apply(place)
        except OSError as error:
            raise OSError(error.errno, f"cannot {step.describe()}: {error.strerror}") from error
    for step in ordered:
        if isinstance(step, Hidden | Devices):
            step.finish(place)
    restrict(place, READ_ONLY, recursive=False)
    change_root(place)


def _below(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")
