"""XInclude, resolved from files that the client has sent.

An `xi:include` names a file below the directory of the manifest, or below a configured directory; paths
below a mapped prefix (`/usr/share/distro_const/`) mean the directory that it is mapped to. Nothing is opened
here: a file that was not sent is reported as missing, so that the client can send it. Loops are refused, and
`Limits.max_expanded_bytes` limits the result. `parse="text"` includes text; `xi:fallback` replaces a file
that the client does not have; `xpointer` is refused. Pure.

Source: XML Inclusions (XInclude) 1.0, W3C.
"""

import posixpath
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from lxml import etree

from dcd.manifest.data_object import Element, Origin
from dcd.manifest.diagnostics import Diagnostic, ManifestError, MissingInput, error
from dcd.manifest.source import Limits, Source, read, too_many_elements

NAMESPACE = "http://www.w3.org/2001/XInclude"
INCLUDE = (f"{{{NAMESPACE}}}include", "{http://www.w3.org/2003/XInclude}include")
FALLBACK = (f"{{{NAMESPACE}}}fallback", "{http://www.w3.org/2003/XInclude}fallback")
_ATTRIBUTES = {"href", "parse", "encoding", "xpointer", "accept", "accept-language"}


@dataclass(frozen=True, slots=True)
class CapturedFile:
    """A file that the client has sent: its digest, its mode and a function that reads it (OSError)."""

    sha256: str
    mode: int = 0o644
    read: Callable[[], bytes] = lambda: b""


@dataclass(frozen=True, slots=True)
class Directories:
    """The allowed places of the manifest's files. `manifest` is the manifest's own directory; `include` are
    further directories of includes; `mapped` maps prefixes (with a slash at the end) to directories."""

    manifest: str
    include: tuple[str, ...] = ()
    mapped: Mapping[str, str] = field(default_factory=dict)

    def resolve(self, written: str, base: str | None = None) -> str:
        """The absolute path for a path in the manifest, relative to `base` or the manifest's directory,
        through the longest mapped prefix. Lexical: links are not followed."""
        path = posixpath.normpath(posixpath.join(base or self.manifest, written))
        for prefix in _longest(self.mapped):
            if path.startswith(prefix):
                return posixpath.normpath(posixpath.join(self.mapped[prefix], path[len(prefix) :]))
        return path

    def tried(self, written: str, base: str | None = None) -> str:
        """Where a path of the manifest was looked for, for people."""
        path = posixpath.normpath(posixpath.join(base or self.manifest, written))
        place = posixpath.dirname(self.resolve(written, base))
        prefix = next((each for each in _longest(self.mapped) if path.startswith(each)), None)
        if prefix is None:
            return f"It was looked for in {place}; include_map maps no directory of {path}."
        return f"It was looked for in {place}: include_map maps {prefix} to {self.mapped[prefix]}."

    def may_include(self, path: str) -> bool:
        """Whether an include may name this absolute path."""
        allowed = (self.manifest, *self.include, *self.mapped.values())
        return any(is_below(path, directory) for directory in allowed)


def _longest(prefixes: Iterable[str]) -> list[str]:
    return sorted(prefixes, key=len, reverse=True)


def is_below(path: str, directory: str) -> bool:
    """Whether the normal path is inside the directory."""
    place = posixpath.normpath(directory)
    return path != place and posixpath.commonpath([path, place]) == place


def resolve_includes(
    source: Source,
    files: Mapping[str, CapturedFile | None],
    directories: Directories,
    limits: Limits,
) -> tuple[list[Diagnostic], list[MissingInput]]:
    """Replace every include in the tree by the content of its file. Returns the faults and all includes;
    one that is not in `files` stays in the tree."""
    run = _Run(source, files, directories, limits)
    run.walk(source.root, (), directories.manifest)
    return run.diagnostics, run.met


