"""Text for people: aligned tables, durations, sizes, times, colours; and JSON for scripts.

Standard library only, so that commands that only print stay fast; `cli.draw` draws live output. All
data from the daemon may contain text from a build or a manifest, so it passes through `printable`,
`print_json` or `tool_output`, which write control characters as escapes. Colours and wrapping apply
only to a terminal.
"""

import codecs
import io
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
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
"""SGR parameters for the names of states."""


def is_terminal(stream: TextIO) -> bool:
    """Whether the stream is a terminal that supports escape sequences."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def has_colour(stream: TextIO) -> bool:
    """Whether to use colours on the stream (see https://no-color.org)."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def coloured(text: str, word: str, stream: TextIO | None = None) -> str:
    """`text` in the colour of `word`, if the stream has colours."""
    colour = COLOURS.get(word)
    if colour is None or not has_colour(stream or sys.stdout):
        return text
    return f"\033[{colour}m{text}\033[0m"


def printable(text: str) -> str:
    """`text` with each character that could control a terminal or reorder its text as a Python escape:
    C0 and C1 controls, DEL, bidirectional overrides, other invisible formatting, lone surrogates.
    Newlines and tabs are kept."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode()
        for char in text
    )


def print_text(text: str) -> None:
    """A document on stdout: `printable` on a terminal, unchanged elsewhere."""
    print(printable(text) if sys.stdout.isatty() else text)


@contextmanager
def tool_output(stream: TextIO, *, raw: bool = False) -> Iterator[Callable[[bytes], None]]:
    """Yields a function that writes chunks of a tool's output to `stream`.

    On a terminal they are decoded as UTF-8 and made `printable`, and a carriage return ends a line;
    elsewhere, and with `raw`, the bytes are unchanged.
    """
    if raw or not stream.isatty():

        def copy(piece: bytes) -> None:
            stream.buffer.write(piece)
            stream.buffer.flush()

        yield copy
        return
    utf8 = codecs.getincrementaldecoder("utf-8")(errors="backslashreplace")
    lines = io.IncrementalNewlineDecoder(utf8, translate=True)

    def show(piece: bytes) -> None:
        stream.write(printable(lines.decode(piece)))
        stream.flush()

    yield show
    stream.write(printable(lines.decode(b"", final=True)))
    stream.flush()


def print_json(value: Json, stream: TextIO | None = None) -> None:
    """Print one JSON value on one line and flush. Characters that `printable` escapes are JSON
    escapes."""
    text = json.dumps(value, ensure_ascii=False)
    if not text.isprintable():
        text = re.sub(r"[^ -~]", _json_escape, text)
    print(text, file=stream or sys.stdout, flush=True)


def _json_escape(found: re.Match[str]) -> str:
    return found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1]


def print_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Collection[int] = (),
    wrapped: bool = False,
    stream: TextIO | None = None,
) -> None:
    """Print aligned columns; those in `right` are right-aligned. On a narrow terminal, columns that do
    not fit go on an indented line below; with `wrapped`, cells of the last column are wrapped. A cell
    with the name of a state gets its colour."""
    cells = [[printable(cell).replace("\n", " ") for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    room = shutil.get_terminal_size().columns if is_terminal(stream or sys.stdout) else sys.maxsize
    last_needs = min(widths[-1], _LEAST_WRAPPED_COLUMNS) if wrapped else widths[-1]
    for row in cells:
        for columns in _lines([*widths[:-1], last_needs], room):
            indent = "  " if columns[0] else ""
            parts = []
            for index in columns[:-1]:
                padded = row[index].rjust if index in right else row[index].ljust
                parts.append(coloured(padded(widths[index]), row[index], stream))
            end = columns[-1]
            before = len(indent) + sum(widths[index] + 2 for index in columns[:-1])
            width = max(room - before, last_needs)
            cell = row[end].rjust(widths[end]) if end in right else row[end]
            fold = wrapped and end == len(row) - 1 and len(cell) > width
            first, *further = textwrap.wrap(cell, width) if fold else [cell]
            if indent and not any(row[index] for index in columns):
                continue
            print(
                indent + "  ".join([*parts, coloured(first, row[end], stream)]).rstrip(),
                file=stream,
            )
            for line in further:
                print(" " * before + line, file=stream)


_LEAST_WRAPPED_COLUMNS = 20


def _lines(widths: Sequence[int], room: int) -> list[list[int]]:
    """The indices of columns, divided into lines of at most `room` characters if possible."""
    lines: list[list[int]] = [[0]]
    used = widths[0]
    for index, width in enumerate(widths[1:], 1):
        if used + 2 + width > room:
            lines.append([])
            used = 0
        lines[-1].append(index)
        used += 2 + width
    return lines


def print_error(error: ClientError, program: str = "dcctl") -> None:
    """Print the error on stderr: diagnostics in the style of a compiler, or brief, details and
    resolution."""
    if error.diagnostics:  # which include the text of the problem
        print_diagnostics(error.diagnostics, sys.stderr)
        return
    print(
        f"{program}: {coloured('error', 'error', sys.stderr)}: {printable(error.brief)}",
        file=sys.stderr,
    )
    print_indented([error.details, error.resolution], sys.stderr)


def print_json_error(error: ClientError) -> None:
    """Print the error on stderr as a JSON object on one line, for scripts."""
    problem = {
        "error": error.kind,
        "brief": error.brief,
        "details": error.details,
        "resolution": error.resolution,
        **error.extra,
    }
    print_json(problem, sys.stderr)


def print_diagnostics(diagnostics: Iterable[Json], stream: TextIO) -> None:
    """Print `file:line:column: severity: message`, then reason and correction, indented."""
    for item in diagnostics:
        # An unknown position is empty or 0, and ends the prefix.
        place = [short_path(item["file"]) or "dcctl"]
        place += [str(item[part]) for part in ("line", "column") if item[part]]
        severity = coloured(item["severity"], item["severity"], stream)
        where, message = printable(":".join(place)), printable(item["message"])
        print(f"{where}: {severity}: {message}", file=stream)
        print_indented([item["why"], item["suggestion"]], stream)


def print_indented(paragraphs: Iterable[str], stream: TextIO) -> None:
    """Print the paragraphs that are not empty, indented by two columns."""
    for paragraph in paragraphs:
        for line in printable(paragraph).splitlines():
            print(f"  {line}".rstrip(), file=stream)


def print_remarks(build: Json, stream: TextIO) -> None:
    """Print the warnings of a build's checkpoints, and, when it has completed, the files among its media
    that no checkpoint delivers."""
    for checkpoint in build["checkpoints"]:
        for message in checkpoint.get("warnings", ()):
            severity = coloured("warning", "warning", stream)
            print(f"{severity}: {printable(checkpoint['name'])}: {printable(message)}", file=stream)
    if build["state"] == "completed" and (left := build.get("undelivered")):
        print(f"not delivered: {printable(', '.join(left))}", file=stream)


def print_variances(checkpoints: Iterable[Json], stream: TextIO) -> None:
    """Print why the results of a plan's checkpoints may differ each time."""
    for checkpoint in checkpoints:
        for each in checkpoint.get("variances", ()):
            how = "not reproducible" if each["certain"] else "perhaps not reproducible"
            print(
                f"{how}: {printable(checkpoint['name'])}: {printable(each['reason'])}", file=stream
            )


def short_path(path: str) -> str:
    """A path below the working directory relative to it, any other unchanged."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def headline(build: Json, stream: TextIO | None = None) -> str:
    """A build and its state in one line: `debian-live k2p7: paused (before create-iso)`. The reason of
    a failure is left to its error."""
    reason = f" ({build['reason']})" if build["reason"] and build["state"] != "failed" else ""
    state = coloured(printable(build["state"]), build["state"], stream)
    return f"{printable(build['name'])} {printable(build['id'])}: {state}{printable(reason)}"


_TIME_ORIGINS = {
    "manifest": "as the manifest says",
    "request": "as requested",
    "repositories": "the newest date of the repositories",
    "none": "a fixed time, since the build has no date",
    "": "that of the submit",
}


def build_time(build: Json) -> str:
    """The time of the files of a build or plan, and its origin."""
    time = datetime.fromtimestamp(build["source_date_epoch"], UTC)
    return f"{time:%Y-%m-%dT%H:%M:%SZ}, {_TIME_ORIGINS.get(build['time_origin'], '')}"


def count(number: int, noun: str) -> str:
    """`1 layer`, `2 layers`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float | None) -> str:
    """`0.4 s`, `41 s`, `2m 05s`, `1h 02m`; "" for None."""
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
    """`0:41`, `2:05`, `1:02:00`: a running duration."""
    minutes, whole = divmod(max(int(seconds), 0), 60)
    if minutes < 60:
        return f"{minutes}:{whole:02}"
    return f"{minutes // 60}:{minutes % 60:02}:{whole:02}"


