"""Reading hostile XML: from text to a tree with the place of every element and attribute.

Refused: text beyond `Limits`, every entity declaration (so no entity can be expanded or fetched), bytes in an
unknown encoding. A document type that names an external DTD is accepted and never fetched. The parser is
expat, since only it reports the start of a tag; the tree is lxml's. Comments and processing instructions are
dropped. The time is proportional to the text. Pure.
"""

import re
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from xml.parsers import expat

from lxml import etree

from dcd.manifest.data_object import Element, Origin
from dcd.manifest.diagnostics import ManifestError, refusal

_ENCODINGS = {"utf-8", "us-ascii", "ascii", "utf-16", "iso-8859-1", "iso-8859-15", "windows-1252"}
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_ATTRIBUTE = re.compile(rb"""\s+([^\s=/>]+)\s*=\s*("[^"]*"|'[^']*')""")
_REFERENCE = re.compile(rb"&(?!#|amp;|lt;|gt;|quot;|apos;)([^;\s]*);?")
_INVALID = "the file is not well-formed XML"
_CODES = expat.errors.codes


@dataclass(frozen=True, slots=True)
class Limits:
    """The maximum size of a manifest. `max_expanded_bytes` is the size after includes and parameters;
    `max_elements` includes those of included files."""

    max_bytes: int = 1024 * 1024
    max_expanded_bytes: int = 4 * 1024 * 1024
    max_depth: int = 64
    max_attributes: int = 64
    max_elements: int = 50_000
    max_checkpoints: int = 500


LIMITS = Limits()

TEXT = "text()"
"""Means the text of an element, instead of an attribute's name."""

_MISTAKES = (
    (re.compile(rb"<!--(?:(?!-->).)*--.?$", re.S), "a comment holds --", "write it otherwise"),
    (re.compile(rb"&[\w.-]*[^\w;.#-]$"), "the character & stands alone", "write &amp;"),
    (re.compile(rb"<$|<[\s=\d]$"), "the character < stands alone", "write &lt;"),
    (re.compile(rb"<[^<>]*=\s*[^\s\"'<>]$"), "an attribute's value has no quotes", 'name="value"'),
    (re.compile(rb"<[^<>]*\s[\w.:-]+\s*[/>]$"), "an attribute has no value", 'name="value"'),
    (re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]$"), "a control character", "remove it"),
)
"""Usual mistakes in XML, recognised by the text before the place where the parser stops."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of an element's start tag, those of its attributes by name, and the tag's text."""

    origin: Origin
    attributes: dict[str, Origin]
    start_tag: str


@dataclass(slots=True)
class Source:
    """A tree and the places of its elements. The map keeps lxml's elements alive, which preserves their
    identity; elements that move into another tree keep their places. `texts` are the places of included
    texts, with the white space before them."""

    root: Element
    places: dict[Element, Place] = field(default_factory=dict)
    texts: dict[Element, Origin] = field(default_factory=dict)

    def origin(self, element: Element, attribute: str | None = None) -> Origin | None:
        """The place of the element, of one of its attributes, or of the first word of its `TEXT`; None for
        an element that is in no text."""
        place = self.places.get(element)
        if place is None:
            return None
        if attribute == TEXT:
            text = element.text or ""
            return self.line_of_text(element, text[: len(text) - len(text.lstrip())].count("\n"))
        return place.origin if attribute is None else place.attributes.get(attribute, place.origin)

    def line_of_text(self, element: Element, number: int) -> Origin | None:
        """The place of a line (from 0) of an element's text."""
        begin = self.texts.get(element)
        if begin is None and (place := self.places.get(element)) is not None:
            begin = replace(place.origin, line=place.origin.line + place.start_tag.count("\n"))
        if begin is None or number == 0:
            return begin
        return Origin(begin.file, begin.line + number)

    def elements(self) -> Iterator[Element]:
        """All elements, in document order."""
        return self.root.iter("*")


