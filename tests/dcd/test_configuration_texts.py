"""What is written from the table of settings: current, complete, and valid in its own format."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dcd.configuration import SETTINGS, Configuration, load
from dcd.configuration.describe import MANUAL_EXAMPLE, example, manual, reference

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "configuration.md"


def test_the_committed_reference_is_current() -> None:
    assert PAGE.read_text() == reference(), (
        "python -m dcd.configuration.describe reference >docs/reference/configuration.md"
    )


def test_the_example_file_changes_nothing_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "dcd.toml"
    path.write_text(example())
    effective = load(path, environment={})
    assert (effective.configuration, effective.origins) == (Configuration(), {})


def test_every_default_in_the_example_file_is_the_real_default(tmp_path: Path) -> None:
    path = tmp_path / "dcd.toml"
    path.write_text(re.sub(r"^#(?=\w+ = )", "", example(), flags=re.MULTILINE))
    effective = load(path, environment={})
    assert effective.configuration == Configuration()
    assert set(effective.origins) == set(SETTINGS)


def test_every_example_of_a_value_is_valid(tmp_path: Path) -> None:
    text = re.sub(r"^# for example: (.*)\n#(\w+) = .*", r"\2 = \1", example(), flags=re.MULTILINE)
    path = tmp_path / "dcd.toml"
    path.write_text(text)
    shown = load(path, environment={}).origins
    assert {"include_map", "host_code"} <= set(shown)


def test_the_example_of_the_manual_page_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "dcd.toml"
    path.write_text(MANUAL_EXAMPLE)
    assert {"max_running_builds", "notify"} <= set(load(path, environment={}).origins)


def test_every_setting_is_in_the_reference_and_the_manual_page() -> None:
    for name in SETTINGS:
        assert f"## `{name}`\n" in reference()
        assert f"\n.B {name}\n" in manual()


def test_the_manual_page_is_clean_roff() -> None:
    if not shutil.which("groff"):
        pytest.skip("groff is not installed")
    result = subprocess.run(
        ["groff", "-man", "-ww", "-z"],
        input=manual(),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert result.stderr == ""
