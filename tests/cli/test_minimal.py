"""The smallest set of changes that makes a test fail."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from cli.minimal import BAD, GOOD, UNRESOLVED, minimal


@given(
    st.integers(1, 40).flatmap(
        lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), min_size=1))
    )
)
def test_exactly_the_changes_that_are_needed_are_found(case: tuple[int, set[int]]) -> None:
    number, cause = case

    def test(chosen: Sequence[int]) -> str:
        return BAD if cause <= set(chosen) else GOOD

    assert minimal(range(number), test) == sorted(cause)


@given(st.integers(2, 16), st.data())
def test_no_change_can_be_left_out_although_some_have_no_result_alone(number: int, data) -> None:
    cause = data.draw(st.sets(st.integers(0, number - 1), min_size=1))
    pairs = data.draw(st.lists(st.tuples(st.integers(0, number - 1), st.integers(0, number - 1))))

    def test(chosen: Sequence[int]) -> str:
        have = set(chosen)
        if any((a in have) != (b in have) for a, b in pairs):
            return UNRESOLVED  # these two belong together
        return BAD if cause <= have else GOOD

    found = minimal(range(number), test)
    assert test(found) == BAD
    assert all(test([other for other in found if other != one]) != BAD for one in found)


def test_nothing_is_tested_twice_and_one_cause_takes_few_tests() -> None:
    asked: list[tuple[int, ...]] = []

    def test(chosen: Sequence[int]) -> str:
        asked.append(tuple(chosen))
        return BAD if 700 in chosen else GOOD

    assert minimal(range(1024), test) == [700]
    assert len(asked) == len(set(asked)) <= 20
