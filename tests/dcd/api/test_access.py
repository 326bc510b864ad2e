"""Roles: who may do what, and the words in which the others hear that they may not."""

import grp
import os
import pwd
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcd.api.access import Action, Role, require, require_readable, roles
from dcd.configuration import Configuration
from statemachine.errors import PermissionDenied
from statemachine.events import Actor

NOBODY = Configuration(observe=(), submit=(), operate=(), administer=(), host_code=())
ALICE = Actor(uid=70001, gid=70001, pid=5, user="alice")
BOB = Actor(uid=70002, gid=70002, pid=6, user="bob")


def may(
    configuration: Configuration, actor: Actor, action: Action, owner: int | None = None
) -> bool:
    try:
        require(configuration, actor, action, owner=owner)
    except PermissionDenied:
        return False
    return True


def test_root_the_daemons_user_and_the_daemon_may_do_everything() -> None:
    for actor in (
        Actor(),
        Actor(uid=0, gid=0, user="root"),
        Actor(uid=os.geteuid(), gid=9, user="x"),
    ):
        assert all(may(NOBODY, actor, action) for action in Action)


def test_others_may_do_nothing_until_they_are_named() -> None:
    assert not any(may(NOBODY, ALICE, action, owner=ALICE.uid) for action in Action)


@pytest.mark.parametrize(
    ("role", "allowed"),
    [
        (Role.OBSERVE, {Action.SEE}),
        (Role.SUBMIT, {Action.SEE, Action.SUBMIT}),
        (Role.OPERATE, {Action.SEE, Action.SUBMIT, Action.CONTROL}),
        (Role.ADMINISTER, {Action.SEE, Action.SUBMIT, Action.CONTROL, Action.ADMINISTER}),
        (Role.HOST_CODE, {Action.RUN_HOST_CODE}),
    ],
)
def test_a_role_allows_what_it_says_and_what_it_includes(role: Role, allowed: set[Action]) -> None:
    configuration = replace(NOBODY, **{role.value: ("alice",)})
    assert {a for a in Action if may(configuration, ALICE, a, owner=BOB.uid)} == allowed
    assert not any(may(configuration, BOB, action) for action in Action)


def test_ones_own_build_needs_no_more_than_the_role_that_submitted_it() -> None:
    configuration = replace(NOBODY, submit=("alice", "bob"))
    assert may(configuration, ALICE, Action.CONTROL, owner=ALICE.uid)
    assert not may(configuration, ALICE, Action.CONTROL, owner=BOB.uid)
    assert not may(configuration, ALICE, Action.CONTROL, owner=None)


def test_who_lost_the_role_cannot_control_ones_builds_any_more() -> None:
    assert not may(replace(NOBODY, observe=("alice",)), ALICE, Action.CONTROL, owner=ALICE.uid)


def test_a_group_counts_by_the_connection_and_by_the_user_database() -> None:
    group = grp.getgrall()[-1]
    configuration = replace(NOBODY, submit=(f"@{group.gr_name}", "@no-such-group"))
    assert may(configuration, replace(ALICE, gid=group.gr_gid), Action.SUBMIT)
    assert not may(configuration, replace(ALICE, gid=70001), Action.SUBMIT)


@pytest.mark.root
def test_a_second_group_counts_by_the_user_database(own_mounts: None, tmp_path: Path) -> None:
    member = pwd.getpwnam("daemon")
    actor = Actor(uid=member.pw_uid, gid=member.pw_gid, user=member.pw_name)
    configuration = replace(NOBODY, submit=("@dcd-test-builders",))
    assert not may(configuration, actor, Action.SUBMIT)
    groups = tmp_path / "group"
    entry = f"dcd-test-builders:x:70003:{member.pw_name}\n"
    groups.write_text(Path("/etc/group").read_text() + entry)
    subprocess.run(["mount", "--bind", groups, "/etc/group"], check=True)
    try:
        assert may(configuration, actor, Action.SUBMIT)
    finally:
        subprocess.run(["umount", "/etc/group"], check=True)


def test_a_group_is_not_a_user_of_the_same_name() -> None:
    name = grp.getgrgid(os.getgid()).gr_name
    assert not may(replace(NOBODY, submit=(name,)), replace(ALICE, gid=os.getgid()), Action.SUBMIT)
    assert not may(replace(NOBODY, submit=("@alice",)), ALICE, Action.SUBMIT)


def test_the_refusal_says_what_is_missing_and_who_can_give_it() -> None:
    with pytest.raises(PermissionDenied) as raised:
        require(replace(NOBODY, submit=("alice",)), ALICE, Action.CONTROL, owner=BOB.uid)
    error = raised.value
    assert (
        error.brief == "alice (uid 70001) may not pause, resume, move, cancel or remove this build"
    )
    assert error.details == "this needs operate; alice has observe, submit"
    assert "to `operate` in the daemon's configuration" in error.resolution


named = st.lists(st.sampled_from(["alice", "bob", "@no-such-group"])).map(tuple)


@given(named, named, named, named, named)
def test_roles_include_each_other_and_the_right_to_host_code_is_never_implied(
    observe: tuple[str, ...],
    submit: tuple[str, ...],
    operate: tuple[str, ...],
    administer: tuple[str, ...],
    host_code: tuple[str, ...],
) -> None:
    configuration = Configuration(
        observe=observe, submit=submit, operate=operate, administer=administer, host_code=host_code
    )
    held = roles(configuration, ALICE)
    ladder = [
        Role.ADMINISTER in held,
        Role.OPERATE in held,
        Role.SUBMIT in held,
        Role.OBSERVE in held,
    ]
    assert ladder == sorted(ladder)
    assert (Role.HOST_CODE in held) == ("alice" in host_code)


@pytest.mark.root
def test_artifacts_are_read_by_their_submitter_and_their_files_group(tmp_path: Path) -> None:
    file = tmp_path / "live.iso"
    file.write_text("")
    os.chown(file, 0, 70009)

    def reads(actor: Actor) -> bool:
        try:
            require_readable(actor, file, owner=ALICE.uid)
        except PermissionDenied as refused:
            assert "70009" in refused.details
            return False
        return True

    assert reads(ALICE)
    assert reads(replace(BOB, gid=70009))
    assert reads(Actor(uid=0, gid=0, user="root"))
    assert not reads(BOB)
