"""The database of a farm in memory: the log's tables and functions, the members, and the queue.

Members speak to it through the product's own code: a connection answers the statements of
`store.eventlog.postgresql` and `dcd.farm.queue`, and no others. What the functions of `functions.sql` decide
is decided here once more, in Python; test_simulated_database.py runs the log's own suite on it, and compares
both. The clock is the world's. Defects can be planted: see `Database`.
"""

import json
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from simulated_projections import Mirror
from simulated_queue import Jobs
from simulated_rows import Build, Line, MemberRow, Owner, Raised, Row, Rows

from dcd.farm import queue
from dcd.farm.jobs import Kind, Situation
from statemachine.build import RUNNABLE
from statemachine.codec import FIRST_HASH, HASHED, event_hash
from statemachine.events import Event
from store.eventlog.postgresql import members
from store.eventlog.postgresql.schema import FACTS
from store.eventlog.projection import event_of

ENDING = {"completed": "BuildCompleted", "cancelled": "BuildCancelled"}


class Database:
    """See the module. `has_fence` and `counts_epochs` are true unless a defect is planted."""

    has_fence = True
    counts_epochs = True

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.started_at = now()
        self.down = False
        self.jobs = Jobs(now)
        self.lines: dict[str, Line] = {}
        self.members: dict[str, MemberRow] = {}
        self.facts: frozenset[str] = frozenset(FACTS)
        self.builds: dict[str, Build] = {}
        self.unfinished: dict[str, Build] = {}
        self.events: list[Event] = []
        self.epochs: list[tuple[str, int | None]] = []
        """By position: the role that appended the event, and in which epoch."""
        self.lock = threading.RLock()
        self.listeners: list[Callable[[], None]] = []
        """Called after each commit."""
        self._mirror: Mirror | None = None
        self.asked: Counter[str] = Counter()
        """The number of rows that each question has read, by its name."""

    def add(self, host: str, labels: Sequence[str]) -> None:
        """What an administrator does."""
        role = members.role_of(host)
        self.lines.setdefault(role, Line())
        if role in self.members:
            self.members[role].labels = list(labels)
        else:
            self.members[role] = MemberRow(role, host, list(labels))

    def connect(self, dsn: str) -> "Connection":
        role = role_in(dsn)
        if not self.reaches(role):
            raise psycopg.OperationalError("connection refused")
        return Connection(self, role, self.lines[role])

    def reaches(self, role: str) -> bool:
        """Whether the host of a role can speak to the database."""
        return not (self.down or self.lines[role].cut)

    def carry_out(self, role: str, breaks: int, writes: bool, work: Callable[[], Any]) -> Any:
        """Run `work` for a host, on a connection made when its line had broken `breaks` times."""
        line = self.lines[role]
        with self.lock:
            if line.breaks != breaks or not self.reaches(role):
                raise psycopg.OperationalError("server closed the connection unexpectedly")
            answer = work()
            if writes and line.losing:
                line.losing -= 1
                line.breaks += 1
                raise psycopg.OperationalError("server closed the connection unexpectedly")
        return answer

    # What functions.sql does

    def append_all(self, role: str, text: str) -> list[Any]:
        answers: list[dict[str, Any]] = []
        for request in json.loads(text):
            saved = [(part["build"], self.builds.get(part["build"])) for part in request]
            saved = [(build, each and each.copied()) for build, each in saved]
            length = len(self.events)
            try:
                positions = []
                for part in request:
                    build = part["build"]
                    positions.append(self._append(role, **part))
                answers.append({"positions": positions})
            except Raised as error:
                self._restore(saved, length)
                answers.append({"error": error.sqlstate, "why": str(error), "build": build})
        if any("positions" in answer for answer in answers):
            self._tell()
        return [(answers,)]

    def _restore(self, saved: Sequence[tuple[str, Build | None]], length: int) -> None:
        del self.events[length:], self.epochs[length:]
        for name, build in saved:
            self.unfinished.pop(name, None)
            self.builds.pop(name, None)
            if build is not None:
                self._keep(name, build)

    def _keep(self, name: str, build: Build) -> None:
        self.builds[name] = build
        if build.row["state"] in ENDING:
            self.unfinished.pop(name, None)
        else:
            self.unfinished[name] = build

    def _append(self, role: str, **part: Any) -> int:
        name, epoch = part["build"], part["epoch"]
        kinds = [event["type"] for event in part["events"]]
        if epoch is None:
            if not self.facts.isdisjoint(kinds):
                raise Raised("DC004", f"facts of build {name} need an epoch")
        else:
            owner = self.builds[name].owner if name in self.builds else Owner(0, "", [])
            mine = role in self.members and self.members[role].host == owner.host
            if self.has_fence and (owner.epoch != epoch or not mine):
                raise Raised("DC001", f"{owner.host} holds it in epoch {owner.epoch}")
            if "BuildPlaced" in kinds:
                raise Raised("DC004", "only dcd_take places builds")
        return self._write(
            role, epoch, name, part["expected"], part["events"], part["row"], part["keys"]
        )

    def _write(
        self,
        role: str,
        epoch: int | None,
        name: str,
        expected: int,
        new: list[dict[str, Any]],
        row: dict[str, Any],
        keys: list[str],
    ) -> int:
        build = self.builds.get(name)
        history = build.rows if build else []
        if len(history) != expected:
            raise Raised("DC002", len(history))
        if not new:
            raise Raised("DC004", "no events")
        first = len(self.events) + 1
        previous = history[-1].hash if history else FIRST_HASH
        rows = []
        for number, event in enumerate(new):
            said = {
                name: event[name] for name in ("type", "version", "time", "actor", "data", "hash")
            }
            rows.append(Row(first + number, name, expected + number + 1, **said))
            digest = event_hash(previous, *(getattr(rows[-1], column) for column in HASHED))
            if event["hash"] != digest:
                raise Raised("DC004", f"the hash of event {expected + number + 1} is wrong")
            previous = digest
        kinds = {event["type"] for event in new}
        before = build.row if build else {"state": "", "removed": 0}
        if (
            (row["id"], row["sequence"]) != (name, expected + len(new))
            or any(
                row["state"] == end != before["state"] and by not in kinds
                for end, by in ENDING.items()
            )
            or (row["removed"] == 1 != before["removed"] and "BuildRemoved" not in kinds)
        ):
            raise Raised("DC004", f"the row of build {name} is not that of its events")
        row = {**row, "position": rows[-1].position, "submitted_position": first}
        if build:
            kept = ("submitted_position", "idempotency_key")
            row |= {column: build.row[column] for column in kept}
        elif row["idempotency_key"] is not None:
            for other, each in self.builds.items():
                if each.row["idempotency_key"] == row["idempotency_key"]:
                    raise Raised("DC003", other)
        build = build or Build(row, Owner(0, "", []))
        build.row = row
        for each in rows:
            event = event_of(each)
            plan = getattr(event.data, "plan", None)
            if event.type == "BuildSubmitted" or (
                event.type == "BuildResumed" and plan is not None
            ):
                build.owner.requires = list(event.data.requires)  # type: ignore[attr-defined]
            elif event.type == "MoveRequested":
                build.owner.moves_to = event.data.to  # type: ignore[attr-defined]
            build.rows.append(each)
            build.events.append(event)
            self.events.append(event)
            self.epochs.append((role, epoch))
        build.keys = set() if row["removed"] else build.keys | set(keys)
        self._keep(name, build)
        return first

    def take(self, role: str, name: str, expected: int, placed: str, row: str) -> list[Any]:
        me = self._member(role)
        if name not in self.unfinished:
            raise Raised("DC006", f"build {name} has ended, or does not exist")
        build = self.builds[name]
        if build.row["sequence"] != expected:
            raise Raised("DC002", build.row["sequence"])
        owner = build.owner
        if me.draining and owner.host != me.host:
            raise Raised("DC009", f"{me.host} takes no more builds")
        needed = [each for each in owner.requires if not each.startswith("dcd:")]
        if lacking := [each for each in needed if not _grants(me, each)]:
            raise Raised("DC007", " ".join(lacking))
        (event,) = json.loads(placed)
        said = json.loads(event["data"])
        epoch = owner.epoch + 1 if self.counts_epochs else said["epoch"]
        if (event["type"], said["host"], said["epoch"]) != ("BuildPlaced", me.host, epoch):
            raise Raised("DC004", f"the event does not say that {me.host} takes build {name}")
        position = self._write(role, None, name, expected, [event], json.loads(row), [])
        build.owner = Owner(epoch, me.host, owner.requires)
        self._tell()
        return [(position,)]

    def heartbeat(
        self, role: str, gap: float, labels: list[str], version: str, clock: float
    ) -> list[Any]:
        me, now = self._member(role), self.now()
        if me.seen_at is None or me.seen_at <= now - gap:
            me.unbroken_since = now
        me.announced, me.version, me.seen_at = labels, version, now
        return [(None,)]

    def drain(self, role: str, host: str, draining: bool) -> list[Any]:
        row = self._member(members.role_of(host))
        row.draining, row.drained_at = draining, self.now()
        return [(None,)]

    def _tell(self) -> None:
        for hear in tuple(self.listeners):
            hear()

    def _member(self, role: str) -> MemberRow:
        if role not in self.members:
            raise Raised("DC005", f"{role} is no member of the farm")
        return self.members[role]

    # What is asked of it

    def lost(self, role: str, given: dict[str, float]) -> list[Any]:
        """`lost` of `store.eventlog.postgresql.members`."""
        ago = self.now() - given["seconds"]
        me = self.members.get(role)
        if me is None or me.seen_at is None or me.unbroken_since is None:
            return []
        if not (self.started_at < ago and me.unbroken_since < ago < me.seen_at):
            return []
        owners = {build.owner.host for build in self.unfinished.values() if build.owner.epoch > 0}
        rows = {host: self.members.get(members.role_of(host)) for host in owners}
        seen = {host: row.seen_at for host, row in rows.items() if row is not None}
        silent = [host for host in owners if (at := seen.get(host)) is None or at < ago]
        return [(host,) for host in sorted(silent)]

    def all_members(self, role: str) -> list[members.Member]:
        owned: dict[str, list[str]] = {}
        for name, build in self.unfinished.items():
            owned.setdefault(build.owner.host, []).append(name)
        rows = sorted(self.members.values(), key=lambda each: each.host)
        return [replace(self._shown(each), builds=owned.get(each.host, [])) for each in rows]

    def some_members(self, role: str, given: dict[str, Any]) -> list[Any]:
        """`some_by` of `store.eventlog.postgresql.members`."""
        announcing = {*given["announcing"]}
        if announcing:
            rows = [
                each
                for each in self.members.values()
                if each.host in given["hosts"] or not announcing.isdisjoint(each.announced)
            ]
        else:
            named = (self.members.get(members.role_of(host)) for host in given["hosts"])
            rows = [each for each in named if each is not None]
        return [self._shown(each) for each in sorted(rows, key=lambda each: each.host)]

    def _shown(self, each: MemberRow) -> members.Member:
        now = self.now()
        return members.Member(
            *(each.role, each.host, each.labels, each.announced, each.version, each.draining),
            None if each.seen_at is None else now - each.seen_at,
            0.0 if each.unbroken_since is None else now - each.unbroken_since,
        )

    def placements(self) -> list[members.Placement]:
        return [
            members.Placement(
                *(name, build.row["state"], build.row["priority"]),
                *(build.owner.host, build.owner.epoch, build.owner.requires, build.owner.moves_to),
            )
            for name, build in self.unfinished.items()
        ]

    def kinds(self, role: str) -> list[Any]:
        """The kinds of runnable builds."""
        found: dict[tuple[Any, ...], list[str]] = {}
        for name, build in self.unfinished.items():
            if build.row["state"] in RUNNABLE:
                owner, job = build.owner, self.jobs.of(name, "todo")
                host = owner.host if owner.moves_to == "" else ""
                queue = job and job.queue_name
                found[tuple(owner.requires), owner.moves_to, host, queue] = owner.requires
        return [Kind(requires, *kind[1:]) for kind, requires in found.items()]

    def runnable_one(self, role: str, given: dict[str, Any]) -> list[Any]:
        """What one build looks like to the reconciler, if it is runnable."""
        build = self.unfinished.get(given["build"])
        if build is None or build.row["state"] not in RUNNABLE:
            return []
        return [self._situation(given["build"], build, given["seconds"])]

    def undecided(self, role: str, given: dict[str, Any]) -> list[Any]:
        """The runnable builds about which a member may have to do something."""
        for_lost = {"", *given["lost"]}
        found = []
        for name, build in self.unfinished.items():
            state, host = build.row["state"], build.owner.host
            if state not in RUNNABLE:
                continue
            if host != given["here"]:
                if state != "queued" and host not in for_lost:
                    continue
                job = self.jobs.of(name)
                if job and job.status == "todo" and job.queue_name not in given["misplaced"]:
                    continue
            found.append(self._situation(name, build, given["seconds"]))
        return sorted(found, key=lambda each: -each.priority)

    def _situation(self, name: str, build: Build, seconds: float) -> Situation:
        ago = self.now() - seconds
        job = self.jobs.of(name)
        fetched = job is not None and job.status == "doing"
        beat = self.jobs.workers.get(job.worker_id or 0) if job else None
        owner = build.owner
        return Situation(
            build=name,
            state=build.row["state"],
            host=owner.host,
            epoch=owner.epoch,
            job=job and job.id,
            fetched=fetched,
            worker_lost=fetched and (beat is None or beat < ago) and self.started_at < ago,
            priority=build.row["priority"],
            requires=owner.requires,
            moves_to=owner.moves_to,
            queue=job and job.queue_name,
        )

    def remove_over(self, role: str, given: dict[str, float]) -> list[Any]:
        """Remove the jobs of builds that have ended, except those that a living worker has."""
        ago = self.now() - given["seconds"]
        rows, workers = self.jobs.rows, self.jobs.workers
        for job in tuple(rows.values()):
            if job.lock not in self.unfinished and workers.get(job.worker_id or 0, ago) <= ago:
                del rows[job.id]
        return []

    def read_build(self, role: str, name: str) -> list[Any]:
        build = self.builds.get(name)
        return list(build.rows) if build else []

    def host_of(self, role: str) -> list[Any]:
        return [(each.host,) for each in self.members.values() if each.role == role]

    def origin(self, role: str) -> list[Any]:
        return [("",)]

    def head(self, role: str) -> list[Any]:
        return [(len(self.events),)]

    def mirror(self) -> "Mirror":
        """The same rows in SQLite, for the queries that are asked in SQL."""
        if self._mirror is None:
            self._mirror = Mirror()
        self._mirror.update(self.events, self.builds)
        return self._mirror


