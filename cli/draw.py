"""Drawing a build on a terminal: finished checkpoints scroll away above two status lines, below them the log.

One line shows the build: name, completed and total checkpoints, bar, elapsed and estimated time, state.
The other shows the running checkpoint: name, percentage, bar, times, its message. Imports rich, as
`cli.top` does; `cli.follow` imports it only for a terminal.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cli.picture import Line, Picture
from cli.text import clock, printable

REFRESH_HERTZ = 4
STATUS_LINES = 4
"""The lines of a terminal that are kept for all but the log."""
BAR_COLUMNS = 20
BAR_FROM_COLUMNS, ONE_LINE_FROM_COLUMNS = 76, 110
"""The width that a terminal needs for the bars, and for the checkpoint's message beside them."""

MARKS = {
    "completed": ("✓", "+", "green", ""),
    "reused": ("=", "=", "cyan", "reused from "),
    "failed": ("✗", "x", "red", "failed after "),
    "note": ("!", "!", "yellow", ""),
}
"""By kind of line: the symbol, its ASCII form, the style, the text before."""


@contextmanager
def drawing(picture: Picture, stream: TextIO) -> Iterator[Callable[[Line], None]]:
    """Draw `picture` as it changes; yields the function that prints a line above it."""
    console = Console(file=stream, highlight=False)
    unicode = console.encoding.startswith("utf")

    def print_line(line: Line) -> None:
        if line.mark in MARKS:
            sign, plain_sign, style, words = MARKS[line.mark]
            width = 0 if line.mark == "note" else _name_columns(picture) + 1
            said = printable(f" {line.subject:<{width}} {words}{line.text}")
            console.print(Text.assemble((sign if unicode else plain_sign, style), said))

    with Live(
        console=console,
        get_renderable=lambda: frame(picture, time.time(), console.width, console.height),
        refresh_per_second=REFRESH_HERTZ,
        transient=True,
    ):
        yield print_line


def frame(picture: Picture, now: float, columns: int, lines: int = 24) -> Group:
    """The two status lines at Unix time `now`, and the end of the log dimmed, for a terminal of so many
    columns and lines. A narrow terminal gets no bar, and the checkpoint's message on a separate line, to
    leave space for the times."""
    with_bar, one_line = columns >= BAR_FROM_COLUMNS, columns >= ONE_LINE_FROM_COLUMNS
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(no_wrap=True, max_width=_name_columns(picture) + 2, overflow="ellipsis")
    table.add_column(no_wrap=True, justify="right")
    if with_bar:
        table.add_column(width=BAR_COLUMNS)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, ratio=1, overflow="ellipsis")
    elapsed = now - picture.started if picture.started is not None else 0.0
    table.add_row(
        Text(printable(picture.view["name"]), style="bold"),
        f"{len(picture.done)}/{len(picture.estimates)}",
        *([ProgressBar(total=1.0, completed=picture.fraction)] if with_bar else ()),
        _times(elapsed, picture.expected_seconds(now)),
        picture.view["state"],
    )
    message = Text("")
    if running := picture.running:
        message = Text(
            printable(picture.progress.get("message", "")).replace("\n", " "), no_wrap=True
        )
        fraction = picture.progress.get("fraction")
        bar = ProgressBar(total=1.0, completed=fraction or 0.0, pulse=fraction is None)
        table.add_row(
            Text(printable(running)),
            "" if fraction is None else f"{fraction:.0%}",
            *([bar] if with_bar else ()),
            _times(now - picture.attempt_started, picture.estimates[running]),
            message if one_line else "",
        )
    tail = log_tail(list(picture.tail) if picture.running else [], columns, lines - STATUS_LINES)
    if one_line or not message:
        return Group(table, *tail)
    message.truncate(columns - 2, overflow="ellipsis")
    return Group(table, Padding(message, (0, 0, 0, 2)), *tail)


def log_tail(log: Sequence[str], columns: int, lines: int) -> list[Text]:
    """The last lines of a log, dimmed, each on one line of the terminal."""
    shown = []
    for line in log[-lines:] if lines > 0 else ():
        # A tab would take more columns than rich counts.
        text = Text(f"  {printable(line).expandtabs(8)}", style="dim", no_wrap=True)
        text.truncate(columns, overflow="ellipsis")
        shown.append(text)
    return shown


def _times(elapsed_seconds: float, estimate_seconds: float | None) -> str:
    estimate = "" if estimate_seconds is None else f" / ~{clock(estimate_seconds)}"
    return clock(elapsed_seconds) + estimate


def _name_columns(picture: Picture) -> int:
    longest = max(map(len, [picture.view["name"], *picture.estimates]))
    return min(longest, 20)