def read(data: str | bytes, file: str, limits: Limits) -> Source:
    """Parse a text, or bytes in their declared encoding. `file` is the name for places.
    Raises ManifestError with one diagnostic."""
    text = data if isinstance(data, str) else _decode(data, file)
    content = text.encode("utf-8", "surrogatepass")
    if len(content) > limits.max_bytes:
        raise refusal(
            Origin(file, 1),
            f"the file has {len(content)} bytes; at most {limits.max_bytes} are read",
            "A manifest is a short text; a large one is a mistake or an attack.",
            "move long lists into files that are included with xi:include",
        )
    return _Reader(content, file, limits).read()


def repeated(
    entries: Iterable[tuple[Hashable | None, Element]],
) -> Iterator[tuple[Element, Element]]:
    """Each element whose key an earlier one has, and the first with that key. Elements without a key
    (None) are no repetitions."""
    first: dict[Hashable, Element] = {}
    for key, element in entries:
        if key is not None and first.setdefault(key, element) is not element:
            yield element, first[key]


def too_many_elements(origin: Origin, limits: Limits) -> ManifestError:
    """The error for the first element beyond the limit."""
    return refusal(
        origin,
        f"the manifest has more than {limits.max_elements} elements",
        "The effort of reading a manifest grows with its elements.",
        "list fewer, or have an administrator raise elements_limit in the daemon's configuration",
    )


def _decode(data: bytes, file: str) -> str:
    declared = _DECLARED.match(data[:200])
    name = declared[1].decode().lower() if declared else "utf-8"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        name = "utf-16"
    if name not in _ENCODINGS:
        raise refusal(
            Origin(file, 1), f"the encoding {name!r} is not read", suggestion='use encoding="UTF-8"'
        )
    try:
        return data.decode(name).removeprefix("\ufeff")
    except UnicodeDecodeError as failure:
        line = data[: failure.start].count(b"\n") + 1
        raise refusal(
            Origin(file, line), f"the file is not text in {name}: {failure.reason}"
        ) from None