@cache
def role_in(dsn: str) -> str:
    """The role that a connection string names."""
    return str(conninfo_to_dict(dsn)["user"])


def _grants(member: MemberRow, label: str) -> bool:
    return label == f"host:{member.host}" or any(
        label == each or (each.endswith(":*") and label.startswith(each[:-1]))
        for each in member.labels
    )


STATEMENTS: dict[str, tuple[Callable[..., list[Any]], bool]] = {
    "SELECT dcd_append_all(%s::json)": (Database.append_all, True),
    "SELECT dcd_take(%s, %s, %s::json, %s::json)": (Database.take, True),
    "SELECT dcd_heartbeat(%s, %s, %s, %s)": (Database.heartbeat, True),
    "SELECT dcd_drain(%s, %s)": (Database.drain, True),
    "SELECT * FROM events WHERE build = %s ORDER BY sequence": (Database.read_build, False),
    "SELECT position FROM head": (Database.head, False),
    "SELECT origin FROM farm": (Database.origin, False),
    f"SET search_path = dcd, {queue.SCHEMA}": (lambda *_: [], False),
    "SELECT host FROM members WHERE role = session_user": (Database.host_of, False),
    members._LOST: (Database.lost, False),
    members._MEMBERS: (Database.all_members, False),
    members._SOME: (Database.some_members, False),
    queue._KINDS: (Database.kinds, False),
    queue._RUNNABLE_ONE: (Database.runnable_one, False),
    queue._UNDECIDED: (Database.undecided, False),
    queue._REMOVE_OVER: (Database.remove_over, True),
}
"""What members ask, what answers, and whether it writes."""


class Connection:
    """A connection of a member, and its own cursor."""

    def __init__(self, database: Database, role: str, line: Line) -> None:
        self._database = database
        self._role = role
        self._breaks = line.breaks

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None: ...

    def close(self) -> None: ...

    def cursor(self, **_: Any) -> "Connection":
        return self

    def execute(self, statement: str, given: Any = ()) -> Rows:
        answer, writes = STATEMENTS[statement]
        parameters = [given] if isinstance(given, dict) else list(given)
        work = partial(answer, self._database, self._role, *parameters)
        rows = Rows(self._database.carry_out(self._role, self._breaks, writes, work))
        self._database.asked[answer.__name__] += len(rows)
        return rows
