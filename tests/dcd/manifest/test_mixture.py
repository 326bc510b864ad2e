"""Manifests between two manifests."""

from hypothesis import given
from hypothesis import strategies as st

from dcd.manifest.mixture import mixed

NAMES = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=6)


def manifest(title: str, packages: list[str], checkpoints: list[str], script: str) -> str:
    names = "".join(f"<name>{name}</name>" for name in packages)
    steps = "".join(
        f'<checkpoint name="{name}" mod_path="m" checkpoint_class="{script}"/>'
        for name in checkpoints
    )
    return (
        f'<dc><distro name="d" title="{title}"><software name="s"><software_data>{names}'
        f"</software_data></software><execution>{steps}</execution></distro></dc>"
    )


MANIFESTS = st.builds(manifest, st.sampled_from("xyz"), NAMES, NAMES, st.sampled_from("AB"))


@given(MANIFESTS, MANIFESTS)
def test_no_change_is_the_first_and_all_changes_are_the_second(first: str, second: str) -> None:
    text, edits = mixed(first, second, ())
    assert mixed(first, text, ())[1] == ()
    whole, same = mixed(first, second, range(len(edits)))
    assert same == edits, "the numbers do not depend on what is taken"
    assert mixed(second, whole, ())[1] == ()


@given(MANIFESTS, MANIFESTS, st.data())
def test_what_is_left_are_the_other_changes(first: str, second: str, data) -> None:
    _, edits = mixed(first, second, ())
    take = data.draw(st.sets(st.integers(0, max(len(edits) - 1, 0)), max_size=len(edits)))
    between, _ = mixed(first, second, take)
    _, left = mixed(between, second, ())
    assert len(left) <= len(edits) - len(take)


def test_changes_say_where_they_are_and_what_they_change() -> None:
    before = manifest("old", ["a", "b"], ["one"], "A")
    after = manifest("new", ["b", "c"], ["one"], "B")
    _, edits = mixed(before, after, ())
    assert [(edit.place, edit.before, edit.after) for edit in edits] == [
        ("dc/distro d title", "old", "new"),
        ("dc/distro d/software s/software_data", "<name>a</name>", ""),
        ("dc/distro d/software s/software_data", "", "<name>c</name>"),
        ("dc/distro d/execution/checkpoint one checkpoint_class", "A", "B"),
    ]
