"""`python -m benchmarks`: run the benchmarks named, or all, and show what they found."""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import (
    again,
    empty,
    events,
    farm,
    initramfs,
    live_image,
    load,
    several,
    side_by_side,
    vm_image,
)
from benchmarks.figure import Figure, Run, as_json, machine, table
from benchmarks.memory import leave
from benchmarks.page import PAGE, record, recorded, written
from benchmarks.rounds import Rounds, shares


@dataclass(frozen=True, slots=True)
class Benchmark:
    """`run` gets a directory for itself and its rounds: `rounds` unless others are asked for. `minutes` is
    about how long that takes, and the weight for its share of the time of several."""

    run: Callable[[Path, Rounds], Iterator[Figure]]
    rounds: int = 3
    minutes: float = 1.0


BENCHMARKS: dict[str, Benchmark] = {
    "appends": Benchmark(events.appends, minutes=0.2),
    "list": Benchmark(events.listing),
    "start": Benchmark(events.start, minutes=3),
    "load": Benchmark(load.load, minutes=6),
    "empty": Benchmark(empty.empty, minutes=0.3),
    "farm": Benchmark(farm.farm, minutes=3),
    "initramfs": Benchmark(initramfs.initramfs, minutes=2.5),
    "live-build": Benchmark(live_image.live_build, rounds=10, minutes=14),
    "added": Benchmark(again.added, minutes=6),
    "several": Benchmark(several.several, minutes=13),
    "side-by-side": Benchmark(side_by_side.side_by_side, minutes=1.5),
    "vm-disk": Benchmark(vm_image.vm_disk, minutes=5.5),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run; returns 1 when a limit is not kept."""
    argv = sys.argv[1:] if argv is None else argv
    # Without its bytecode every process of dcd compiles it again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if argv[:1] == ["table"]:
        return _table(argv[1:])
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog="`python -m benchmarks table FILE...` shows what earlier runs have written with --json.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--rounds", type=int, help="how often each is repeated (default: 3 or 10)")
    parser.add_argument(
        "--minutes", type=float, help="about how long all may take: fewer rounds, one at least"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every value to FILE")
    parser.add_argument(
        "--record",
        action="store_true",
        help=f"keep every value in benchmarks/recorded, and write the table of {PAGE.name}",
    )
    parser.add_argument(
        "--directory", type=Path, default=Path("/var/tmp"), help="where to work; a real disk"
    )
    arguments = parser.parse_args(argv)
    names = arguments.names or list(BENCHMARKS)
    if unknown := set(names) - BENCHMARKS.keys():
        parser.error(f"no benchmark {', '.join(sorted(unknown))}")
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error("at least one round is needed")
    if not arguments.directory.is_dir():
        parser.error(f"{arguments.directory} is no directory")
    runs = []
    directory = Path(tempfile.mkdtemp(prefix="dcd-bench-", dir=arguments.directory))
    try:
        for name, rounds in zip(
            names, _rounds(names, arguments.rounds, arguments.minutes), strict=True
        ):
            run = _run(name, rounds, directory)
            runs.append(run)
            if arguments.record:
                record(run)
                PAGE.write_text(written())
            if arguments.json:
                arguments.json.write_text(
                    json.dumps([as_json(each) for each in runs], indent=1) + "\n"
                )
    finally:
        shutil.rmtree(directory)
    print(table(runs))
    return 0 if all(figure.kept for run in runs for figure in run.figures) else 1


def _table(files: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks table")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    print(table(recorded(parser.parse_args(files).files)))
    return 0


def _rounds(names: Sequence[str], most: int | None, minutes: float | None) -> Iterator[Rounds]:
    chosen = [BENCHMARKS[name] for name in names]
    if minutes is None:
        return (Rounds(most or each.rounds) for each in chosen)
    numbers = [most or each.rounds for each in chosen]
    return shares(minutes, numbers, [each.minutes for each in chosen])


def _run(name: str, rounds: Rounds, directory: Path) -> Run:
    described = machine()
    figures = []
    scratch = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=directory))
    for figure in BENCHMARKS[name].run(scratch, rounds):
        print(f"{name}: {figure.name} {figure.median:.3f} {figure.unit}", file=sys.stderr)
        figures.append(figure)
    leave(scratch)
    return Run(name, described, tuple(figures))


if __name__ == "__main__":
    sys.exit(main())
