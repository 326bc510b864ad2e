"""Which of the members that have its labels are to take a build. Pure.

Labels say who can make a build. Two things more say who should: the goal of a move, and the code of the
checkpoints that planned the build, since other code gives it other keys. Both count only as long as a member
is there that fulfils them: a build never waits for one that is gone. Any member drives it rightly, with the
keys of its own code (`dcd.planning.labels.with_code`).
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from dcd.farm.placing import Labelled, is_alive, is_code, lacking, queue_name, why_waits
from dcd.platform.host_labels import of_host, of_secret

Member = TypeVar("Member", bound=Labelled)


class Placed(Protocol):
    """What is known of a build: the fields of `statemachine.build.BuildState`."""

    @property
    def host(self) -> str: ...
    @property
    def requires(self) -> Sequence[str]: ...
    @property
    def moves_to(self) -> str | None: ...


def queue_of(build: Placed) -> str:
    """The name of the queue of a build: all builds in it have the same takers."""
    if build.moves_to is None:
        return queue_name(build.requires)
    goal = of_host(build.moves_to) if build.moves_to else f"not-{of_host(build.host)}"
    return queue_name({*build.requires, goal})


def takers(build: Placed, members: Sequence[Member], lost_seconds: float) -> list[Member]:
    """The members that are to take a build. One that has not been heard for `lost_seconds` is gone."""
    return _with_code(build, _at_goal(build, _able(build, members, lost_seconds)))


@dataclass(frozen=True, slots=True)
class Rivals:
    """The other members that one has to know to decide whether it is to take builds: these `hosts`, those
    that announce one of the labels `announcing`, or `everybody`."""

    hosts: frozenset[str]
    announcing: frozenset[str]
    everybody: bool

    def __bool__(self) -> bool:
        return bool(self.hosts or self.announcing or self.everybody)


def rivals(builds: Iterable[Placed], here: str, announced: Collection[str]) -> Rivals:
    """Whom the member `here`, which announces these labels, has to know: mostly nobody. `takers` has it
    among them and itself when it has it among all members."""
    given = list(builds)
    goals = {each.moves_to for each in given if each.moves_to}
    code = {label for each in given for label in each.requires if is_code(label)}
    leaves = any(each.moves_to == "" and each.host == here for each in given)
    return Rivals(frozenset(goals - {here}), frozenset(code - {*announced}), leaves)


def why_queued(build: Placed, members: Sequence[Labelled], lost_seconds: float) -> str:
    """Why no member, or only some of them, make a queued build at present, for people; "" when any may."""
    if why := why_waits(build.requires, members, lost_seconds):
        return why
    able = _at_goal(build, _able(build, members, lost_seconds))
    like = _with_code(build, able)
    if like == able:
        return ""
    return f"only {' and '.join(each.host for each in like)} has the code of dcd that planned it"


def why_undriven(
    build: Placed, members: Sequence[Labelled], lost_seconds: float, *, handed_over: bool
) -> str:
    """Why nobody drives a build at present that works, for people; "" when its member does. With
    `handed_over` a draining member does not."""
    owner = next((each for each in members if each.host == build.host), None)
    if owner is None:
        what = "is no member any more"
    elif not is_alive(owner, lost_seconds):
        what = "is not heard"
    elif owner.draining and handed_over:
        what = "is draining"
    else:
        return ""
    others = why_queued(build, members, lost_seconds)
    return f"its member {build.host} {what}" + (f"; {others}" if others else "")


def why_not_moved(build: Placed, to: str, members: Sequence[Labelled], lost_seconds: float) -> str:
    """Why a build cannot move to the member `to`, or to any other than its own (""), for people; "" when it
    can. `to` is one of the members."""
    if not to:
        others = [each for each in members if each.host != build.host]
        return why_waits(build.requires, others, lost_seconds)
    goal = next(each for each in members if each.host == to)
    if lacks := lacking(goal, build.requires):
        return f"{to} lacks {' and '.join(_public(lacks))}"
    if not is_alive(goal, lost_seconds):
        return f"{to} is not heard"
    return f"{to} is draining" if goal.draining else ""


def _public(labels: Collection[str]) -> list[str]:
    """Labels without names of secrets."""
    secret = of_secret("")
    return sorted({"a secret" if each.startswith(secret) else each for each in labels})


def _able(build: Placed, members: Sequence[Member], lost_seconds: float) -> list[Member]:
    return [
        each
        for each in members
        if is_alive(each, lost_seconds) and not each.draining and not lacking(each, build.requires)
    ]


def _at_goal(build: Placed, able: list[Member]) -> list[Member]:
    match build.moves_to:
        case None:
            return able
        case "":
            return [each for each in able if each.host != build.host] or able
    return [each for each in able if each.host == build.moves_to] or able


def _with_code(build: Placed, able: list[Member]) -> list[Member]:
    code = {label for label in build.requires if is_code(label)}
    return [each for each in able if code <= {*each.announced}] or able
