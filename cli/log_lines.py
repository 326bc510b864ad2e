"""The lines of the log of a running attempt, as they are written, for a follower.

One thread reads the daemon's stream of the log and hands on each line. It starts near the end of a long log.
Lines are text from a build: `cli.text.printable` makes them safe where they are printed.
"""

import codecs
import io
import threading
import time
from collections.abc import Callable, Iterator

from cli.client import ClientError, Unreachable, build_path, read, request

LONGEST_CHARACTERS = 2000
"""A longer line is cut, and one without end is handed on in parts."""

LATE_BYTES = 64 * 1024
TAIL_BYTES = 4 * 1024
"""Of a log longer than the first when it is opened, only so much of the end is read."""

RETRY_SECONDS = 0.5
TRIES_AFTER_END = 3
"""How often an unreachable daemon is asked for the log of an attempt that has ended."""

LAST_WORDS_SECONDS = 10.0
"""How long `end` waits for the last lines of an attempt that has ended."""


class LogLines:
    """The log of one attempt; `hand_on` is called with each line, in a thread of its own."""

    def __init__(
        self,
        socket_path: str,
        build: str,
        checkpoint: str,
        attempt: int,
        hand_on: Callable[[str], None],
    ) -> None:
        self.attempt = (checkpoint, attempt)
        self._socket_path, self._build = socket_path, build
        self._hand_on = hand_on
        self._ended = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """The attempt has ended: hand on its last lines, then no more."""
        self._ended.set()
        self._thread.join(LAST_WORDS_SECONDS)
        self.close()

    def close(self) -> None:
        """Hand on no more lines."""
        self._ended.set()
        self._closed = True

    def _run(self) -> None:
        lines = _Lines()
        offset, cut = -1, False
        failed_after_end = 0
        while not self._closed:
            ended = self._ended.is_set()
            try:
                if offset < 0:
                    offset, cut = self._begin()
                for piece in self._pieces(offset):
                    offset += len(piece)
                    for line in lines.feed(piece):
                        if not cut:
                            self._say(line)
                        cut = False
                break
            except Unreachable:  # silent for long, or the daemon restarts
                failed_after_end += ended
                if failed_after_end == TRIES_AFTER_END:
                    break
            except ClientError:
                return  # removed, or a daemon without streams of logs
            time.sleep(RETRY_SECONDS)
        if rest := lines.rest():
            self._say(rest)

    def _say(self, line: str) -> None:
        if not self._closed:
            self._hand_on(line[:LONGEST_CHARACTERS])

    def _begin(self) -> tuple[int, bool]:
        """The offset at which to begin, and whether that is inside a line."""
        logs = request(self._socket_path, "GET", build_path(self._build, "logs"))["logs"]
        sizes = {(log["checkpoint"], log["attempt"]): log["size_bytes"] for log in logs}
        size_bytes = sizes.get(self.attempt, 0)
        return (size_bytes - TAIL_BYTES, True) if size_bytes > LATE_BYTES else (0, False)

    def _pieces(self, offset: int) -> Iterator[bytes]:
        checkpoint, attempt = self.attempt
        path = build_path(self._build, "logs", checkpoint, str(attempt))
        return read(self._socket_path, path, query={"offset": offset, "follow": "true"})


class _Lines:
    """Splits bytes into lines of text. A carriage return ends a line too, as in progress bars of tools."""

    def __init__(self) -> None:
        utf8 = codecs.getincrementaldecoder("utf-8")(errors="backslashreplace")
        self._decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
        self._rest = ""

    def feed(self, piece: bytes) -> list[str]:
        """The lines that end in this piece."""
        *lines, self._rest = (self._rest + self._decoder.decode(piece)).split("\n")
        if len(self._rest) > LONGEST_CHARACTERS:
            lines.append(self._rest)
            self._rest = ""
        return lines

    def rest(self) -> str:
        """The end without a newline."""
        return self._rest + self._decoder.decode(b"", final=True)