class _Reader:
    """One run of the parser over one text."""

    def __init__(self, content: bytes, file: str, limits: Limits) -> None:
        self.content = content
        self.file = file
        self.limits = limits
        self.stack: list[Element] = []
        self.last: Element | None = None
        self.pending: list[str] = []
        self.mark = (0, 1, 1)
        self.source: Source | None = None
        self.parser = expat.ParserCreate("utf-8", namespace_separator=" ")
        self.parser.ordered_attributes = True
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.CharacterDataHandler = self.pending.append
        self.parser.StartDoctypeDeclHandler = self.doctype
        self.parser.SkippedEntityHandler = self.skipped

    def read(self) -> Source:
        try:
            self.parser.Parse(self.content, True)
        except expat.ExpatError as failure:
            raise self.malformed(failure) from None
        assert self.source is not None  # expat refuses a text without a root element
        return self.source

    def here(self) -> Origin:
        return self.origin(self.parser.CurrentByteIndex)

    def origin(self, offset: int) -> Origin:
        """The place of a byte. Counts from the previous place, since parsing moves forward."""
        before, line, column = self.mark if self.mark[0] <= offset else (0, 1, 1)
        passed = self.content[before:offset]
        lines = passed.count(b"\n")
        start = passed.rfind(b"\n") + 1
        columns = len(passed[start:].decode("utf-8", "replace"))
        self.mark = (offset, line + lines, columns + (1 if lines else column))
        return Origin(self.file, *self.mark[1:])

    def doctype(self, name: str, system: str | None, public: str | None, internal: int) -> None:
        if internal:
            raise refusal(
                self.here(),
                "a document type with declarations of its own is not read",
                "Declarations can define entities, which can expand without bound or read files.",
                "remove the part in brackets; write the text itself instead of an entity",
            )

    def skipped(self, name: str, is_parameter: bool) -> None:
        raise self.undefined(name, self.here())

    def undefined(self, name: str, origin: Origin) -> ManifestError:
        return refusal(
            origin,
            f"the entity &{name}; is not defined",
            "Only &amp; &lt; &gt; &quot; &apos; and numeric references such as &#233; are known.",
            "write the text itself, or &amp; for the character &",
        )

    def start(self, name: str, attributes: list[str]) -> None:
        self.flush()
        offset = self.parser.CurrentByteIndex
        if len(self.stack) >= self.limits.max_depth:
            raise refusal(
                self.here(), f"elements are nested deeper than {self.limits.max_depth} levels"
            )
        if self.source is not None and len(self.source.places) >= self.limits.max_elements:
            raise too_many_elements(self.here(), self.limits)
        if len(attributes) > 2 * self.limits.max_attributes:
            raise refusal(
                self.here(), f"an element has more than {self.limits.max_attributes} attributes"
            )
        tag = _clark(name)
        element = etree.SubElement(self.stack[-1], tag) if self.stack else etree.Element(tag)
        for key, value in zip(attributes[::2], attributes[1::2], strict=True):
            element.set(_clark(key), value)
        if self.source is None:
            self.source = Source(element)
        self.source.places[element] = self.place(offset)
        self.stack.append(element)
        self.last = None

    def place(self, offset: int) -> Place:
        """Read the start tag again, for the places of its attributes."""
        origin = self.origin(offset)
        end = offset + 1
        while self.content[end : end + 1] not in b" \t\r\n/>":
            end += 1
        found: dict[str, Origin] = {}
        while match := _ATTRIBUTE.match(self.content, end):
            found[match[1].decode()] = self.origin(match.start(1))
            unknown = _REFERENCE.search(match[2])
            if unknown:
                at = self.origin(match.start(2) + unknown.start())
                raise self.undefined(unknown[1].decode("utf-8", "replace"), at)
            end = match.end()
        end = self.content.index(b">", end) + 1
        return Place(origin, found, self.content[offset:end].decode())

    def end(self, name: str) -> None:
        self.flush()
        self.last = self.stack.pop()

    def flush(self) -> None:
        """Store the text since the last tag in lxml's form."""
        if self.pending and self.stack:
            if self.last is not None:
                self.last.tail = "".join(self.pending)
            else:
                self.stack[-1].text = "".join(self.pending)
        self.pending.clear()

    def malformed(self, failure: expat.ExpatError) -> ManifestError:
        offset = self.parser.ErrorByteIndex
        if failure.code == _CODES[expat.errors.XML_ERROR_TAG_MISMATCH]:
            begin = self.content.rfind(b"<", 0, offset + 1)
            closing = self.content[begin + 2 : self.content.find(b">", begin)]
            name, place = self.innermost()
            return refusal(
                self.origin(begin),
                f"</{closing.decode('utf-8', 'replace').strip()}> does not close <{name}>, "
                f"which was opened on line {place.line}",
                "Elements must be closed in the reverse order in which they were opened.",
                f"</{name}>",
            )
        if failure.code == _CODES[expat.errors.XML_ERROR_NO_ELEMENTS] and self.stack:
            name, place = self.innermost()
            return refusal(place, f"<{name}> is never closed", "", f"add </{name}> where it ends")
        if failure.code == _CODES[expat.errors.XML_ERROR_UNDEFINED_ENTITY]:
            unknown = _REFERENCE.search(self.content, offset)
            if unknown:
                name = unknown[1].decode("utf-8", "replace")
                return self.undefined(name, self.origin(unknown.start()))
        if failure.code == _CODES[expat.errors.XML_ERROR_INVALID_TOKEN]:
            for pattern, message, suggestion in _MISTAKES:
                if pattern.search(self.content, max(0, offset - 64), offset + 1):
                    return refusal(self.origin(offset), f"{_INVALID}: {message}", "", suggestion)
        return refusal(self.origin(offset), f"{_INVALID}: {expat.ErrorString(failure.code)}")

    def innermost(self) -> tuple[str, Origin]:
        """The name of the innermost open element, and its place."""
        assert self.source is not None
        place = self.source.places[self.stack[-1]]
        name = re.match(r"<([^\s/>]+)", place.start_tag)
        assert name is not None
        return name[1], place.origin


def _clark(name: str) -> str:
    """lxml's form of expat's `URI local`."""
    uri, separator, local = name.rpartition(" ")
    return f"{{{uri}}}{local}" if separator else name
