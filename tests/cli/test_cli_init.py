"""The manifests of `dcctl init`: written once, valid, and as short as they say."""

from functools import partial
from pathlib import Path

import pytest

from cli.starters import STARTERS
from dcd.planning.load import load
from dcd.planning.readiness import examine


@pytest.mark.parametrize("kind", STARTERS)
def test_each_starter_is_valid_without_a_warning(dcctl, kind: str) -> None:
    written = dcctl("init", kind).out
    loaded = load(written, "/me/m.xml", examine=partial(examine, allowed=()))
    assert [str(each) for each in loaded.diagnostics] == []
    assert loaded.missing == ()
    assert "<!--" in written
    assert len(written.splitlines()) <= 25


def test_without_a_kind_it_is_a_live_system(dcctl) -> None:
    assert dcctl("init").out == STARTERS["live"]


def test_a_file_is_written_and_never_overwritten(dcctl, tmp_path: Path) -> None:
    path = tmp_path / "image.xml"
    assert f"dcctl build {path}" in dcctl("init", "vm", "-o", str(path)).out
    assert path.read_text() == STARTERS["vm"]
    again = dcctl("init", "live", "-o", str(path))
    assert (again.code, again.out) == (6, "")
    assert f"{path} exists already" in again.err
    assert path.read_text() == STARTERS["vm"]


def test_a_link_to_nothing_is_not_followed(dcctl, tmp_path: Path) -> None:
    (tmp_path / "link.xml").symlink_to(tmp_path / "target.xml")
    assert dcctl("init", "-o", str(tmp_path / "link.xml")).code == 6
    assert not (tmp_path / "target.xml").exists()


def test_a_place_that_cannot_be_written_is_an_error(dcctl, tmp_path: Path) -> None:
    refused = dcctl("init", "-o", str(tmp_path / "no/such/image.xml"))
    assert refused.code == 2
    assert "No such file or directory" in refused.err


def test_a_mistyped_kind_is_a_usage_error(dcctl) -> None:
    refused = dcctl("init", "liev")
    assert refused.code == 2
    assert "did you mean 'live'" in refused.err
