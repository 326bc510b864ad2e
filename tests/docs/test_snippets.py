"""The XML examples of the pages are valid manifests, and there is one of each element that people write."""

import re
from functools import partial

import pytest

from dcd.manifest.check import check_structure
from dcd.manifest.includes import CapturedFile
from dcd.manifest.objects import BUILTIN
from dcd.manifest.schema import classes_below
from dcd.manifest.source import LIMITS, read
from dcd.planning.element_examples import PAGES, SAMPLES, examples
from dcd.planning.load import load
from dcd.planning.readiness import examine
from tests.docs.conftest import ROOT, Block, blocks
from tests.docs.test_how_to import SNIPPETS, with_snippet

COOKBOOK = [(block, "debian-live.xml") for block in blocks(ROOT / "docs/how-to/cookbook.md", "xml")]
README = [(block, "debian-live.xml") for block in blocks(ROOT / "README.md", "xml")]

ELEMENTS = (
    *("<ssh_key>", "<ssh_key source=", '<sudo nopasswd="true"/>', "<tree source=", "<unit source="),
    *('enable="false"', "<script>", "<script source=", "<pin ", "<dpkg_option ", "<debconf>"),
    *("<profile name=", "when=", "<password file="),
    *('<repository source="', 'type="CustomScript"', '<arglist name="deliver">', 'dhcp="false"'),
)


@pytest.mark.parametrize(
    ("block", "example"), [*README, *COOKBOOK, *SNIPPETS], ids=lambda part: str(part)
)
def test_an_example_is_a_valid_manifest(block: Block, example: str) -> None:
    text = block.text
    if not text.startswith("<dc>"):
        text = with_snippet((ROOT / "examples" / example).read_text(), text)
    check = partial(load, text, "/me/m.xml", examine=partial(examine, allowed=()))
    missing = check().missing
    files = {wanted.path: CapturedFile("0" * 64, 0o644, lambda: b"") for wanted in missing}
    assert check(files=files).canonical


@pytest.mark.parametrize("element", ELEMENTS)
def test_there_is_an_example_of_each_element_that_people_write(element: str) -> None:
    assert any(element in block.text for block, _ in [*README, *COOKBOOK, *SNIPPETS])


def test_the_reference_takes_its_examples_from_pages_that_are_tested() -> None:
    tested = {block.page for block, _ in [*COOKBOOK, *SNIPPETS]}
    assert {f"docs/how-to/{page}.md" for page in PAGES} <= tested


def test_the_reference_has_an_example_of_each_element() -> None:
    assert set(examples()) >= {cls.TAG for cls in classes_below()}


def test_the_sample_of_further_elements_is_valid() -> None:
    text = (ROOT / SAMPLES / "elements_sample.xml").read_text()
    assert list(check_structure(read(text, "m.xml", LIMITS), BUILTIN)) == []
    assert load(text, "/me/m.xml").canonical


def test_the_image_of_the_readme_has_fifteen_lines() -> None:
    (block,) = (block for block, _ in README)
    lines = block.text.strip().splitlines()
    assert len(lines) <= 15
    wanted = ("<name>", "<ssh_key", "address=", "<unit", "<tree", "<script")
    assert all(re.search(re.escape(part), block.text) for part in wanted)
