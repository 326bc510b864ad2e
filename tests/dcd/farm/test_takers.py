"""Who is to take a build among those that can, and that no build waits for a member that is gone."""

import random
from dataclasses import dataclass

import pytest

from dcd.farm.jobs import Next, Situation, next_for
from dcd.farm.placing import queue_name
from dcd.farm.takers import queue_of, rivals, takers, why_not_moved, why_queued, why_undriven

LOST_SECONDS = 120.0


@dataclass(frozen=True)
class Member:
    host: str
    labels: tuple[str, ...] = ("amd64",)
    announced: tuple[str, ...] = ("amd64", "dcd:old")
    draining: bool = False
    silent_seconds: float | None = 1.0


@dataclass(frozen=True)
class Build:
    moves_to: str | None = None
    host: str = "a"
    requires: tuple[str, ...] = ("amd64", "dcd:old")


A, B, C = Member("a"), Member("b"), Member("c")
NEW = ("amd64", "dcd:new")


def gone(member: Member) -> Member:
    return Member(member.host, member.labels, member.announced, silent_seconds=500.0)


def draining(member: Member) -> Member:
    return Member(member.host, member.labels, member.announced, draining=True)


def upgraded(member: Member) -> Member:
    return Member(member.host, member.labels, NEW)


def hosts(build: Build, *members: Member) -> list[str]:
    return [each.host for each in takers(build, members, LOST_SECONDS)]


def test_a_build_goes_to_whoever_has_its_labels() -> None:
    other = Member("d", ("arm64",), ("arm64", "dcd:old"))
    assert hosts(Build(), A, B, other) == ["a", "b"]


def test_a_move_goes_to_its_goal_or_away_from_its_member() -> None:
    assert hosts(Build("c"), A, B, C) == ["c"]
    assert hosts(Build(""), A, B, C) == ["b", "c"]


@pytest.mark.parametrize("away", [gone, draining])
def test_a_move_never_waits_for_a_member_that_is_away(away) -> None:
    assert hosts(Build("c"), A, B, away(C)) == ["a", "b"]
    assert hosts(Build(""), A, away(B), away(C)) == ["a"]


def test_the_code_that_planned_a_build_makes_it_as_long_as_a_member_has_it() -> None:
    """An upgrade, member by member."""
    assert hosts(Build(), A, B, C) == ["a", "b", "c"]
    assert hosts(Build(), upgraded(A), B, C) == ["b", "c"]
    assert hosts(Build(), upgraded(A), upgraded(B), C) == ["c"]
    assert hosts(Build(), upgraded(A), upgraded(B), draining(C)) == ["a", "b"]
    assert hosts(Build(), upgraded(A), upgraded(B), gone(C)) == ["a", "b"]
    assert hosts(Build(), upgraded(A), upgraded(B), upgraded(C)) == ["a", "b", "c"]


def test_a_person_decides_against_the_code() -> None:
    assert hosts(Build("a", host="c"), upgraded(A), B, C) == ["a"]
    assert hosts(Build("", host="c"), upgraded(A), C) == ["a"]


def test_labels_count_whatever_is_asked() -> None:
    other = Member("d", ("arm64",), ("arm64", "dcd:old"))
    assert hosts(Build("d"), A, other) == ["a"]
    assert hosts(Build(), other) == []


def test_builds_of_one_queue_have_the_same_takers() -> None:
    assert queue_of(Build()) == queue_name(Build().requires)
    names = {queue_of(build) for build in (Build(), Build("c"), Build(""), Build("", host="b"))}
    assert len(names) == 4
    assert queue_of(Build("c", host="b")) == queue_of(Build("c"))


def test_a_job_in_the_queue_of_others_is_made_again() -> None:
    def then(state: str, moves_to: str | None, queue: str, *, fetched: bool = False) -> Next:
        found = Situation("x", state, "a", 1, 1, fetched, moves_to=moves_to, queue=queue)
        return next_for(found, "b", [], [])

    assert then("queued", None, "any") is Next.NOTHING
    assert then("queued", "c", "any") is Next.MAKE_JOB
    assert then("queued", "c", "host:c") is Next.NOTHING
    assert then("queued", "c", "any", fetched=True) is Next.NOTHING, "its worker finds out"
    assert then("running", "c", "any") is Next.NOTHING, "its owner does it"


