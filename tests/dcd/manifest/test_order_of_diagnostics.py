"""Diagnostics as a list, and the words that they suggest."""

from dcd.manifest.diagnostics import Diagnostic, did_you_mean, in_order


def test_nearest_words() -> None:
    assert did_you_mean("TITLE", ["title", "timeout"]) == "title"
    assert did_you_mean("zzz", ["title"]) is None


def test_diagnostics_are_sorted_and_not_repeated() -> None:
    late = Diagnostic("error", "a", 9, 1, "late")
    early = Diagnostic("error", "a", 2, 1, "early")
    doubt = Diagnostic("warning", "a", 1, 1, "doubt")
    assert in_order([doubt, late, early, late]) == (early, late, doubt)
