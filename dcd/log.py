"""The daemon's own log, through structlog, to standard error or the journal.

`configure` is called at start and again when a reload changes the level. Libraries that log through the
standard library (uvicorn, Alembic) use the same form. The keywords `build` and `checkpoint` of an entry
become the journal's fields DCD_BUILD and DCD_CHECKPOINT, so that `journalctl DCD_BUILD=ID` finds all
entries of a build. Values are escaped: a client cannot forge a line. The output of tools goes to the
attempt's log, never here.
"""

import logging
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

JOURNAL_SOCKET = Path("/run/systemd/journal/socket")

_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "exception": 3, "critical": 2}
"""Levels of syslog(3)."""

_LONGEST_VALUE = 48 * 1024
"""The journal accepts larger values only through a memory file; the daemon's are much smaller."""


def configure(form: str, level: str, stream: TextIO = sys.stderr) -> None:
    """Log entries of at least `level` in `form` (`auto`, `console`, `json`, `journald`)."""
    form = chosen_form(stream) if form == "auto" else form
    renderer, logger = _output(form, stream)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lambda *_: logger,
        cache_logger_on_first_use=False,  # loggers created before a reload follow it
    )
    root = logging.getLogger()
    root.handlers = [_Bridge()]
    # Libraries log only problems.
    root.setLevel(max(logging.WARNING, getattr(logging, level.upper())))


def chosen_form(stream: TextIO, environment: Mapping[str, str] = os.environ) -> str:
    """The form for `auto`: `journald` where `stream` is the journal (systemd.exec(5), JOURNAL_STREAM),
    `console` on a terminal, else `json`."""
    try:
        status = os.fstat(stream.fileno())
    except OSError:
        return "json"
    if environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}":
        return "journald"
    return "console" if stream.isatty() else "json"


def _output(form: str, stream: TextIO) -> tuple[list[Processor], Any]:
    if form == "journald":
        return [structlog.processors.format_exc_info], _Journal(stream)
    if form == "console":
        colours = stream.isatty() and "NO_COLOR" not in os.environ
        # Plain tracebacks: structlog's usual ones print local variables, passwords among them.
        console = structlog.dev.ConsoleRenderer(
            colors=colours, exception_formatter=structlog.dev.plain_traceback
        )
        return [_escaped, console], structlog.PrintLogger(stream)
    renderers: list[Processor] = [
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(),
    ]
    return renderers, structlog.PrintLogger(stream)


def _escaped(_logger: WrappedLogger, _method: str, entry: EventDict) -> EventDict:
    """Control characters made visible: text from a client must not control a terminal."""
    return {
        key: value.encode("unicode_escape").decode()
        if isinstance(value, str) and not value.isprintable()
        else value
        for key, value in entry.items()
    }


class _Bridge(logging.Handler):
    """Passes entries of the standard library's loggers to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(
            record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info
        )


class _Journal:
    """Sends entries by the journal's native protocol (systemd.io, JOURNAL_NATIVE_PROTOCOL); while no
    journal listens, to `stream` with the priority as prefix (sd-daemon(3))."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._address = str(JOURNAL_SOCKET)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def msg(self, **entry: Any) -> None:
        fields = journal_fields(entry)
        try:
            self._socket.sendto(journal_datagram(fields), self._address)
        except OSError:
            text = fields["MESSAGE"].replace("\n", "\\n")
            print(f"<{fields['PRIORITY']}>{text}", file=self._stream, flush=True)

    debug = info = warning = error = exception = critical = log = msg


def journal_fields(entry: Mapping[str, Any]) -> dict[str, str]:
    """A log entry as journal fields: MESSAGE, which includes the values, and each value as DCD_NAME."""
    values = {
        key: str(value)[:_LONGEST_VALUE]
        for key, value in entry.items()
        if key not in ("event", "level", "timestamp", "exception")
    }
    message = " ".join(
        [str(entry.get("event", "")), *(f"{key}={value!r}" for key, value in values.items())]
    )
    if "exception" in entry:
        message += "\n" + entry["exception"]
    return {
        "MESSAGE": message[:_LONGEST_VALUE],
        "PRIORITY": str(_PRIORITIES.get(str(entry.get("level")), 6)),
        "SYSLOG_IDENTIFIER": "dcd",
        **{f"DCD_{key.upper()}"[:64]: value for key, value in values.items()},
    }


def journal_datagram(fields: Mapping[str, str]) -> bytes:
    """Fields in the journal's protocol: every value with its length, so that it may contain any
    bytes."""
    parts = []
    for name, value in fields.items():
        data = value.encode("utf-8", "surrogateescape")
        parts.append(name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n")
    return b"".join(parts)
