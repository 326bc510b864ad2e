"""Whether the differences between two layers matter to a checkpoint, by what it declares to read.

`statemachine.plan.Inputs` says which differences matter. Paths are compared by the layers' content manifests;
only scripts, and the programs that these name, are read. Standard library only; nothing is written.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import translate
from posixpath import basename, dirname, join, normpath

from statemachine.plan import Inputs
from store.layers.content import Content, Difference, differences, key_of
from store.layers.names import data_of, has_name

Read = Callable[[str], bytes]
"""Reads a file of the layer by its path in the workspace. Raises OSError and NotFound."""

MOST_NAMES = 200
"""With more new and removed names than this the layers are called different."""

LEAST_OF_PATTERN = 4
"""A pattern of a text with fewer characters that stand for themselves is one of words, not of files."""

_WORD = re.compile(rb"[\w.+-]+")
# Each begins at the beginning of a run only: texts of images must not take quadratic time.
_GLOB = re.compile(rb"(?<![\w.+-])[\w.+-]*+[*?\[\]${}][\w.+\-*?\[\]${}]*")
_VARIABLE = re.compile(r"\$\{[^}]*\}?|\$\w+")
_PATH = re.compile(rb"(?:/[\w.+-]++)++")
_LIBRARY = re.compile(rb"(?<![\w.+-])[\w.+-]+\.so[\w.+-]*")
_LINKS = 8


def first_that_matters(inputs: Inputs, before: Content, after: Content, read: Read) -> str:
    """The path of a difference that matters, "" if none does. `read` reads the layer of `after`. Raises
    OSError and NotFound."""
    whole, unread = _matcher(inputs.whole), _matcher(inputs.unread)
    apart: list[Difference] = []
    for each in differences(before, after):
        if whole(each.path) or each.path == "/document.xml":
            return each.path
        if unread(each.path):
            continue
        if each.before is not None and each.after is not None:
            if not _is_time_of_directory(each):
                return each.path
            continue
        apart.append(each)
    if not apart:
        return ""
    searched, above = _matcher(inputs.searched), list(_topmost(apart))
    inside = [each for each in apart if searched(each.path)]
    names = {basename(each.path): each.path for each in (*inside, *above)}
    topmost = {basename(each.path) for each in above}
    if len(topmost) > MOST_NAMES:
        return apart[0].path
    readers = _Readers(inputs, after, read)
    if path := readers.first_below_named(each.path for each in apart):
        return path
    is_program = _matcher(inputs.programs)
    programs = {basename(each.path) for each in above if is_program(each.path)}
    found = readers.first_in_texts(names) or readers.first_in_programs(topmost, programs)
    return names[found] if found is not None else ""


def _matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    expressions = [_expression(pattern) for pattern in patterns]
    if not expressions:
        return lambda path: False
    compiled = re.compile("|".join(expressions), re.DOTALL)
    return lambda path: compiled.fullmatch(path) is not None


def _expression(pattern: str) -> str:
    below = pattern.removesuffix("/**") if pattern != "**" else pattern
    parts = [
        ".*" if part == "**" else "[^/]*" if part == "*" else re.escape(part)
        for part in re.split(r"(\*\*|\*)", below)
    ]
    return "".join(parts) + ("(?:/.*)?" if below != pattern else "")


def _is_time_of_directory(found: Difference) -> bool:
    assert found.after is not None
    return found.kinds == ("mtime",) and found.after["type"] == "directory"


def _topmost(found: Sequence[Difference]) -> Iterator[Difference]:
    """Those that are in no directory among them: below it, nothing is looked for."""
    paths = {each.path for each in found}
    for each in found:
        above = dirname(each.path)
        while above and above not in paths:
            above = dirname(above)
        if not above:
            yield each


class _Readers:
    """The contents of the files that could look for a name."""

    def __init__(self, inputs: Inputs, content: Content, read: Read) -> None:
        self._read, self._unread = read, _matcher(inputs.unread)
        self._is_leaf, self._passed = _matcher(inputs.leaves), _matcher(inputs.passed)
        self._lines = content.lines
        is_text, is_program = _matcher(inputs.texts), _matcher(inputs.programs)
        self._is_library = _matcher(inputs.libraries)
        texts: list[str] = []
        self._programs: dict[str, list[str]] = {}
        self._libraries: dict[str, list[str]] = {}
        for line in content.lines.values():
            entry = json.loads(line)
            path = entry["path"]
            if is_text(path) and entry["type"] == "file":
                texts.append(path)
            if is_program(path) and entry["type"] != "directory":
                self._programs.setdefault(basename(path), []).append(path)
            if self._is_library(path) and entry["type"] != "directory":
                self._libraries.setdefault(basename(path), []).append(path)
        self._roots = {path.split("/")[0] for path in texts}
        self._texts = [read(path) for path in texts]
        self._words = {_decoded(word) for text in self._texts for word in _WORD.findall(text)}

    def first_in_texts(self, names: Iterable[str]) -> str | None:
        """The first of the names that a text contains, or a pattern of."""
        globs = re.compile("|".join(map(translate, sorted(set(self._globs())))) or r"(?!)")
        for name in names:
            if name in self._words or globs.match(name):
                return name
        unusual = [name for name in names if not _WORD.fullmatch(_encoded(name))]
        return self._first_in(self._texts, unusual)

    def first_below_named(self, paths: Iterable[str]) -> str | None:
        """The first of the paths below a directory that a text names: it may be copied with all it has."""
        named = self._named()
        for path in paths:
            above = dirname(path)
            while above and above not in named:
                above = dirname(above)
            if above:
                return path
        return None

    def first_in_programs(self, names: Iterable[str], programs: Iterable[str] = ()) -> str | None:
        """The first of the names that a program contains. Those of `programs` count in libraries only as part
        of a path."""
        ordered, by_path = sorted(names), set(programs)
        for path, content in self._contents():
            data, is_library = data_of(content), self._is_library(path)
            for name in ordered:
                if has_name(content, data, _encoded(name), is_library and name in by_path):
                    return name
        return None

    def _first_in(self, contents: Iterable[bytes], names: Sequence[str]) -> str | None:
        return next(
            (
                name
                for content in contents
                for name in names
                if has_name(content, None, _encoded(name))
            ),
            None,
        )

    def _named(self) -> set[str]:
        """The directories of the layer that texts name by their paths, without those that are passed."""
        paths = {_decoded(path) for text in self._texts for path in _PATH.findall(text)}
        found = {self._without_links_above(f"{at}{path}") for at in self._roots for path in paths}
        return {path for path in found if not self._passed(path)}

    def _globs(self) -> Iterator[str]:
        """The patterns in the texts, each as one of fnmatch; without those that say next to nothing."""
        for text in self._texts:
            for found in set(_GLOB.findall(text)):
                pattern = _VARIABLE.sub("*", _decoded(found))
                pattern = re.sub(r"[${}]", "", pattern)
                if len(re.sub(r"\[[^\]]*\]?|[*?\]]", "", pattern)) >= LEAST_OF_PATTERN:
                    yield pattern

    def _contents(self) -> Iterator[tuple[str, bytes]]:
        """The paths and contents of the programs that the texts name, then the libraries that these name."""
        waiting = [path for word in self._words for path in self._programs.get(word, ())]
        seen: set[str] = set()
        while waiting:
            path = self._followed(waiting.pop())
            if path is None or path in seen or self._unread(path):
                continue
            seen.add(path)
            content = self._read(path)
            for found in set(_LIBRARY.findall(content)):
                waiting += self._libraries.get(_decoded(found), ())
            if not self._is_leaf(path):
                yield path, content

    def _followed(self, path: str) -> str | None:
        """The file to which a path leads; None when it leads to none in the layer."""
        for _ in range(_LINKS):
            line = self._lines.get(key_of(path))
            entry = None if line is None else json.loads(line)
            if entry is None or entry["type"] == "file":
                return None if entry is None else path
            if entry["type"] != "link":
                return None
            root = path.split("/")[0]
            target = entry["target"]
            path = normpath(
                join(root, target.lstrip("/"))
                if target.startswith("/")
                else join(dirname(path), target)
            )
            path = self._without_links_above(path)
        return None

    def _without_links_above(self, path: str) -> str:
        """The path with /bin and its like, which are links to directories, replaced."""
        parts = path.split("/")
        line = self._lines.get(key_of("/".join(parts[:2]))) if len(parts) > 2 else None
        entry = None if line is None else json.loads(line)
        if entry is None or entry["type"] != "link":
            return path
        return "/".join([parts[0], entry["target"].strip("/"), *parts[2:]])


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