def test_an_owner_that_is_to_lose_a_build_does_not_continue_it() -> None:
    left = Situation("x", "running", "a", 1, moves_to="c")
    assert next_for(left, "a", [], [], keeps=False) is Next.MAKE_JOB


def test_a_member_that_knows_its_rivals_decides_as_if_it_knew_everybody() -> None:
    chance = random.Random(0)
    for _ in range(3000):
        members = [
            Member(
                host,
                chance.choice((("amd64",), ("arm64",))),
                ("amd64", "arm64", chance.choice(("dcd:old", "dcd:new"))),
                chance.random() < 0.2,
                chance.choice((1.0, 1.0, 500.0, None)),
            )
            for host in "abcd"
        ]
        goal, owner = chance.choice((None, None, "", *"abcdx")), chance.choice(("", *"abcd"))
        build = Build(goal, owner, chance.choice((("amd64", "dcd:old"), ("arm64", "dcd:new"))))
        me, *others = members
        found = rivals([build], me.host, me.announced)
        known = [
            each
            for each in others
            if found.everybody
            or each.host in found.hosts
            or not found.announcing.isdisjoint(each.announced)
        ]
        everything = me in takers(build, members, LOST_SECONDS)
        assert (me in takers(build, [me, *known], LOST_SECONDS)) is everything, (build, members)


def test_a_member_knows_nobody_for_builds_of_its_own_code_that_do_not_move() -> None:
    assert not rivals([Build(), Build("a"), Build("", host="b")], "a", A.announced)


def test_people_read_why_only_some_members_take_a_build() -> None:
    assert why_queued(Build(), [A, B], LOST_SECONDS) == ""
    told = "only a has the code of dcd that planned it"
    assert why_queued(Build(), [A, upgraded(B)], LOST_SECONDS) == told
    assert why_queued(Build(), [upgraded(A), upgraded(B)], LOST_SECONDS) == ""
    arm = Build(requires=("arm64", "dcd:none"))
    assert why_queued(arm, [A, B], LOST_SECONDS) == "no member has arm64"


@pytest.mark.parametrize(
    ("to", "members", "told"),
    [
        ("b", [A, B], ""),
        ("b", [A, upgraded(B)], ""),
        ("", [A, B], ""),
        ("", [A], "no member has amd64"),
        ("", [A, gone(B)], "every member with its labels is away: b is not heard"),
        ("b", [A, gone(B)], "b is not heard"),
        ("b", [A, draining(B)], "b is draining"),
        ("b", [A, Member("b", ("arm64",), ("arm64",))], "b lacks amd64"),
    ],
)
def test_people_read_why_a_build_cannot_move(to: str, members: list[Member], told: str) -> None:
    assert why_not_moved(Build(), to, members, LOST_SECONDS) == told


def test_nobody_learns_the_name_of_a_secret_by_a_move() -> None:
    build = Build(requires=("amd64", "secret:/etc/dcd/secrets/key"))
    assert why_not_moved(build, "b", [A, B], LOST_SECONDS) == "b lacks a secret"


@pytest.mark.parametrize(
    ("members", "handed_over", "why"),
    [
        ([A, B], True, ""),
        ([gone(A), B], False, "its member a is not heard"),
        ([draining(A), B], True, "its member a is draining"),
        ([draining(A), B], False, ""),  # its checkpoint runs
        ([draining(A)], True,
         "its member a is draining; every member with its labels is away: a is draining"),
        ([B], False, "its member a is no member any more"),
    ],
)  # fmt: skip
def test_a_build_that_nobody_drives_says_why(
    members: list[Member], handed_over: bool, why: str
) -> None:
    """It showed that it works, and nothing else."""
    assert why_undriven(Build(), members, LOST_SECONDS, handed_over=handed_over) == why
