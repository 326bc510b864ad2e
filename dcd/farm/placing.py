"""Which members may make a build, and why a build waits. Pure.

A member has a label when its administrator granted it and it has found it on its host: `labels` and
`announced` of `Member`. A granted `tool:*` stands for every tool. Each member has the label of its name.
"""

import hashlib
from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import Protocol

from dcd.platform.host_labels import of_code, of_host, of_secret, of_slots, of_tool, public

LONGEST_QUEUE = 40
"""In bytes. Procrastinate announces a job on the channel `procrastinate_queue_v1#QUEUE`; names of channels
have at most 63 (https://www.postgresql.org/docs/current/sql-notify.html)."""


class Labelled(Protocol):
    """What is known of a member (`store.eventlog.postgresql.members.Member`)."""

    @property
    def host(self) -> str: ...
    @property
    def labels(self) -> Sequence[str]: ...
    @property
    def announced(self) -> Sequence[str]: ...
    @property
    def draining(self) -> bool: ...
    @property
    def silent_seconds(self) -> float | None: ...


def queue_name(requires: Collection[str]) -> str:
    """The name of the queue of builds that require these labels: the labels, or their digest where they are
    too long."""
    name = "+".join(sorted(requires)) or "any"
    if len(name.encode()) <= LONGEST_QUEUE:
        return name
    return f"labels:{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def lacking(member: Labelled, requires: Collection[str]) -> list[str]:
    """The labels that a member lacks for a build, sorted. The code of the checkpoints is not among them: who
    takes a build that was planned by other code is decided in `dcd.farm.takers`."""
    return sorted(each for each in requires if not (is_code(each) or _has(member, each)))


def is_code(label: str) -> bool:
    """Whether a label names the code of checkpoints."""
    return label.startswith(of_code(""))


def _has(member: Labelled, label: str) -> bool:
    if label == of_host(member.host):
        return True
    granted = any(
        label == each or (each.endswith(":*") and label.startswith(each[:-1]))
        for each in member.labels
    )
    return granted and label in member.announced


def differing(member: Labelled) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The labels that a member has found and that are not granted, and those that are granted and that it has
    not found. Of tools and secrets there are many, and its own name, code and slots need no grant."""

    def told(labels: Sequence[str]) -> set[str]:
        return {each for each in labels if not (each.endswith(":*") or each.startswith(_UNTOLD))}

    found, granted = told(member.announced), told(member.labels)
    ungranted = sorted(each for each in found if not _has(member, each))
    return tuple(ungranted), tuple(sorted(granted - found))


_UNTOLD = (of_tool(""), of_secret(""), of_host(""), of_code(""), of_slots(""))


def shown(member: Labelled) -> tuple[str, ...]:
    """The labels of a member that everybody may see: not the names of its secrets."""
    return public(each for each in member.announced if _has(member, each))


def is_alive(member: Labelled, lost_seconds: float) -> bool:
    """Whether a member has been heard within `lost_seconds`."""
    return member.silent_seconds is not None and member.silent_seconds < lost_seconds


class Obstacle(StrEnum):
    """Why no member has taken a queued build: none has its labels, those that have them are lost or draining,
    or they drive as many builds as they may."""

    LABELS = "labels"
    AWAY = "away"
    BUSY = "busy"


def obstacle(
    requires: Collection[str], members: Sequence[Labelled], lost_seconds: float
) -> Obstacle:
    """The kind of obstacle of a queued build."""
    able = [each for each in members if not lacking(each, requires)]
    if any(is_alive(each, lost_seconds) and not each.draining for each in able):
        return Obstacle.BUSY
    return Obstacle.AWAY if able else Obstacle.LABELS


def why_waits(requires: Collection[str], members: Sequence[Labelled], lost_seconds: float) -> str:
    """Why no member makes a queued build at present, for people; "" when one may."""
    kind = obstacle(requires, members, lost_seconds)
    if kind is Obstacle.BUSY:
        return ""
    if kind is Obstacle.AWAY:
        states = (
            f"{each.host} {'is draining' if is_alive(each, lost_seconds) else 'is not heard'}"
            for each in members
            if not lacking(each, requires)
        )
        return f"every member with its labels is away: {', '.join(states)}"
    if home := next((each for each in members if of_host(each.host) in requires), None):
        if not is_alive(home, lost_seconds):  # it has not said yet what it has
            return f"it has files or packages on {home.host}, which is not heard"
        return f"it has files or packages on {home.host}, which lacks {_named(lacking(home, requires))}"
    wanted = sorted(each for each in requires if ":" not in each)
    missed = [
        each
        for each in requires
        if not (is_code(each) or any(_has(member, each) for member in members))
    ]
    if missed and not set(missed) & set(wanted):
        return f"no member has {_named(missed)}"
    near = [
        f"{each.host} has {'+'.join(there)}"
        for each in members
        if (there := [label for label in wanted if _has(each, label)])
    ]
    return "; ".join([f"no member has {'+'.join(wanted)}", *near])


def _named(labels: Sequence[str]) -> str:
    """Labels for people, without the names of secrets."""
    known = sorted(public(labels))
    known += ["its secrets"] if len(known) < len(labels) else []
    return " and ".join(known)
