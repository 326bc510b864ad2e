"""From described trees to content manifests: a whole tree, or what the upper directory of an overlay changes.

An upper directory hides, replaces and renames entries of the tree below, as the kernel's documentation of
overlayfs describes: whiteouts, opaque directories, redirects. So the manifest of the merged tree follows from
the manifest of the tree below and the upper directory alone. Pure.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping

from store.layers.content import Content, Subtrees, group_in, grouped, key_of, line_of, rest_of
from store.layers.walk import Found, Tree


def whole(tree: Tree) -> Content:
    """The manifest of a tree that stands for itself."""
    lines = {each.key: line_of(each.key, tree.rest(each)) for each in tree.found}
    files = {each.key: each.fingerprint[0] for each in tree.found if each.links > 1}
    return Content.of(_with_names(lines, files))


def merged(below: Content, tree: Tree) -> Content:
    """The manifest of the upper directory `tree` on what has the manifest `below`; the same object when it
    changes nothing."""
    merge = _Merge(below)
    merge.apply(tree)
    lines = _with_names(merge.lines, merge.files)
    return below if lines == below.lines else Content.of(lines)


class _Merge:
    """The lines while an upper directory is applied. `files` identifies the files that may have several
    names, by each name: those of the upper directory by their inode, those below by their first name."""

    def __init__(self, below: Content) -> None:
        self._below = Subtrees(below)
        self.lines = dict(below.lines)
        self.files: dict[bytes, Hashable] = {}
        for key, line in below.lines.items():
            if (first := group_in(line)) is not None:
                self._set(key, line, first)

    def apply(self, tree: Tree) -> None:
        """Apply an upper directory."""
        # The path that each directory has below; None: nothing below shows through.
        origins: dict[bytes, bytes | None] = {b"": b""}
        for each in tree.found:
            parent, _, name = each.key.rpartition(b"/")
            beneath = _inside(origins[parent], name)
            origin = self._origin(each, origins[parent], beneath)
            if each.directory:
                origins[each.key] = origin
            if origin is None or origin != beneath:
                self._clear(each.key, beneath)
                if origin is not None:
                    self._show(each.key, origin)
            if not each.hides:
                self.lines[each.key] = line_of(each.key, tree.rest(each))
                if each.links > 1:
                    self.files[each.key] = each.fingerprint[0]

    def _set(self, key: bytes, line: bytes, first: bytes | None) -> None:
        """Set a line of the tree below, without the names of its file."""
        self.lines[key] = line_of(key, rest_of(line))
        if first is not None:
            self.files[key] = first

    def _origin(self, each: Found, parent: bytes | None, beneath: bytes | None) -> bytes | None:
        """The path below of a directory that is merged with the upper one."""
        if not each.directory or each.opaque:
            return None
        at = beneath
        if each.redirect is not None:
            redirect = key_of(each.redirect)
            at = redirect[1:] if redirect.startswith(b"/") else _inside(parent, redirect)
        return at if at is not None and self._below.is_directory(at) else None

    def _clear(self, key: bytes, beneath: bytes | None) -> None:
        """Remove an entry, and what shows through below it."""
        gone = [key]
        if beneath is not None and self._below.is_directory(beneath):
            gone += (key + hidden[len(beneath) :] for hidden in self._below.below(beneath))
        for each in gone:
            self.lines.pop(each, None)
            self.files.pop(each, None)

    def _show(self, key: bytes, origin: bytes) -> None:
        """Add what a renamed directory shows of the tree below."""
        for shown in self._below.below(origin):
            line = self._below.lines[shown]
            self._set(key + shown[len(origin) :], line, group_in(line))


def _inside(directory: bytes | None, name: bytes) -> bytes | None:
    if directory is None:
        return None
    return directory + b"/" + name if directory else name


def _with_names(lines: dict[bytes, bytes], files: Mapping[bytes, Hashable]) -> dict[bytes, bytes]:
    """The lines, those of files with several names with the first of these."""
    names: dict[Hashable, list[bytes]] = defaultdict(list)
    for key, file in files.items():
        names[file].append(key)
    for keys in names.values():
        if len(keys) > 1:
            first = min(keys)
            lines |= {key: grouped(lines[key], first) for key in keys}
    return lines
