"""What people see of the members, and of the builds that wait for one."""

from dcd.farm.census import census_of, host_of
from store.eventlog.postgresql.members import Member, Placement

LOST_SECONDS = 120.0


def member(host: str, silent_seconds: float | None = 1.0) -> Member:
    return Member(f"dcd-{host}", host, ["amd64"], ["amd64"], "1", False, silent_seconds, 0.0)


def test_a_member_that_was_never_started_is_not_lost() -> None:
    seen = [host_of(member("a", silent), LOST_SECONDS, "1").state for silent in (1.0, 500.0, None)]
    assert seen == ["up", "lost", "never seen"]


def test_a_build_that_works_waits_for_a_member_when_its_own_is_lost() -> None:
    """It was in no list of waiting builds, and nothing said that nobody drove it."""
    builds = [
        Placement(host, state, 0, host, 1, ["amd64"], None)
        for state in ("running", "cancelling", "paused")
        for host in ("a", "b")
    ]
    found = census_of([member("a"), member("b", 500.0)], builds, LOST_SECONDS, "1").waits
    assert [(each.build, each.obstacle, each.reason) for each in found] == [
        ("b", "busy", "its member b is not heard"),
        ("b", "busy", "its member b is not heard"),
    ]
