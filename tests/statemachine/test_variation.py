"""Varied surroundings are bounded: the launcher, which has root, applies them."""

from dataclasses import fields, replace

import pytest

from statemachine.errors import UsageError
from statemachine.variation import REPEATED, Variation, check_variation, described


def test_a_repetition_varies_everything_that_can_be_varied() -> None:
    check_variation(REPEATED)
    assert len(described(REPEATED)) == len(fields(Variation))
    assert described(Variation()) == ()


@pytest.mark.parametrize(
    "change",
    [
        {"time_zone": ":/etc/shadow"},
        {"time_zone": "/etc/localtime"},
        {"host_name": "two words"},
        {"host_name": "a" * 65},
        {"language": "../../x"},
        {"home": "relative"},
        {"home": "/a/../b"},
        {"home": "/a\0b"},
        {"place": "../up"},
        {"place": "a/b"},
        {"processors": -1},
        {"processors": 1 << 20},
        {"later_seconds": -1},
        {"later_seconds": 1 << 40},
    ],
)
def test_other_values_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        check_variation(replace(REPEATED, **change))  # type: ignore[arg-type]
