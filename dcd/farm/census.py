"""What a member knows of the farm, for people. Pure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from dcd.engine.hosts import Census, Host, Wait
from dcd.farm.placing import differing, is_alive, obstacle, shown
from dcd.farm.takers import Placed, queue_of, why_queued, why_undriven
from dcd.platform.host_labels import of_code, of_slots, plain
from statemachine.build import WORKING, Lifecycle
from store.eventlog.postgresql.members import Member

CLOCK_SECONDS = 5.0
"""A clock that differs by more from the database's is reported: times of events mislead people then, and
certificates may be refused. Nothing is decided by it."""


class Queued(Placed, Protocol):
    """What is known of an unfinished build (`store.eventlog.postgresql.members.Placement`)."""

    @property
    def build(self) -> str: ...
    @property
    def state(self) -> str: ...


def host_of(member: Member, lost_seconds: float, version: str) -> Host:
    """A member as people see it; `version` is this one's."""
    alive = is_alive(member, lost_seconds)
    slots, code = (_announced(member, of_slots), _announced(member, of_code))
    not_granted, not_found = differing(member)
    return Host(
        member.host,
        _state(member, alive),
        shown(member),
        tuple(member.builds),
        member.version,
        member.silent_seconds,
        member.clock_ahead_seconds,
        tuple(_warnings(member, version)) if alive else (),
        tuple(member.working),
        int(slots) if slots.isdecimal() and len(slots) < 7 else None,
        code,
        not_granted,
        not_found if member.announced else (),
    )


def _state(member: Member, alive: bool) -> str:
    if member.silent_seconds is None:
        return "never seen"
    return "lost" if not alive else "draining" if member.draining else "up"


def _announced(member: Member, of: Callable[[str], str]) -> str:
    """What a member says by a label of this kind; "" when it has not said it."""
    kind = of("")
    found = (each for each in member.announced if each.startswith(kind))
    return next(found, "").removeprefix(kind)


def _warnings(member: Member, version: str) -> Iterable[str]:
    if wrong := clock_trouble(member.clock_ahead_seconds):
        yield wrong
    if member.version != version:
        yield f"it runs dcd {member.version}, and this member {version}: use one version on all"


def clock_trouble(ahead_seconds: float | None) -> str:
    """What is wrong with a clock, for people; "" when it is right or unknown."""
    if ahead_seconds is None or abs(ahead_seconds) <= CLOCK_SECONDS:
        return ""
    side = "ahead of" if ahead_seconds > 0 else "behind"
    return (
        f"its clock is {abs(ahead_seconds):.0f} s {side} the database's: synchronise both with NTP"
    )


def census_of(
    members: Sequence[Member], builds: Iterable[Queued], lost_seconds: float, version: str
) -> Census:
    """What the database says of the farm."""
    known: dict[str, Wait] = {}
    waits = []
    alive = {each.host for each in members if is_alive(each, lost_seconds)}
    for each in builds:
        if each.state in WORKING and each.host not in alive:
            waits.append(_undriven(each, members, lost_seconds))
        if each.state != Lifecycle.QUEUED:
            continue
        queue = queue_of(each)
        if queue not in known:
            known[queue] = Wait(
                "",
                plain(each.requires),
                obstacle(each.requires, members, lost_seconds),
                why_queued(each, members, lost_seconds),
            )
        waits.append(replace(known[queue], build=each.build))
    return Census([host_of(each, lost_seconds, version) for each in members], waits)


def _undriven(build: Queued, members: Sequence[Member], lost_seconds: float) -> Wait:
    why = why_undriven(build, members, lost_seconds, handed_over=False)
    return Wait(
        build.build, plain(build.requires), obstacle(build.requires, members, lost_seconds), why
    )


def aged(census: Census, seconds: float, lost_seconds: float) -> Census:
    """The same so many seconds later, without another question."""
    hosts = [
        each
        if each.silent_seconds is None
        else replace(
            each,
            silent_seconds=each.silent_seconds + seconds,
            state=each.state if each.silent_seconds + seconds < lost_seconds else "lost",
        )
        for each in census.hosts
    ]
    return replace(census, hosts=hosts, age_seconds=seconds)
