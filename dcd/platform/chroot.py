"""Running programs of an image inside it.

`chroot` gives the image area for a while what programs expect of a system: /proc, a minimal /dev, and empty
/run and /tmp that are not part of the image. Call it in a mount namespace of your own (a worker has
one). On exit the mounts are gone, and so is all that the programs left in /run and /tmp. Network, users
and processes are the worker's: services do not start in here.

The programs are the image's, not ours. They run as root with the capabilities that making files takes, and
none to mount or to change the root, so the image is all that they reach: they cannot leave it (which takes
SYS_CHROOT), write to disks (its file systems open no devices), or look into processes that have more.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dcd.platform.capabilities import FILES, keep_only
from dcd.platform.devices import mount_devices
from dcd.platform.inside import make_directory, resolve
from dcd.platform.process import Completed, run
from statemachine.errors import CheckpointError
from store.layers.mounts import NO_DEVICES, NO_SUID, bind, bind_without_devices, mount, unmount


@dataclass(frozen=True, slots=True)
class Inside:
    """An image area that is ready to run programs in. `environment` is what all of them get."""

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
        """Run a program of the image with the image as its root; see `dcd.platform.process.run`."""
        return run(
            argv,
            env={"DEBIAN_FRONTEND": "noninteractive", **self.environment, **(env or {})},
            stdin=stdin,
            timeout_seconds=timeout_seconds,
            capture=capture,
            on_line=on_line,
            ok=ok,
            start=partial(_go_in, self.root),
        )

    def has(self, program: str) -> bool:
        """Whether the image has that program (by its path in the image)."""
        return os.access(resolve(self.root, program), os.X_OK)


@contextmanager
def chroot(root: Path, environment: Mapping[str, str] | None = None) -> Iterator[Inside]:
    """Mount what programs need below `root`. `environment` is that of all programs. Raises
    `CheckpointError` when that is not possible."""
    with _system_mounts(root), ExitStack() as mounts:
        for name, options in (("run", "mode=755"), ("tmp", "mode=1777")):
            with _explained():
                target = make_directory(root, name)
                mount("tmpfs", target, options, NO_SUID | NO_DEVICES)
            mounts.callback(unmount, target)
        yield Inside(root, environment or {})


@contextmanager
def bootstrap_mounts(root: Path) -> Iterator[None]:
    """Mount /proc and /dev below a `root` in which there is no system yet, for a tool that makes one there.
    It can open no devices but these, and so makes none. Raises `CheckpointError` when that cannot be."""
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
            # The worker's own, in which nobody changes the kernel's settings.
            proc = make_directory(root, "proc")
            bind(Path("/proc"), proc)
            mounts.callback(unmount, proc)
            devices = make_directory(root, "dev")
            mount_devices(devices)
            mounts.callback(unmount, devices)
        yield


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            "programs cannot be run inside the image",
            f"{error.filename}: {error.strerror}",
            "dcd must run as root to do so, and the checkpoint declare the capabilities in "
            "dcd.checkpoints.interface.MOUNTS",
        ) from error


def _go_in(root: Path) -> None:
    """Between fork and exec: into the image, and never out again."""
    os.chroot(root)
    os.chdir("/")
    keep_only(FILES)
