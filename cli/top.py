"""The screen of `dcctl top`: builds with their strips above, the log of the chosen one below.

`Top` holds what is shown and what keys do; `draw` makes lines of it for a terminal of any size; `show` runs
it on one. Text from the daemon passes through `cli.text.printable`. The second module that imports rich.
"""

import os
import select
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from cli.client import ClientError, Json, Unreachable, build_path, read, request
from cli.exit_codes import ExitCode
from cli.log_lines import TAIL_BYTES, LogLines
from cli.text import clock, duration, percent, printable, times

BUILDS = 50
ASK_SECONDS = 1.0
KEY_SECONDS = 0.25
KEPT_LINES = 500
STRIP_COLUMNS, WIDE_STRIP_COLUMNS, WIDE_FROM_COLUMNS = 8, 16, 100
NAME_COLUMNS = 20

PIECES = {
    "completed": ("█", "#", "green"),
    "reused": ("▓", "=", "cyan"),
    "running": ("▶", ">", "bold blue"),
    "failed": ("✗", "x", "red"),
    "interrupted": ("!", "!", "yellow"),
    "pending": ("·", ".", "dim"),
}
"""By the state of a checkpoint: its piece of the strip, that in ASCII, its style."""

STATES = {
    "running": "bold blue",
    "completed": "green",
    "failed": "red",
    "paused": "yellow",
    "pausing": "yellow",
    "cancelled": "magenta",
    "cancelling": "magenta",
}

KEYS = "j/k choose  Enter checkpoints  l log  p pause  r resume  c cancel  q quit"
ARROWS = {b"\x1b[A": "k", b"\x1b[B": "j", b"\x1bOA": "k", b"\x1bOB": "j"}


class Top:
    """What is shown: the builds, the chosen one, and the end of its newest log."""

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path
        self.builds: list[Json] = []
        self.chosen = ""
        self.tail: deque[str] = deque(maxlen=KEPT_LINES)
        self.title = ""
        """The attempt whose log is shown."""
        self.pane = "log"
        self.large = False
        self.view: Json = None
        """The chosen build with its details."""
        self.note = ""
        self.asks_to_cancel = False
        self._lines: LogLines | None = None
        self._attempt: tuple[str, str, int] | None = None

    def close(self) -> None:
        """Read no log any more."""
        if self._lines:
            self._lines.close()
        self._lines = None

    @property
    def index(self) -> int:
        """The place of the chosen build in the list."""
        ids = [build["id"] for build in self.builds]
        return ids.index(self.chosen) if self.chosen in ids else 0

    def ask(self) -> None:
        """Ask the daemon for the builds, and for the chosen one and its log."""
        try:
            page = request(self._socket_path, "GET", "/v1/builds", query={"limit": BUILDS})
            self.builds = page["builds"]
            if self.note == AWAY:
                self.note = ""
            if not self.builds:
                self.chosen, self.view = "", None
                return
            self._choose(self.index)
            self.view = request(self._socket_path, "GET", build_path(self.chosen))
            self._show_log()
        except Unreachable:
            self.note = AWAY
        except ClientError as error:  # removed in between
            self.note = error.brief

    def press(self, key: str) -> bool:
        """Do what a key says. Returns whether to go on."""
        if self.asks_to_cancel:
            self.asks_to_cancel, self.note = False, ""
            if key == "y":
                self._command("cancel")
            return True
        match key:
            case "q":
                return False
            case "j" | "k" if self.builds:
                step = 1 if key == "j" else -1
                self._choose(min(max(self.index + step, 0), len(self.builds) - 1))
                self.view, self.note = None, ""
                self.ask()
            case "\r" | "\n":
                self.pane, self.large = (
                    ("log" if self.pane == "checkpoints" else "checkpoints"),
                    False,
                )
            case "l":
                self.large = self.pane == "log" and not self.large
                self.pane = "log"
            case "c" if self.chosen:
                self.asks_to_cancel = True
                self.note = f"cancel {self.chosen}? y/n"
            case "p" | "r" if self.chosen:
                self._command("pause" if key == "p" else "resume")
        return True

    def _command(self, name: str) -> None:
        try:
            request(self._socket_path, "POST", build_path(self.chosen, name), body={})
        except ClientError as error:
            self.note = ": ".join(filter(None, (error.brief, error.resolution)))
            return
        self.note = f"dcctl {name} {self.chosen}: done"
        self.ask()

    def _choose(self, index: int) -> None:
        chosen = self.builds[index]["id"]
        if chosen != self.chosen:
            self.chosen, self._attempt = chosen, None
            self.close()
            self.tail, self.title = deque(maxlen=KEPT_LINES), ""

    def _show_log(self) -> None:
        """Show the log of the newest attempt of the chosen build."""
        ran = [item for item in self.view["checkpoints"] if item["attempts"]]
        running = [item for item in ran if item["state"] == "running"]
        if not ran:
            return
        item = (running or ran)[-1]
        attempt = (self.chosen, item["name"], item["attempts"])
        if attempt == self._attempt:
            return
        self.close()
        self._attempt = attempt
        self.title = f"{item['name']}, attempt {item['attempts']}"
        tail: deque[str] = deque(maxlen=KEPT_LINES)
        self.tail = tail
        if running:
            self._lines = LogLines(self._socket_path, *attempt, tail.append)
        elif self.view["removed_at"] is None:
            tail.extend(_end_of_log(self._socket_path, *attempt))


