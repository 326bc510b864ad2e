"""What it would gain to make the initramfs and the compressed image at once: both read the same system.

The two run one after the other and side by side, in turns, with the settings of the example's live image.
They are the longest pair of checkpoints in the examples of which neither needs what the other makes.
`python -m benchmarks.side_by_side ROOT ROUNDS UNTIL` is the part that needs a mount namespace of its own.
"""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.examples import measured_apart
from benchmarks.figure import Figure
from benchmarks.initramfs import live_system, make_initramfs
from benchmarks.rounds import Rounds
from dcd.checkpoints.image.compress import SquashfsPkgImgMod
from dcd.platform.chroot import chroot
from dcd.platform.initramfs import faster


def side_by_side(scratch: Path, rounds: Rounds) -> Iterator[Figure]:
    """Both ways, and the seconds that the second one saves."""
    after, at_once = measured_apart("benchmarks.side_by_side", live_system(scratch), rounds)
    saved = [one - other for one, other in zip(after, at_once, strict=True)]
    yield Figure("initramfs, then squashfs", "s", tuple(after))
    yield Figure("initramfs beside squashfs", "s", tuple(at_once))
    yield Figure("saved", "s", tuple(saved))


def _measured(root: Path, rounds: Rounds) -> tuple[list[float], list[float]]:
    result = root.parent / "filesystem.squashfs"
    compress = SquashfsPkgImgMod(
        "pkg-img-mod", compression_type="zstd", compression_level=3, block_size_kib=256
    ).command(root, result)
    # The mounts of the initramfs are not part of the image.
    compress += ["-e", "proc", "sys", "dev", "run", "tmp"]

    def squashfs() -> None:
        result.unlink(missing_ok=True)
        subprocess.run(compress, stdout=subprocess.DEVNULL, check=True)

    def initramfs() -> None:
        with chroot(root) as inside, faster(root):
            make_initramfs(inside)

    after: list[float] = []
    at_once: list[float] = []
    for number in itertools.chain([-1], rounds):
        for together in (False, True) if number % 2 == 0 else (True, False):
            seconds = at_once if together else after
            seconds.append(_seconds(initramfs, squashfs, together))
    return after[1:], at_once[1:]


def _seconds(one: Callable[[], None], other: Callable[[], None], together: bool) -> float:
    started = time.monotonic()
    if together:
        with ThreadPoolExecutor(2) as pool:
            for ended in [pool.submit(one), pool.submit(other)]:
                ended.result()
    else:
        one()
        other()
    return time.monotonic() - started


if __name__ == "__main__":
    found = _measured(Path(sys.argv[1]), Rounds(int(sys.argv[2]), float(sys.argv[3])))
    print(json.dumps(found))
