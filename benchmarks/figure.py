"""What a benchmark finds, and how it is shown: figures, and the machine that they were taken on."""

import os
import platform
import sqlite3
import statistics
from collections.abc import Iterable
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
    def kept(self) -> bool:
        """Whether the limits are kept."""
        return (self.most is None or self.median <= self.most) and (
            self.least is None or self.median >= self.least
        )


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


def as_json(figures: Iterable[tuple[str, Figure]]) -> list[dict[str, Any]]:
    """The figures, each with its benchmark's name, as JSON objects."""
    return [
        {
            "benchmark": benchmark,
            **asdict(figure),
            "median": figure.median,
            "kept": figure.kept,
        }
        for benchmark, figure in figures
    ]


def table(found: dict[str, Any], figures: Iterable[tuple[str, Figure]]) -> str:
    """The figures as a Markdown table below the machine's description."""
    lines = [
        f"{found['date']}; {found['cpus']} CPUs ({found['cpu']}), {found['memory_gib']} GiB,"
        f" Linux {found['kernel']}; Python {found['python']}, SQLite {found['sqlite']};"
        f" load before the start {found['load_before'][0]}",
        "",
        "| benchmark | figure | median | range | limit |",
        "|---|---|---:|---|---|",
    ]
    for benchmark, figure in figures:
        span = ""
        if len(figure.values) > 1:
            span = f"{_number(min(figure.values))} to {_number(max(figure.values))}"
            span += f" ({len(figure.values)} times)"
        name = f"{figure.name}: {figure.note}" if figure.note else figure.name
        lines.append(
            f"| {benchmark} | {name} | {_number(figure.median)} {figure.unit} | {span} |"
            f" {_limit(figure)} |"
        )
    return "\n".join(lines)


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
