"""Running programs of an image inside it.

`chroot` gives the image area for a while what programs expect of a system: /proc, a minimal /dev, and empty
/run and /tmp that are not part of the image. Call it in a mount namespace of your own (a worker has
one). On exit the mounts are gone, and so is all that the programs left in /run and /tmp. Network, users
and processes are the worker's: services do not start in here.
"""

import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from dcd.platform.inside import make_directory, resolve
from dcd.platform.process import Completed, run
from statemachine.errors import CheckpointError
from store.layers.mounts import mount, unmount

_DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}
_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}


@dataclass(frozen=True, slots=True)
class Inside:
    """An image area that is ready to run programs in."""

    root: Path

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
        """Run a program of the image with the image as its root; see `dcd.platform.process.run`."""
        return run(
            ["chroot", self.root, *argv],
            env={"DEBIAN_FRONTEND": "noninteractive", **(env or {})},
            stdin=stdin,
            timeout_seconds=timeout_seconds,
            capture=capture,
            on_line=on_line,
            ok=ok,
        )

    def has(self, program: str) -> bool:
        """Whether the image has that program (by its path in the image)."""
        return os.access(resolve(self.root, program), os.X_OK)


@contextmanager
def chroot(root: Path) -> Iterator[Inside]:
    """Mount what programs need below `root`. Raises `CheckpointError` when that is not possible."""
    with ExitStack() as mounts:

        def put(kind: str, name: str, options: str) -> Path:
            target = make_directory(root, name)
            mount(kind, target, options)
            mounts.callback(unmount, target)
            return target

        try:
            put("proc", "proc", "")
            _populate(put("tmpfs", "dev", "mode=755,size=1m"))
            put("devpts", "dev/pts", "newinstance,ptmxmode=0666,mode=620")
            put("tmpfs", "run", "mode=755")
            put("tmpfs", "tmp", "mode=1777")
        except OSError as error:
            raise CheckpointError(
                "programs cannot be run inside the image",
                f"{error.filename}: {error.strerror}",
                "dcd must run as root to do so",
            ) from error
        yield Inside(root)


def _populate(device: Path) -> None:
    for name, (major, minor) in _DEVICES.items():
        os.mknod(device / name, stat.S_IFCHR, os.makedev(major, minor))
        (device / name).chmod(0o666)
    for name, target in _LINKS.items():
        (device / name).symlink_to(target)
    for name in ("pts", "shm"):
        (device / name).mkdir()
    (device / "shm").chmod(0o1777)
