"""`python -m benchmarks`: run the benchmarks named, or all, and show what they found."""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks import events, initramfs, live_image, load, vm_image
from benchmarks.figure import Figure, as_json, machine, table

BENCHMARKS: dict[str, Callable[[Path, int], Iterator[Figure]]] = {
    "appends": events.appends,
    "list": events.listing,
    "start": events.start,
    "load": load.load,
    "rebuild": live_image.rebuild,
    "initramfs": initramfs.initramfs,
    "live-build": live_image.live_build,
    "vm-disk": vm_image.vm_disk,
}
"""By name; each takes a directory for itself and the number of rounds."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run; returns 1 when a limit is not kept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every value to FILE")
    parser.add_argument(
        "--directory", type=Path, default=Path("/var/tmp"), help="where to work; a real disk"
    )
    arguments = parser.parse_args(argv)
    names = arguments.names or list(BENCHMARKS)
    if unknown := set(names) - BENCHMARKS.keys():
        parser.error(f"no benchmark {', '.join(sorted(unknown))}")
    if arguments.rounds < 1:
        parser.error("at least one round is needed")
    if not arguments.directory.is_dir():
        parser.error(f"{arguments.directory} is no directory")
    described = machine()
    figures: list[tuple[str, Figure]] = []
    for name in names:
        scratch = Path(tempfile.mkdtemp(prefix="dcd-bench-", dir=arguments.directory))
        try:
            for figure in BENCHMARKS[name](scratch, arguments.rounds):
                print(f"{name}: {figure.name} {figure.median:.3f} {figure.unit}", file=sys.stderr)
                figures.append((name, figure))
        finally:
            shutil.rmtree(scratch)
    print(table(described, figures))
    if arguments.json:
        found = {"machine": described, "figures": as_json(figures)}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if all(figure.kept for _, figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
