"""What the simulated database of a farm keeps: rows, and the ways of hosts to it."""

import math
from copy import copy
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import psycopg

from statemachine.events import Event


class Raised(psycopg.Error):
    """An error that a function raises."""

    def __init__(self, state: str, why: object) -> None:
        super().__init__(str(why))
        self.sqlstate = state

    @property
    def diag(self) -> Any:
        return SimpleNamespace(message_primary=str(self))


@dataclass(eq=False)
class Line:
    """The way of a host to the database. `breaks` counts how often its connections were lost; `losing` says
    how many of the next writes are carried out without their answer arriving, which breaks them too."""

    cut: bool = False
    breaks: int = 0
    losing: int = 0


class Row(NamedTuple):
    """A row of `events`."""

    position: int
    build: str
    sequence: int
    type: str
    version: int
    time: str
    actor: str
    data: str
    hash: str


@dataclass
class Owner:
    """A row of `placements`."""

    epoch: int
    host: str
    requires: list[str]
    moves_to: str | None = None


@dataclass
class MemberRow:
    """A row of `members`; times are those of the database."""

    role: str
    host: str
    labels: list[str]
    announced: list[str] = field(default_factory=list)
    version: str = ""
    draining: bool = False
    drained_at: float = -math.inf
    """When `draining` changed."""
    seen_at: float | None = None
    unbroken_since: float | None = None


@dataclass
class Build:
    """A build: its row in `builds`, its owner, its events and the keys of its layers."""

    row: dict[str, Any]
    owner: Owner
    rows: list[Row] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)

    def copied(self) -> "Build":
        return Build(
            dict(self.row), copy(self.owner), list(self.rows), list(self.events), set(self.keys)
        )


class Rows(list[Any]):
    """What a statement returns."""

    def fetchone(self) -> Any:
        return self[0] if self else None

    def fetchall(self) -> list[Any]:
        return self
