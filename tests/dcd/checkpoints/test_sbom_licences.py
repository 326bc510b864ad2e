"""Licences of copyright files as SPDX expressions: names that SPDX has, and references for all others."""

import re
from pathlib import Path

import pytest

from dcd.checkpoints import sbom_licences
from dcd.checkpoints.sbom_licences import licence_in, licence_of

HEADER = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\n"


def files(*licences: str) -> str:
    return HEADER + "\n".join(
        f"Files: part{number}/*\nCopyright: 2026 Nobody\nLicense: {licence}\n"
        for number, licence in enumerate(licences)
    )


def expression(*licences: str) -> str:
    """The expression of the licences, with references without their digests."""
    found = licence_in(files(*licences))
    assert found is not None
    return re.sub(r"(LicenseRef-[A-Za-z0-9.-]+?)-[0-9a-f]{12}\b", r"\1", found.expression)


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        (["GPL-2+"], "GPL-2.0-or-later"),
        (["GPL-2.0+"], "GPL-2.0-or-later"),
        (["expat", "Zlib", "Expat"], "MIT AND Zlib"),
        (["Expat or GPL-2+ and Zlib"], "MIT OR (GPL-2.0-or-later AND Zlib)"),
        (["Expat or GPL-2+, and Zlib"], "Zlib AND (GPL-2.0-or-later OR MIT)"),
        (["GPL-3+ with Bison exception"], "GPL-3.0-or-later WITH Bison-exception-2.2"),
        (["public-domain"], "LicenseRef-public-domain"),
        (["GPL-2+ or my_own licence"], "GPL-2.0-or-later OR LicenseRef-my-own-licence"),
        (["GPL-2+ with OpenSSL exception"], "LicenseRef-GPL-2-or-later-with-OpenSSL-exception"),
        (["MIT/X11 (BSD like)"], "LicenseRef-MIT-X11-BSD-like"),
        (["\n text without a name"], "LicenseRef-unnamed"),
        (["ÄÖÜ"], "LicenseRef-unnamed"),
    ],
)
def test_names_become_an_expression_of_spdx(licences: list[str], expected: str) -> None:
    assert expression(*licences) == expected


def test_a_reference_has_the_text_of_its_paragraph_and_belongs_to_that_text() -> None:
    used = files("public-domain", "GPL-2+ or odd")
    first = licence_in(f"{used}\nLicense: public-domain\n Do what you like.\n .\n Enjoy.\n")
    assert first is not None
    domain, odd = sorted(first.references, key=lambda each: each.name, reverse=True)
    assert domain.text == "Do what you like.\n\nEnjoy."
    assert "without a text" in odd.text
    other = licence_in(f"{used}\nLicense: public-domain\n Do what we like.\n")
    assert other is not None
    assert domain.identifier not in {each.identifier for each in other.references}
    assert odd in other.references
    # Space between words does not make another licence.
    wrapped = licence_in(f"{used}\nLicense: public-domain\n Do what\n you like.\n Enjoy.\n")
    assert wrapped is not None
    assert wrapped.expression == first.expression


@pytest.mark.parametrize(
    "text",
    [
        "This package was debianized by hand. License: MIT\n",
        HEADER,
        HEADER + "Files: *\nCopyright: 2026 Nobody\n",
        HEADER + "License: MIT\n",
        HEADER + ":::\n\n  \x00\n",
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/",
        "",
    ],
)
def test_other_texts_give_no_licence(text: str) -> None:
    assert licence_in(text) is None


def test_a_package_without_a_copyright_file_has_no_licence(tmp_path: Path) -> None:
    assert licence_of(tmp_path / "copyright") is None
    (tmp_path / "copyright").mkdir()
    assert licence_of(tmp_path / "copyright") is None


LONG = "License: odd\n One.\n .\n   Two, \n . \n # Three.\n"


@pytest.mark.parametrize(
    "more",
    [
        LONG,
        LONG + "# a comment\n Four.\n Five.\n",
        LONG + "\tFour.\n Five.\n",
        LONG + "License: odd\n Again.\n Again.\n",
        LONG.replace("One", "O\rne"),
        LONG.replace("One", "O\x85ne"),
        LONG.replace("One", "\ue0000\ue000"),
        LONG.replace("odd\n", "\n"),
        LONG.replace("License: odd", "License : odd"),
        LONG.replace("License: odd", "Comment: odd"),
    ],
)
def test_long_values_are_what_the_library_reads(more: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"{files('odd or GPL-2+', 'GPL-2+')}\n{more}"
    licence_in.cache_clear()
    found = licence_in(text)
    monkeypatch.setattr(sbom_licences, "_shortened", lambda text: (text, []))
    licence_in.cache_clear()
    assert licence_in(text) == found


def test_licences_of_this_host_are_what_the_library_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = sorted(Path("/usr/share/doc").glob("lib*/copyright"))[:40]
    licence_of.cache_clear()
    licence_in.cache_clear()
    found = [licence_of(path) for path in paths]
    monkeypatch.setattr(sbom_licences, "_shortened", lambda text: (text, []))
    licence_of.cache_clear()
    licence_in.cache_clear()
    assert [licence_of(path) for path in paths] == found
