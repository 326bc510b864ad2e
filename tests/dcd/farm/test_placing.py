"""Which members may make a build, and what people read when none does."""

from dataclasses import dataclass

import pytest
from procrastinate.manager import get_channel_for_queues

from dcd.farm.census import host_of
from dcd.farm.placing import differing, lacking, queue_name, shown, why_waits
from store.eventlog.postgresql import members


@dataclass(frozen=True)
class Member:
    host: str
    labels: tuple[str, ...]
    announced: tuple[str, ...]
    draining: bool = False
    silent_seconds: float | None = 1.0


def member(host: str, *labels: str, **more: object) -> Member:
    return Member(host, labels, labels, **more)  # type: ignore[arg-type]


A, C = member("a", "amd64", "kvm"), member("c", "arm64")


def test_a_label_counts_when_it_is_granted_and_found() -> None:
    requires = ("amd64", "kvm", "tool:cp")
    there = ("amd64", "kvm", "tool:cp")
    assert lacking(Member("a", ("amd64", "kvm", "tool:*"), there), requires) == []
    assert lacking(Member("a", ("amd64", "tool:*"), there), requires) == ["kvm"]
    assert lacking(Member("a", ("amd64", "kvm", "tool:*"), ("amd64",)), requires) == [
        "kvm",
        "tool:cp",
    ]


def test_everybody_sees_the_labels_that_count_and_no_name_of_a_secret() -> None:
    there = ("amd64", "kvm", "secret:/etc/dcd/secrets/key", "tool:cp")
    assert shown(Member("a", ("amd64", "secret:*", "tool:*"), there)) == ("amd64", "tool:cp")


@pytest.mark.parametrize(
    ("requires", "members", "told"),
    [
        (("arm64", "kvm"), [A, C], "no member has arm64+kvm; a has kvm; c has arm64"),
        (("riscv64",), [A, C], "no member has riscv64"),
        (("amd64", "tool:cp"), [A, C], "no member has tool:cp"),
        (("amd64", "secret:/etc/dcd/secrets/key"), [A, C], "no member has its secrets"),
        (("secret:X", "tool:cp"), [A, C], "no member has tool:cp and its secrets"),
        (("amd64",), [A, C], ""),
        (("arm64",), [A, member("c", "arm64", draining=True)],
         "every member with its labels is away: c is draining"),
        (("arm64",), [A, member("c", "arm64", silent_seconds=500.0)],
         "every member with its labels is away: c is not heard"),
        (("arm64",), [], "no member has arm64"),
        (("amd64", "host:a", "moon", "secret:X"), [A, C],
         "it has files or packages on a, which lacks moon and its secrets"),
        (("amd64", "host:d"), [A, Member("d", ("amd64",), (), silent_seconds=None)],
         "it has files or packages on d, which is not heard"),
    ],
)  # fmt: skip
def test_people_read_why_a_build_waits(
    requires: tuple[str, ...], members: list[Member], told: str
) -> None:
    assert why_waits(requires, members, lost_seconds=120) == told


def test_each_member_has_the_label_of_its_name() -> None:
    assert lacking(A, ["amd64", "host:a"]) == []
    assert lacking(C, ["host:a"]) == ["host:a"]
    assert why_waits(["host:x"], [A, C], lost_seconds=120) == "no member has host:x"


def test_equal_labels_have_one_queue_that_postgresql_can_announce() -> None:
    assert queue_name(["kvm", "amd64"]) == queue_name(("amd64", "kvm")) == "amd64+kvm"
    long = [f"tool:a-tool-with-a-name-{number}" for number in range(30)]
    names = [queue_name(labels) for labels in (long, long[:2], ["ä" * 30], ["x" * 40], ["x" * 41])]
    assert all(len(channel.encode()) <= 63 for channel in get_channel_for_queues(names))
    assert queue_name(long) == queue_name(reversed(long))  # type: ignore[arg-type]
    assert queue_name(long) != queue_name(long[1:])
    assert queue_name([]) == "any"


def test_labels_that_are_granted_and_those_that_are_there_are_compared() -> None:
    there = ("amd64", "kvm", "dcd:0123", "slots:2", "tool:cp", "secret:/etc/dcd/secrets/key")
    assert differing(Member("a", ("amd64", "zfs", "tool:*"), there)) == (("kvm",), ("zfs",))


def test_a_member_that_announces_nonsense_is_shown_without_it() -> None:
    """One of an earlier revision of the database could still say so."""
    plain = ("dcd-a", "a", ["amd64"], ["amd64", "slots:many"], "1", False, 1.0, 9.0, [])
    shown_host = host_of(members.Member(*plain), 120.0, "1")
    assert (shown_host.slots, shown_host.labels) == (None, ("amd64",))
