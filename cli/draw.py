"""Drawing a build on a terminal: finished checkpoints scroll away above two moving lines.

One line is the build: name, completed of all checkpoints, bar, elapsed and estimated time, state. The
other is the running checkpoint: name, percentage, bar, times, what it says. The only module that
imports rich; `cli.follow` imports it only when it draws.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cli.picture import Line, Picture
from cli.text import clock, printable

REFRESH_HERTZ = 4
BAR_COLUMNS = 20

MARKS = {
    "completed": ("✓", "+", "green", ""),
    "reused": ("=", "=", "cyan", "reused from "),
    "failed": ("✗", "x", "red", "failed after "),
    "note": ("!", "!", "yellow", ""),
}
"""By kind of line: the sign, the sign for a terminal without Unicode, the style, words before."""


@contextmanager
def drawing(picture: Picture, stream: TextIO) -> Iterator[Callable[[Line], None]]:
    """Draw `picture` as it changes; yields the function that lets a line scroll above it."""
    console = Console(file=stream, highlight=False)
    unicode = console.encoding.startswith("utf")

    def tell(line: Line) -> None:
        if line.mark in MARKS:
            sign, plain_sign, style, words = MARKS[line.mark]
            width = 0 if line.mark == "note" else _name_columns(picture) + 1
            said = printable(f" {line.subject:<{width}} {words}{line.text}")
            console.print(Text.assemble((sign if unicode else plain_sign, style), said))

    with Live(
        console=console,
        get_renderable=lambda: frame(picture, time.time()),
        refresh_per_second=REFRESH_HERTZ,
        transient=True,
    ):
        yield tell


def frame(picture: Picture, now: float) -> Table:
    """The two moving lines at Unix time `now`."""
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(no_wrap=True, width=_name_columns(picture) + 2, overflow="ellipsis")
    table.add_column(no_wrap=True, justify="right", min_width=5)
    table.add_column(width=BAR_COLUMNS)
    table.add_column(no_wrap=True, min_width=13)
    table.add_column(no_wrap=True, ratio=1, overflow="ellipsis")
    elapsed = now - picture.started if picture.started is not None else 0.0
    table.add_row(
        Text(printable(picture.name), style="bold"),
        f"{len(picture.done)}/{len(picture.estimates)}",
        ProgressBar(total=1.0, completed=picture.fraction),
        _times(elapsed, picture.expected_seconds),
        picture.state,
    )
    if running := picture.running:
        table.add_row(
            Text(running.checkpoint),
            "" if running.fraction is None else f"{running.fraction:.0%}",
            ProgressBar(
                total=1.0,
                completed=running.fraction or 0.0,
                pulse=running.fraction is None,
            ),
            _times(now - running.started, running.estimate_seconds),
            Text(printable(running.message).replace("\n", " ")),
        )
    return table


def _times(elapsed_seconds: float, estimate_seconds: float | None) -> str:
    estimate = "" if estimate_seconds is None else f" / ~{clock(estimate_seconds)}"
    return clock(elapsed_seconds) + estimate


def _name_columns(picture: Picture) -> int:
    longest = max(map(len, [picture.name, *picture.estimates]), default=0)
    return min(longest, 20)
