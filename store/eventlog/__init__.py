"""The event log: append-only, hash-chained, with its projections. `interface` says what it is; `sqlite`
and `postgresql` are where it is kept."""

from store.eventlog.errors import (
    Conflict,
    DuplicateSubmission,
    Fenced,
    LogDamaged,
    LogFailed,
    LogFull,
    is_outage,
)
from store.eventlog.interface import EventLog
from store.eventlog.projection import BuildSummary
from store.eventlog.sqlite.log import SqliteLog

__all__ = [
    "BuildSummary",
    "Conflict",
    "DuplicateSubmission",
    "EventLog",
    "Fenced",
    "LogDamaged",
    "LogFailed",
    "LogFull",
    "SqliteLog",
    "is_outage",
]
