"""An example of each element for the reference: the use that shows most, of those that tests load.

They are in the manifests of examples/ and of the pages of how-to, else in the samples of the original's
vocabulary.
"""

import re
from functools import cache
from pathlib import Path

from lxml import etree

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    *("cookbook", "write-a-manifest", "disks", "secure-boot", "build-a-virtual-machine-image"),
    *("netboot", "install-through-iscsi"),
)
"""Those of docs/how-to whose XML the tests load."""

SAMPLES = "tests/data/cud/manifest"

_PAGE = "page"

MOST_LINES = 10
"""The longest example; larger elements are shown by those in them."""


@cache
def examples() -> dict[str, str]:
    """By tag, the XML of an example, for elements of which there is a short one."""
    own = [path.read_bytes() for path in sorted((ROOT / "examples").glob("*.xml"))]
    for page in PAGES:
        shown = (ROOT / "docs/how-to" / f"{page}.md").read_text()
        # A block may have several elements.
        own += [
            f"<{_PAGE}>{block}</{_PAGE}>".encode()
            for block in re.findall(r"^ *```xml\n(.*?)^ *```", shown, re.M | re.S)
        ]
    original = [path.read_bytes() for path in sorted((ROOT / SAMPLES).glob("*.xml"))]
    return _best(original) | _best(own)


def _best(texts: list[bytes]) -> dict[str, str]:
    """By tag, the best example in these manifests."""
    found: dict[str, list[str]] = {}
    parser = etree.XMLParser(
        remove_comments=True, remove_blank_text=True, resolve_entities=False, no_network=True
    )
    for text in texts:
        for element in etree.fromstring(text, parser).iter("*"):
            if element.tag == _PAGE:
                continue
            element.tail = None
            etree.indent(element, "  ")
            found.setdefault(str(element.tag), []).append(
                etree.tostring(element, encoding="unicode")
            )
    best = {tag: max(_fitting(uses), key=_told, default="") for tag, uses in found.items()}
    return {tag: example for tag, example in best.items() if example}


def _fitting(uses: list[str]) -> list[str]:
    return [use for use in uses if len(use.splitlines()) <= MOST_LINES and "xmlns" not in use]


def _told(use: str) -> tuple[int, int]:
    """How much an example shows: its attributes and elements, then its brevity."""
    return len(set(re.findall(r"[\w]+(?==\")|<(\w+)", use))), -len(use)
