"""Versions that repositories offer, compared with those of a lock, which may be any text."""

import pytest

from dcd.platform.apt_offers import is_newer


def test_versions_are_compared_as_dpkg_does() -> None:
    assert is_newer("1.10", "1.9")
    assert not is_newer("1.9", "1.9")
    assert not is_newer("1.0~rc1", "1.0")


@pytest.mark.parametrize("text", ["", "\0", "--help", "1\n2", "1 2"])
def test_what_is_no_version_is_given_to_no_program(text: str) -> None:
    assert is_newer("1.0", text)
