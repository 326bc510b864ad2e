"""Running programs of an image inside it.

`chroot` adds the mounts that programs expect to the image area: /proc, a minimal /dev, and empty /run and
/tmp that are not part of the image. It needs the caller's own mount namespace, as a worker has. On exit the
mounts are removed, with all files in /run and /tmp. Network, users and processes are the worker's, so
services do not start. With `network` the host's resolver temporarily replaces /etc/resolv.conf.

The programs of the image are not trusted. They run as root with the capabilities for files only, so they
cannot leave the image (which needs SYS_CHROOT), mount, write to disks (its file systems open no devices), or
access processes with more capabilities.
"""

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dcd.platform.inside import make_directory, resolve, write
from statemachine.errors import CheckpointError
from store.host.capabilities import FILES, keep_only
from store.host.devices import mount_devices
from store.host.mounts import NO_DEVICES, NO_SUID, bind, bind_without_devices, mount, unmount
from store.host.process import Completed, run

_RESOLVER = Path("/etc/resolv.conf")


@dataclass(frozen=True, slots=True)
class Inside:
    """An image area that is ready for programs. `environment` is that of all programs."""

    root: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        timeout_seconds: float | None = None,
        capture: bool = False,
        on_line: Callable[[str], None] | None = None,
        ok: Sequence[int] = (0,),
    ) -> Completed:
        """Run a program of the image with the image as its root; see `store.host.process.run`."""
        return run(
            argv,
            env={"DEBIAN_FRONTEND": "noninteractive", **self.environment, **(env or {})},
            stdin=stdin,
            timeout_seconds=timeout_seconds,
            capture=capture,
            on_line=on_line,
            ok=ok,
            start=partial(enter_image, self.root),
        )

    def has(self, program: str) -> bool:
        """Whether the image has that program (by its path in the image)."""
        return os.access(resolve(self.root, program), os.X_OK)


@contextmanager
def chroot(
    root: Path, environment: Mapping[str, str] | None = None, *, network: bool = False
) -> Iterator[Inside]:
    """Mount what programs need below `root`, with `network` also the host's resolver. `environment` is that
    of all programs. Raises `CheckpointError` when that is not possible."""
    with _system_mounts(root), ExitStack() as mounts:
        for name, options in (("run", "mode=755"), ("tmp", "mode=1777")):
            with _explained():
                target = make_directory(root, name)
                mount("tmpfs", target, options, NO_SUID | NO_DEVICES)
            mounts.callback(unmount, target)
        if network:
            mounts.enter_context(_hosts_resolver(root))
        yield Inside(root, environment or {})


@contextmanager
def bootstrap_mounts(root: Path) -> Iterator[None]:
    """Mount /proc and /dev below a `root` without a system, for a tool that creates one there. It can open no
    other devices, and so creates none. Raises `CheckpointError` when that is not possible."""
    with ExitStack() as mounts:
        with _explained():
            bind_without_devices(root)
        mounts.callback(unmount, root)
        with _system_mounts(root):
            yield


@contextmanager
def _system_mounts(root: Path) -> Iterator[None]:
    with ExitStack() as mounts:
        with _explained():
            # The worker's own /proc, whose settings of the kernel are read-only.
            proc = make_directory(root, "proc")
            bind(Path("/proc"), proc)
            mounts.callback(unmount, proc)
            devices = make_directory(root, "dev")
            mount_devices(devices)
            mounts.callback(unmount, devices)
        yield


@contextmanager
def _hosts_resolver(root: Path) -> Iterator[None]:
    """Replace the image's /etc/resolv.conf, which may be a file, a link or missing, by the host's resolver,
    and restore it afterwards. A file that a program wrote there is kept: it may belong to a package."""
    try:
        content = _RESOLVER.read_bytes()
    except OSError:  # The host resolves names by other means.
        yield
        return
    above = resolve(root, "etc")
    made = [path for path in (above, *above.parents) if not path.exists()]
    make_directory(root, "etc")
    place, aside = above / _RESOLVER.name, above / f".{_RESOLVER.name}.dcd"
    was_there = os.path.lexists(place)
    if was_there:
        place.rename(aside)
    ours = write(root, "etc/resolv.conf", content).stat().st_ino
    try:
        yield
    finally:
        if _is_file(place, ours, content):
            place.unlink()
        if was_there and not os.path.lexists(place):
            aside.rename(place)
        elif was_there:
            aside.unlink()
        for directory in made:
            with suppress(OSError):  # A program has created other files there.
                directory.rmdir()


def _is_file(path: Path, inode: int, content: bytes) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_ino == inode and path.read_bytes() == content


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            "programs cannot be run inside the image",
            f"{error.filename}: {error.strerror}",
            "run dcd as root, and have the checkpoint declare the capabilities in "
            "dcd.checkpoints.interface.MOUNTS",
        ) from error


def enter_image(root: Path) -> None:
    """Between fork and exec: enter the image permanently, with the capabilities for files only."""
    os.chroot(root)
    os.chdir("/")
    keep_only(FILES)
