"""The initramfs of the example's live image, with dcd's functions and by the plain tool alone.

mkinitramfs runs in one and the same system, in turns, after a run of each side that does not count. Both
gather in memory. The archives must be the same to the byte, or the comparison is void.
`python -m benchmarks.initramfs ROOT ROUNDS UNTIL` is the part that needs a mount namespace of its own.
"""

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from benchmarks.examples import APART, measured_apart, without_boots
from benchmarks.figure import Figure, ratios
from benchmarks.rounds import Rounds
from dcd.platform.apt import host_sources, source_list, sources_for
from dcd.platform.chroot import Inside, chroot
from dcd.platform.initramfs import faster

MOST_SECONDS = 5.0

_ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "SOURCE_DATE_EPOCH": "1700000000",
    "TMPDIR": "/tmp",
}
_SETTINGS = "MODULES=most\nCOMPRESS=zstd\nCOMPRESSLEVEL=1\n"


def initramfs(scratch: Path, rounds: Rounds) -> Iterator[Figure]:
    """Both sides, and their ratio."""
    root = live_system(scratch)
    plain, fast = measured_apart("benchmarks.initramfs", root, rounds)
    yield Figure("dcd / plain tool", "", ratios(fast, plain))
    yield Figure("plain tool", "s", tuple(plain))
    yield Figure("dcd", "s", tuple(fast), most=MOST_SECONDS)


def live_system(scratch: Path) -> Path:
    """The system of the example's live image, with the settings of its initramfs."""
    _, image = without_boots(scratch, "debian-live.xml")
    root, sources = scratch / "root", scratch / "host.sources"
    sources.write_text(source_list(sources_for(host_sources(), image.suite)))
    options = ("--quiet", "--mode=root", "--format=directory", f"--variant={image.variant}")
    subprocess.run(
        [
            *(*APART, "mmdebstrap", *options),
            *(f"--include={','.join(image.packages)}", image.suite, root, sources),
        ],
        env={**os.environ, "INITRD": "No"},
        check=True,
    )
    (root / "etc/initramfs-tools/conf.d/benchmark").write_text(_SETTINGS)
    return root


def _measured(root: Path, rounds: Rounds) -> tuple[list[float], list[float]]:
    """The seconds of each round, plain and with faster functions."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    archives = set()
    for number in itertools.chain([-1], rounds):
        for ours in (False, True) if number % 2 == 0 else (True, False):
            with chroot(root) as inside, faster(root) if ours else nullcontext():
                started = time.monotonic()
                make_initramfs(inside)
                seconds[ours].append(time.monotonic() - started)
                archives.add((root / "run/initrd.img").read_bytes())
    if len(archives) != 1:
        raise RuntimeError("the two initramfs are not the same")
    return seconds[False][1:], seconds[True][1:]


def make_initramfs(inside: Inside) -> None:
    """Make /run/initrd.img, as the checkpoint does."""
    version = next((inside.root / "boot").glob("vmlinuz-*")).name.removeprefix("vmlinuz-")
    inside.run(
        ["mkinitramfs", "-o", "/run/initrd.img", version],
        env=_ENVIRONMENT,
        on_line=lambda line: print(line, file=sys.stderr),
    )


if __name__ == "__main__":
    print(json.dumps(_measured(Path(sys.argv[1]), Rounds(int(sys.argv[2]), float(sys.argv[3])))))