def times(build: Json) -> str:
    """How long a build has worked, and if it continues, how long all of it takes: `0:41 / ~2:05`; "" for one
    that has not begun."""
    elapsed, left = build.get("elapsed_seconds"), build.get("remaining_seconds")
    if not elapsed:
        return ""
    return clock(elapsed) + ("" if left is None else f" / ~{clock(elapsed + left)}")


def percent(build: Json) -> str:
    """The done part of a build, never 100% before all is done."""
    return f"{int(100 * build.get('fraction', 0.0))}%"


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
    """An RFC 3339 time in the local time zone."""
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def event_summary(data: Json) -> str:
    """The short values of an event's data; long ones (plan, manifest, keys) are left out."""
    shown = [
        data[name] for name in ("name", "checkpoint", "reason", "cause", "damage") if data.get(name)
    ]
    if data.get("attempt"):
        shown.append(f"attempt {data['attempt']}")
    if data.get("seconds"):
        shown.append(duration(data["seconds"]))
    for name, words in (
        ("before", "before"),
        ("reused_from", "from"),
        ("host", "on"),
        ("to", "to"),
    ):
        if data.get(name):
            shown.append(f"{words} {data[name]}")
    if data.get("manifest_path"):  # of a submit, or of a resume with another manifest
        shown.append(f"manifest {short_path(data['manifest_path'])}")
    for name, member in (("error", "brief"), ("artifact", "name")):
        if data.get(name):
            shown.append(data[name][member])
    return ", ".join(shown)
