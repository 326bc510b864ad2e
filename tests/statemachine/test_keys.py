"""Keys name results: what decides a result changes them, and nothing else does."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statemachine.keys import (
    ROOT,
    chain,
    chain_key,
    changes,
    continued,
    epoch_of,
    kept_prefix,
    with_epoch,
    with_external,
    with_salt,
)
from statemachine.plan import Ingredient, Plan, PlannedCheckpoint

ingredients = st.lists(
    st.builds(Ingredient, line=st.integers(0, 100)),
    min_size=1,
    max_size=4,
    unique_by=lambda part: (part.kind, part.name),
).map(tuple)


def checkpoint(name: str, *parts: Ingredient) -> PlannedCheckpoint:
    return PlannedCheckpoint(name, "", "m", "C", "", parts)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    found = draw(st.lists(ingredients, min_size=1, max_size=5))
    return chain(checkpoint(f"c{index}", *parts) for index, parts in enumerate(found))


def keys(plan: Plan) -> list[str]:
    return [planned.key for planned in plan.checkpoints]


@given(plan=plans(), data=st.data())
def test_any_changed_ingredient_changes_its_key_and_all_later_ones(
    plan: Plan, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(plan.checkpoints) - 1))
    planned = plan.checkpoints[index]
    which = data.draw(st.integers(0, len(planned.ingredients) - 1))
    attribute = data.draw(st.sampled_from(["kind", "name", "digest"]))
    part = planned.ingredients[which]
    changed = replace(part, **{attribute: getattr(part, attribute) + "x"})
    parts = [*planned.ingredients[:which], changed, *planned.ingredients[which + 1 :]]
    new = chain(
        replace(c, ingredients=tuple(parts)) if i == index else c
        for i, c in enumerate(plan.checkpoints)
    )
    assert keys(new)[:index] == keys(plan)[:index]
    assert all(a != b for a, b in zip(keys(new)[index:], keys(plan)[index:], strict=True))
    assert kept_prefix(plan, new) == index


@given(plan=plans(), data=st.data())
def test_nothing_else_changes_a_key(plan: Plan, data: st.DataObject) -> None:
    new = chain(
        replace(
            planned,
            name=planned.name + "-renamed",
            description="another",
            estimate_seconds=1.0,
            network=True,
            tools=("grub",),
            disk_bytes=1,
            ingredients=tuple(
                replace(part, line=part.line + 1)
                for part in data.draw(st.permutations(planned.ingredients))
            ),
        )
        for planned in plan.checkpoints
    )
    assert keys(new) == keys(plan)


def test_arguments_that_swap_their_values_have_another_key() -> None:
    one = [Ingredient("argument", "a", "1"), Ingredient("argument", "b", "2")]
    two = [Ingredient("argument", "a", "2"), Ingredient("argument", "b", "1")]
    assert chain_key(ROOT, one) != chain_key(ROOT, two)


def test_keys_never_change_between_versions() -> None:
    """Layers exist under them."""
    parts = [Ingredient("code", "m", "2"), Ingredient("argument", "a", "1")]
    text = json.dumps(
        ["dcd-key-1", "prev", [["argument", "a", "1"], ["code", "m", "2"]]],
        separators=(",", ":"),
    )
    assert chain_key("prev", parts) == hashlib.sha256(text.encode()).hexdigest()


def test_external_state_changes_the_keys_from_its_checkpoint_on() -> None:
    repository = Ingredient("external", "bookworm", "old", line=7)
    code = Ingredient("code", "c", "1")
    plan = chain([checkpoint("a", code), checkpoint("b", code, repository), checkpoint("c", code)])
    new = with_external(plan, 1, {"bookworm": "new", "backports": "1"})
    assert kept_prefix(plan, new) == 1
    assert len(set(keys(plan)) | set(keys(new))) == 5
    assert new.checkpoints[1].ingredients == (
        code,
        Ingredient("external", "backports", "1"),
        Ingredient("external", "bookworm", "new", line=7),
    )
    assert with_external(new, 1, {"bookworm": "old"}) == plan


def test_external_state_as_planned_leaves_the_plan_alone(
    make_plan: Callable[..., Plan],
) -> None:
    plan = make_plan("a", "b", repo_b="1")
    assert with_external(plan, 1, {"bookworm": "1"}) is plan
    assert with_external(plan, 0, {}) is plan


def test_the_time_of_a_build_is_in_all_of_its_keys_and_an_old_plan_has_none(
    make_plan: Callable[..., Plan],
) -> None:
    plan = make_plan("a", "b")
    assert epoch_of(plan) is None
    assert with_epoch(plan, None) == plan
    dated = with_epoch(plan, 1700000000, line=2)
    assert epoch_of(dated) == 1700000000
    assert not set(keys(dated)) & set(keys(plan))
    assert with_epoch(dated, 1700000000, line=9).checkpoints[1] == dated.checkpoints[1]
    assert kept_prefix(dated, with_epoch(dated, 1700000001)) == 0
    assert with_epoch(dated, None) == plan
    assert epoch_of(with_salt(with_external(dated, 0, {"sid": "1"}), 0, "s")) == 1700000000
    assert changes(dated.checkpoints[0], with_epoch(dated, 1700003600).checkpoints[0]) == [
        "the time of the build changed (it was 2023-11-14T22:13:20Z, it is 2023-11-14T23:13:20Z)"
    ]


def test_salt_declines_what_was_made_before(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("a", "b", "c")
    salted = with_salt(plan, 1, "1")
    assert kept_prefix(plan, salted) == 1
    assert len(set(keys(plan)) | set(keys(salted))) == 5
    assert changes(plan.checkpoints[1], salted.checkpoints[1]) == ["earlier results are declined"]
    again = with_salt(salted, 1, "2")
    assert kept_prefix(salted, again) == 1
    assert len(again.checkpoints[1].ingredients) == len(salted.checkpoints[1].ingredients)


def test_a_new_plan_declines_what_the_old_one_did(make_plan: Callable[..., Plan]) -> None:
    salted = with_salt(make_plan("a", "b", "c"), 1, "1")
    assert continued(make_plan("a", "b", "c"), salted, 0) == salted
    assert kept_prefix(salted, continued(make_plan("a", "b", "d"), salted, 0)) == 3
    assert continued(make_plan("x"), salted, 0) == make_plan("x")


def test_result_that_is_there_does_not_go_stale_when_a_repository_moves_on() -> None:
    def plan(state: str, argument: str = "1") -> Plan:
        return chain(
            [
                checkpoint(
                    "transfer",
                    Ingredient("argument", "x", argument),
                    Ingredient("external", "sid", state),
                ),
                checkpoint("next", Ingredient("argument", "y", "1")),
            ]
        )

    assert continued(plan("moved"), plan("found"), completed=1) == plan("found")
    assert continued(plan("moved"), plan("found"), completed=0) == plan("moved")
    assert continued(plan("moved", "2"), plan("found"), completed=1) == plan("moved", "2")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (None, Ingredient("class", "c", "1"), "it is new"),
        (("class", "c", "1", 0), ("class", "c", "2", 0), "its class changed"),
        (("version", "", "1", 0), ("version", "", "2", 0), "its version changed"),
        (("code", "m", "1", 0), ("code", "m", "2", 0), "its own code changed"),
        (("argument", "locale", "1", 0), ("argument", "locale", "2", 0), "argument locale changed"),
        (
            ("manifest", "software", "1", 38),
            ("manifest", "software", "2", 41),
            "software/a changed at line 41",
        ),
        (
            ("manifest", "configuration 2", "1", 38),
            ("manifest", "configuration 2", "2", 41),
            "configuration/a 2 changed at line 41",
        ),
        (
            ("manifest", "boot_mods", "1", 38),
            ("manifest", "boot_mods", "2", 41),
            "boot_mods changed at line 41",
        ),
        (("input", "motd", "1", 3), ("input", "motd", "2", 3), "file motd changed at line 3"),
        (("external", "sid", "1", 0), ("external", "sid", "2", 0), "repository sid changed"),
        (
            ("external", "GRUB of the host", f"{'a' * 64} grub-common 2.06-1", 0),
            ("external", "GRUB of the host", f"{'b' * 64} grub-common 2.06-2", 0),
            "GRUB of the host changed (it was grub-common 2.06-1, it is grub-common 2.06-2)",
        ),
        (
            ("external", "GRUB of the host", f"{'a' * 64} grub-common 2.06-1", 7),
            ("external", "GRUB of the host", f"{'b' * 64} grub-common 2.06-1", 7),
            "GRUB of the host changed",
        ),
        (
            ("external", "architecture of the host", "amd64", 0),
            ("external", "architecture of the host", "arm64", 0),
            "architecture of the host changed (it was amd64, it is arm64)",
        ),
        (
            ("external", "interpreter /bin/sh", "a", 0),
            ("external", "interpreter /bin/sh", "b", 0),
            "interpreter /bin/sh changed",
        ),
        (
            ("external", "%{//distro.name}", "a", 4),
            ("external", "%{//distro.name}", "b", 4),
            "the output of %{//distro.name} changed at line 4",
        ),
    ],
)
def test_changes_are_explained(
    old: tuple[str, str, str, int] | None, new: tuple[str, str, str, int], reason: str
) -> None:
    if old is None:
        (now,) = chain([checkpoint("a")]).checkpoints
        assert changes(None, now) == [reason]
        return
    (before,) = chain([checkpoint("a", Ingredient(*old))]).checkpoints
    (after,) = chain([checkpoint("a", Ingredient(*new))]).checkpoints
    assert changes(before, after) == [reason]
    assert changes(before, before) == []


def test_added_and_removed_ingredients_are_told_apart() -> None:
    (before,) = chain([checkpoint("a", Ingredient("argument", "x", "1", 5))]).checkpoints
    (after,) = chain([checkpoint("a", Ingredient("argument", "y", "1", 6))]).checkpoints
    assert changes(before, after) == ["argument y is new at line 6", "argument x is gone"]


def test_a_checkpoint_that_only_follows_a_changed_one_says_so(
    make_plan: Callable[..., Plan],
) -> None:
    old, new = make_plan("a", "b"), make_plan("a", "b", a="2")
    assert changes(old.checkpoints[1], new.checkpoints[1]) == ["an earlier checkpoint changed"]


def node(number: int, holds: str, line: int = 0) -> Ingredient:
    return Ingredient("manifest", f"configuration {number}", holds, line)


def changed(old: list[Ingredient], new: list[Ingredient]) -> list[str]:
    (before,) = chain([checkpoint("a", *old)]).checkpoints
    (after,) = chain([checkpoint("a", *new)]).checkpoints
    return changes(before, after)


def test_a_node_before_others_does_not_change_them() -> None:
    """They are numbered by their place, which is no reason for people."""
    old = [node(1, "x", 10), node(2, "y", 20)]
    new = [node(1, "new", 5), node(2, "x", 15), node(3, "y", 25)]
    assert changed(old, new) == ["configuration/a 1 is new at line 5"]
    assert changed(new, old) == ["configuration/a 1 is gone"]


def test_of_several_nodes_the_changed_one_is_named() -> None:
    old = [node(1, "x", 10), node(2, "y", 20), node(3, "z", 30)]
    new = [node(1, "y", 10), node(2, "other", 20), node(3, "z", 30)]
    assert changed(old, new) == ["configuration/a 2 changed at line 20"]


def test_nodes_that_change_places_say_so() -> None:
    assert changed([node(1, "x"), node(2, "y")], [node(1, "y"), node(2, "x")]) == [
        "the order of configuration changed"
    ]
