"""The event log on SQLite: append-only, hash-chained, with its projections."""

from store.eventlog.errors import Conflict, DuplicateSubmission, LogDamaged, LogFailed, LogFull
from store.eventlog.log import EventLog
from store.eventlog.projection import BuildSummary

__all__ = [
    "BuildSummary",
    "Conflict",
    "DuplicateSubmission",
    "EventLog",
    "LogDamaged",
    "LogFailed",
    "LogFull",
]