AWAY = "the daemon does not answer; waiting for it"


def _end_of_log(socket_path: str, build: str, checkpoint: str, attempt: int) -> list[str]:
    logs = request(socket_path, "GET", build_path(build, "logs"))["logs"]
    sizes = {(log["checkpoint"], log["attempt"]): log["size_bytes"] for log in logs}
    size_bytes = sizes.get((checkpoint, attempt), 0)
    path = build_path(build, "logs", checkpoint, str(attempt))
    offset = max(0, size_bytes - 4 * TAIL_BYTES)
    content = b"".join(read(socket_path, path, query={"offset": offset})) if size_bytes else b""
    return content.decode("utf-8", "backslashreplace").splitlines()


def draw(top: Top, columns: int, lines: int, *, unicode: bool = True) -> list[Text]:
    """The lines of the screen, at most `lines`, each at most `columns` wide."""
    body = max(lines - 3, 2)  # without headings and keys
    above = 0 if top.large else max(1, min(len(top.builds), body // 2))
    first = min(max(top.index - above + 1, 0), max(len(top.builds) - above, 0))
    rows = [_heading(columns, f"{len(top.builds)} builds")]
    shown = top.builds[first : first + above]
    wide = min(max((len(build["name"]) for build in shown), default=0), NAME_COLUMNS)
    rows += [_row(build, build["id"] == top.chosen, columns, wide, unicode) for build in shown]
    if not top.builds:
        rows.append(Text("no builds", style="dim"))
    pane = list(_checkpoints(top) if top.pane == "checkpoints" else _log(top))
    room = max(lines - len(rows) - 2, 0)
    rows.append(_heading(columns, _title(top)))
    rows += pane[:room] if top.pane == "checkpoints" else pane[-room:] if room else []
    rows = [*rows[: lines - 1], *[Text("")] * (lines - 1 - len(rows))]
    rows.append(
        Text(printable(top.note or KEYS).replace("\n", " "), style="bold" if top.note else "dim")
    )
    for row in rows:
        row.no_wrap = True
        row.truncate(columns, overflow="ellipsis" if unicode else "crop")
    return rows


def _title(top: Top) -> str:
    shown = (
        "checkpoints"
        if top.pane == "checkpoints"
        else f"log of {top.title}"
        if top.title
        else "log"
    )
    return f"{printable(top.chosen)} {printable(shown)}".strip()


def _heading(columns: int, text: str) -> Text:
    return Text(f" {text} ".ljust(columns), style="reverse")


def _row(build: Json, chosen: bool, columns: int, name_columns: int, unicode: bool) -> Text:
    """A build: what a narrow terminal has no place for is at the end."""
    name = printable(build["name"])[:name_columns]
    strip_columns = WIDE_STRIP_COLUMNS if columns >= WIDE_FROM_COLUMNS else STRIP_COLUMNS
    row = Text("> " if chosen else "  ", style="bold" if chosen else "")
    row.append(f"{printable(build['id'])[:10]:<10} ")
    row.append(f"{printable(build['state']):<10} ", style=STATES.get(build["state"], ""))
    row.append_text(_strip(build.get("checkpoints", ()), strip_columns, unicode))
    row.append(f" {percent(build):>4} {times(build):<13} ")
    row.append(
        f"{name:<{name_columns}} {printable(build['actor']['user'])}",
        style="bold" if chosen else "",
    )
    if build["reason"] and columns >= WIDE_FROM_COLUMNS:
        row.append(f"  {printable(build['reason'])}".replace("\n", " "), style="dim")
    return row


def _strip(pieces: list[Json], columns: int, unicode: bool) -> Text:
    """The checkpoints as a strip; of many, as many at the end as fit up to the first pending ones."""
    strip = Text()
    first = 0
    if len(pieces) > columns:
        done = sum(piece["state"] in ("completed", "reused") for piece in pieces)
        first = min(max(done - columns // 2, 0), len(pieces) - columns)
    for piece in pieces[first : first + columns]:
        sign, plain, style = PIECES.get(piece["state"], ("?", "?", ""))
        strip.append(sign if unicode else plain, style=style)
    strip.append(" " * (columns - len(strip)))
    return strip


def _checkpoints(top: Top) -> Iterator[Text]:
    for item in (top.view or {}).get("checkpoints", ()):
        running = item.get("elapsed_seconds")
        took = duration(item["seconds"]) if running is None else clock(running)
        expected = (
            f"~{duration(item['estimate_seconds'])}"
            if item["state"] in ("pending", "running")
            else ""
        )
        style = PIECES.get(item["state"], ("", "", ""))[2]
        brief = item["error"]["brief"] if item["error"] else ""
        text = Text(f"  {printable(item['name']):<20} ")
        text.append(f"{printable(item['state']):<11} ", style=style)
        text.append(f"{took:>8} {expected:<8} {printable(brief)}".replace("\n", " ").rstrip())
        yield text


def _log(top: Top) -> Iterator[Text]:
    for line in list(top.tail):
        yield Text(printable(line).expandtabs(8), style="dim")


def show(socket_path: str) -> ExitCode:
    """Show the screen on the terminal until `q` or Ctrl-C."""
    console = Console(file=sys.stdout, highlight=False)
    unicode = console.encoding.startswith("utf")
    top = Top(socket_path)

    def frame() -> Group:
        size = console.size
        return Group(*draw(top, size.width, size.height, unicode=unicode))

    top.ask()
    asked_at = time.monotonic()
    try:
        with (
            _keys(sys.stdin.fileno()) as next_key,
            Live(frame(), console=console, screen=True, auto_refresh=False) as live,
        ):
            going = True
            while going:
                key = next_key(KEY_SECONDS)
                going = key is None or top.press(key)
                if time.monotonic() - asked_at >= ASK_SECONDS:
                    top.ask()
                    asked_at = time.monotonic()
                live.update(frame(), refresh=True)
    except KeyboardInterrupt:
        pass
    finally:
        top.close()
    return ExitCode.OK


@contextmanager
def _keys(terminal: int) -> Iterator[Callable[[float], str | None]]:
    """Yields a function that waits so many seconds for a key; None if there was none."""
    before = termios.tcgetattr(terminal)
    pressed: deque[str] = deque()

    def next_key(wait_seconds: float) -> str | None:
        if not pressed and select.select([terminal], [], [], wait_seconds)[0]:
            said = os.read(terminal, 64)
            if not said:
                return "q"  # the terminal is gone
            pressed.extend([ARROWS[said]] if said in ARROWS else said.decode("ascii", "ignore"))
        return pressed.popleft() if pressed else None

    tty.setcbreak(terminal)
    try:
        yield next_key
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
