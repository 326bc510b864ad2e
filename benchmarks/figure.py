"""What a benchmark finds, and how it is shown: figures, and the machine that they were taken on."""

import os
import platform
import sqlite3
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """Something measured once or several times. `most` and `least` are limits on the median (None:
    there is none); `note` says what was counted where the name does not."""

    name: str
    unit: str
    values: tuple[float, ...]
    most: float | None = None
    least: float | None = None
    note: str = ""

    @property
    def median(self) -> float:
        """The median of the values."""
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float] | None:
        """The first and the third quartile of several values; of one, none."""
        if len(self.values) < 2:
            return None
        first, _, third = statistics.quantiles(self.values, n=4, method="inclusive")
        return first, third

    @property
    def kept(self) -> bool:
        """Whether the limits are kept."""
        return (self.most is None or self.median <= self.most) and (
            self.least is None or self.median >= self.least
        )


def ratios(some: Sequence[float], others: Sequence[float]) -> tuple[float, ...]:
    """Their ratios, round by round."""
    return tuple(one / other for one, other in zip(some, others, strict=True))


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": _first_field("/proc/cpuinfo", "model name"),
        "cpus": os.cpu_count(),
        "memory_gib": round(int(_first_field("/proc/meminfo", "MemTotal").split()[0]) / 2**20, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "dcd": version("dcd"),
        "load_before": [round(load, 2) for load in os.getloadavg()],
    }


@dataclass(frozen=True, slots=True)
class Run:
    """What one benchmark found on a machine, whose description is that of `machine`."""

    benchmark: str
    machine: Mapping[str, Any]
    figures: tuple[Figure, ...]


def as_json(run: Run) -> dict[str, Any]:
    """The run as a JSON object: every value, and what follows from them."""
    figures = [
        {
            **asdict(figure),
            "median": figure.median,
            "quartiles": figure.quartiles,
            "kept": figure.kept,
        }
        for figure in run.figures
    ]
    return {"benchmark": run.benchmark, "machine": dict(run.machine), "figures": figures}


def from_json(found: Mapping[str, Any]) -> Run:
    """The run that `as_json` has written."""
    figures = tuple(
        Figure(
            each["name"],
            each["unit"],
            tuple(each["values"]),
            most=each["most"],
            least=each["least"],
            note=each["note"],
        )
        for each in found["figures"]
    )
    return Run(found["benchmark"], found["machine"], figures)


def table(runs: Iterable[Run]) -> str:
    """The figures as a Markdown table, below the machines that they were taken on."""
    runs = tuple(runs)
    lines = [
        *dict.fromkeys(f"{_described(run.machine)}." for run in runs),
        "",
        "| benchmark | figure | median | quartiles | rounds | limit |",
        "|---|---|---:|---|---:|---|",
    ]
    for run in runs:
        when = f"{run.benchmark}, {run.machine['date']}, load {run.machine['load_before'][0]}"
        for figure in run.figures:
            name = f"{figure.name}: {figure.note}" if figure.note else figure.name
            spread = " to ".join(map(_number, figure.quartiles or ()))
            lines.append(
                f"| {when} | {name} | {_number(figure.median)} {figure.unit} | {spread} |"
                f" {len(figure.values)} | {_limit(figure)} |"
            )
            when = ""
    return "\n".join(lines)


def _described(machine: Mapping[str, Any]) -> str:
    return (
        f"{machine['cpus']} CPUs ({machine['cpu']}), {machine['memory_gib']} GiB,"
        f" Linux {machine['kernel']}, Python {machine['python']}, SQLite {machine['sqlite']}"
    )


def _limit(figure: Figure) -> str:
    limits = [
        f"{words} {_number(value)}"
        for words, value in (("at most", figure.most), ("at least", figure.least))
        if value is not None
    ]
    if not limits:
        return ""
    return f"{' and '.join(limits)}: {'kept' if figure.kept else 'NOT KEPT'}"


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def _first_field(file: str, name: str) -> str:
    for line in Path(file).read_text().splitlines():
        field, _, value = line.partition(":")
        if field.strip() == name:
            return value.strip()
    return "unknown 0"
