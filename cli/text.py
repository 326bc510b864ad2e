"""Text for people: aligned tables, durations, sizes, times, colours; and JSON for scripts.

Plain standard library, so that commands that only print stay quick; `cli.draw` draws what moves.
Whatever comes from the daemon may hold what a tool printed: `printable` takes out what would steer
the terminal. Colours and wrapping only happen on a terminal.
"""

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TextIO

from cli.client import ClientError, Json

COLOURS = {
    "completed": "32",
    "ok": "32",
    "reused": "36",
    "reuse": "36",
    "running": "1;34",
    "run": "1;34",
    "paused": "33",
    "pausing": "33",
    "interrupted": "33",
    "warning": "33",
    "failed": "31",
    "missing": "31",
    "error": "1;31",
    "cancelled": "35",
    "cancelling": "35",
    "pending": "2",
}
"""SGR parameters for the words that stand for a state."""


def is_terminal(stream: TextIO) -> bool:
    """Whether a person's terminal shows the stream, one that understands escape sequences."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def has_colour(stream: TextIO) -> bool:
    """Whether to colour what goes to the stream (https://no-color.org is honoured)."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def coloured(text: str, word: str, stream: TextIO | None = None) -> str:
    """`text` in the colour of `word`, where colours are wanted."""
    colour = COLOURS.get(word)
    if colour is None or not has_colour(stream or sys.stdout):
        return text
    return f"\033[{colour}m{text}\033[0m"


def printable(text: str) -> str:
    """`text` without the control characters that would steer a terminal."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}"
        for char in text
    )


def print_json(value: Json) -> None:
    """One JSON value on one line, at once."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def print_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Collection[int] = (),
    wrapped: bool = False,
) -> None:
    """Aligned columns. `right` are flushed right; with `wrapped`, cells of the last column go on below
    themselves where a terminal is too narrow. A cell that is the word of a state gets its colour."""
    cells = [[printable(cell).replace("\n", " ") for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    before = sum(widths[:-1]) + 2 * (len(widths) - 1)
    room = max(shutil.get_terminal_size().columns - before, 20)
    if not wrapped or not is_terminal(sys.stdout):
        room = widths[-1]
    for row in cells:
        parts = []
        for index, (cell, width) in enumerate(zip(row[:-1], widths, strict=False)):
            padded = cell.rjust(width) if index in right else cell.ljust(width)
            parts.append(coloured(padded, cell))
        first, *further = textwrap.wrap(row[-1], room) if len(row[-1]) > room else [row[-1]]
        print("  ".join([*parts, coloured(first, first)]).rstrip())
        for line in further:
            print(" " * before + line)


def print_error(error: ClientError) -> None:
    """The error on stderr: diagnostics like a compiler's, or what happened, why and what to do."""
    if error.diagnostics:  # which say all that the problem's own text says
        print_diagnostics(error.diagnostics, sys.stderr)
        return
    print(
        f"dcctl: {coloured('error', 'error', sys.stderr)}: {printable(error.brief)}",
        file=sys.stderr,
    )
    print_indented([error.details, error.resolution], sys.stderr)


def print_json_error(error: ClientError) -> None:
    """The error on stderr as a JSON object on a line, for scripts that asked for JSON."""
    problem = {
        "error": error.kind,
        "brief": error.brief,
        "details": error.details,
        "resolution": error.resolution,
        **error.extra,
    }
    print(json.dumps(problem, ensure_ascii=False), file=sys.stderr)


def print_diagnostics(diagnostics: Iterable[Json], stream: TextIO) -> None:
    """`file:line:column: severity: message`, then why and what would be right, indented."""
    for item in diagnostics:
        # An unknown place is empty or 0; nothing stands behind it then.
        place = [short_path(item["file"]) or "dcctl"]
        place += [str(item[part]) for part in ("line", "column") if item[part]]
        severity = coloured(item["severity"], item["severity"], stream)
        where, message = printable(":".join(place)), printable(item["message"])
        print(f"{where}: {severity}: {message}", file=stream)
        print_indented([item["why"], item["suggestion"]], stream)


def print_indented(paragraphs: Iterable[str], stream: TextIO) -> None:
    """Those paragraphs that say something, two columns in."""
    for paragraph in paragraphs:
        for line in printable(paragraph).splitlines():
            print(f"  {line}".rstrip(), file=stream)


def short_path(path: str) -> str:
    """A path beneath the working directory relative to it, another as it is."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def headline(build: Json, stream: TextIO | None = None) -> str:
    """A build and its state in a line: `debian-live k2p7: paused (before create-iso)`. Why it failed
    is left to its error, which says more."""
    reason = f" ({build['reason']})" if build["reason"] and build["state"] != "failed" else ""
    state = coloured(build["state"], build["state"], stream)
    return f"{printable(build['name'])} {build['id']}: {state}{printable(reason)}"


def count(number: int, noun: str) -> str:
    """`1 layer`, `2 layers`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float | None) -> str:
    """`0.4 s`, `41 s`, `2m 05s`, `1h 02m`; nothing for None."""
    if seconds is None:
        return ""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02}m"


def clock(seconds: float) -> str:
    """`0:41`, `2:05`, `1:02:00`: a duration that is seen running."""
    minutes, whole = divmod(max(int(seconds), 0), 60)
    if minutes < 60:
        return f"{minutes}:{whole:02}"
    return f"{minutes // 60}:{minutes % 60:02}:{whole:02}"


def size(size_bytes: int) -> str:
    """`512 B`, `1.2 MiB`."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    number = float(size_bytes)
    for unit in ("KiB", "MiB", "GiB"):
        number /= 1024
        if number < 1024:
            return f"{number:.1f} {unit}"
    return f"{number / 1024:.1f} TiB"


def timestamp(text: str) -> float:
    """Unix time of an RFC 3339 time."""
    return datetime.fromisoformat(text).timestamp()


def local_time(text: str) -> str:
    """An RFC 3339 time as the clock on the wall shows it."""
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")
