"""The table of the members of a farm."""

from typing import Any

import pytest


def host(name: str, **said: Any) -> dict[str, Any]:
    return {
        "host": name,
        "state": "up",
        "labels": ["amd64", "tool:cp"],
        "builds": [],
        "version": "1.0",
        "silent_seconds": 0.5,
        "clock_ahead_seconds": 0.0,
        "warnings": [],
        "working": [],
        "slots": 2,
        "code": "0123456789ab",
        "not_granted": [],
        "not_found": [],
        **said,
    }


@pytest.fixture
def shown(dcctl, daemon):
    """What is printed for these members."""

    def show(*hosts: dict[str, Any]) -> list[str]:
        daemon.answers["GET", "/v1/hosts"] = 200, {"hosts": list(hosts), "waits": []}
        return list(dcctl("hosts").out.splitlines())

    return show


def test_each_member_has_its_state_its_slots_its_labels_and_its_builds(shown) -> None:
    silent = host("c", state="lost", silent_seconds=500.0, builds=["x9"], slots=1)
    new = host(
        "d", state="never seen", silent_seconds=None, slots=None, version="", code="", labels=[]
    )
    assert shown(host("a", working=["k2", "k3"]), silent, new) == [
        "HOST  STATE       HEARD       SLOTS  LABELS  BUILDS",
        "a     up          0.5 s ago   2/2    amd64   k2 k3",
        "c     lost        8m 20s ago  0/1    amd64",
        "d     never seen  never",
    ]


def test_versions_are_shown_when_they_differ(shown) -> None:
    found = shown(host("a"), host("b", code="fedcba987654"))
    assert [line.split()[2:4] for line in found[1:]] == [
        ["1.0", "0123456789ab"],
        ["1.0", "fedcba987654"],
    ]
    assert "DCD" in found[0]


def test_what_is_wrong_with_a_member_and_its_labels_is_below_the_table(shown) -> None:
    found = shown(
        host("a", warnings=["its clock is wrong"]),
        host("b", not_granted=["kvm"], not_found=["zfs"]),
    )
    assert found[3:] == [
        "a: its clock is wrong",
        "b: kvm not granted: dcd farm member add",
        "b: zfs granted, and not found there: dcd doctor",
    ]


def test_a_text_of_another_member_does_nothing_to_the_terminal(shown) -> None:
    out = "\n".join(shown(host("b", warnings=["its clock is 90 s behind\x1b[2J"])))
    assert "b: its clock is 90 s behind" in out
    assert "\x1b" not in out


def test_why_builds_wait_is_said_once_for_each_reason(dcctl, daemon) -> None:
    wait = {"build": "y1", "labels": "kvm", "obstacle": "labels", "reason": "no member has kvm"}
    waits = [wait, wait | {"build": "y2"}, wait | {"obstacle": "busy", "reason": ""}]
    daemon.answers["GET", "/v1/hosts"] = 200, {"hosts": [host("b")], "waits": waits}
    assert "2 builds wait: no member has kvm" in dcctl("hosts").out