@dataclass(slots=True)
class _Run:
    """One resolution of a whole tree."""

    source: Source
    files: Mapping[str, CapturedFile | None]
    directories: Directories
    limits: Limits
    diagnostics: list[Diagnostic] = field(default_factory=list)
    met: list[MissingInput] = field(default_factory=list)
    expanded_bytes: int = 0

    def walk(self, element: Element, chain: tuple[str, ...], base: str, depth: int = 1) -> None:
        for inner in list(element.iterchildren("*")):
            if depth >= self.limits.max_depth:
                self.fail(inner, f"the includes nest deeper than {self.limits.max_depth} levels")
            elif inner.tag in INCLUDE:
                self.include(inner, chain, base, depth)
            else:
                self.walk(inner, chain, base, depth + 1)

    def fail(self, element: Element, message: str, why: str = "", suggestion: str = "") -> None:
        origin = self.source.origin(element, "href")
        self.diagnostics.append(error(origin, message, why, suggestion))
        _replace(element, [], "")

    def origin_of(self, element: Element) -> Origin:
        return self.source.origin(element, "href") or Origin("", 0)

    def include(self, element: Element, chain: tuple[str, ...], base: str, depth: int) -> None:
        href, parse = element.get("href", ""), element.get("parse", "xml")
        origin = self.origin_of(element)
        unknown = [str(name) for name in element.attrib if name not in _ATTRIBUTES]
        fallbacks = [inner for inner in element if inner.tag in FALLBACK]
        if unknown or len(element) > len(fallbacks) or len(fallbacks) > 1:
            return self.fail(
                element,
                "xi:include takes href, parse, and at most one xi:fallback",
                "",
                "put `when` on the root element of the included file"
                if unknown == ["when"]
                else '<xi:include href="FILE"/>',
            )
        if element.get("xpointer") or parse not in ("xml", "text"):
            return self.fail(
                element,
                "xi:include of parts of a file (xpointer) is not supported",
                "",
                "put the part into a file of its own",
            )
        parts = urlsplit(href)
        if not parts.path or parts.scheme not in ("", "file") or parts.netloc or parts.fragment:
            return self.fail(
                element,
                f"xi:include cannot read {href!r}",
                "Only files are included; nothing is fetched from a network.",
                "fetch it yourself and include the file",
            )
        path = self.directories.resolve(unquote(parts.path), base)
        if not self.directories.may_include(path):
            allowed = (self.directories.manifest, *self.directories.include)
            return self.fail(
                element,
                f"xi:include may not read {path}",
                f"Includes are read from below {', '.join(allowed)} and mapped directories only.",
                "put the file beside the manifest, or have the directory configured",
            )
        if path in chain or len(chain) >= 16:
            circle = " includes ".join([*chain, path])
            return self.fail(element, f"the includes never end: {circle}")
        self.met.append(
            MissingInput(path, "include", bool(fallbacks), origin.line, href, origin.file)
        )
        if path not in self.files:
            return None
        captured = self.files[path]
        if captured is not None:
            try:
                content = captured.read()
            except OSError as failure:
                return self.fail(element, f"{path} cannot be read: {failure.strerror}")
            return self.insert(element, path, content, parse, (*chain, path), depth)
        if not fallbacks:
            return self.fail(
                element,
                f"there is no file {path}",
                self.directories.tried(unquote(parts.path), base),
                "correct the path, map its directory with include_map in the daemon's configuration, or "
                "give a replacement with xi:fallback",
            )
        self.walk(fallbacks[0], chain, base, depth)
        return _replace(element, list(fallbacks[0].iterchildren("*")), fallbacks[0].text or "")

    def insert(
        self,
        element: Element,
        path: str,
        content: bytes,
        parse: str,
        chain: tuple[str, ...],
        depth: int,
    ) -> None:
        self.expanded_bytes += len(content)
        if self.expanded_bytes > self.limits.max_expanded_bytes:
            return self.fail(
                element, f"the includes have more than {self.limits.max_expanded_bytes} bytes"
            )
        if parse == "text":
            try:
                text = content.decode()
                self.note_text(element, path)
                return _replace(element, [], text)
            except UnicodeDecodeError:
                return self.fail(element, f"{path} is not text in UTF-8")
        try:
            part = read(content, path, self.limits)
        except ManifestError as failure:
            self.diagnostics.extend(failure.diagnostics)
            return _replace(element, [], "")
        if len(self.source.places) + len(part.places) > self.limits.max_elements:
            raise too_many_elements(self.origin_of(element), self.limits)
        self.source.places.update(part.places)
        holder = etree.Element("included")
        holder.append(part.root)
        self.walk(holder, chain, posixpath.dirname(path), depth)
        return _replace(element, list(holder), "")

    def note_text(self, element: Element, path: str) -> None:
        """Record the place of a text that is the whole text of its element."""
        parent = element.getparent()
        assert parent is not None  # as in _replace
        before = parent.text or ""
        if parent[0] is element and not before.strip():
            self.source.texts[parent] = Origin(path, 1 - before.count("\n"))


def _replace(element: Element, new: list[Element], text: str) -> None:
    """Replace an element by elements and text. No element of a manifest contains both, so the text's place
    among the elements does not matter."""
    parent = element.getparent()
    assert parent is not None  # the root of a manifest is never an include; `load` refuses that
    tail = text + (element.tail or "")
    index = parent.index(element)
    if index:
        before = parent[index - 1]
        before.tail = (before.tail or "") + tail
    else:
        parent.text = (parent.text or "") + tail
    element.tail = None
    parent.remove(element)
    for offset, inner in enumerate(new):
        inner.tail = None
        parent.insert(index + offset, inner)
