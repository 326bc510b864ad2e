"""The differences between the contents of two layers, for people and programs.

From the layers' content manifests (`store.layers.content`), so no file of a layer is read.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from store.layers.content import differences, parse, read_text

_KINDS = {
    "size": "content",
    "sha256": "content",
    "pieces": "content",
    "uid": "owner",
    "gid": "owner",
    "mode": "mode",
    "mtime": "time",
    "target": "link",
    "same_as": "link",
    "xattrs": "xattr",
    "major": "device",
    "minor": "device",
    "type": "type",
    "added": "extra",
    "removed": "missing",
}
"""By the key of a manifest's line, or by the kind of its difference. `missing`: the second layer lacks the
path; `extra`: the first one does."""


@dataclass(frozen=True, slots=True)
class FileDifference:
    """A path of the workspace where two layers differ: how (`content`, `owner`, `mode`, `time`, `link`,
    `xattr`, `device`, `type`, `missing`, `extra`), and for each layer the values that differ."""

    path: str
    kinds: tuple[str, ...]
    first: dict[str, str]
    second: dict[str, str]


@dataclass(frozen=True, slots=True)
class LayerDifferences:
    """The first differences between two layers by path, and the number of all; `unknown` is the reason why
    there are none, or ""."""

    files: tuple[FileDifference, ...]
    count: int
    unknown: str = ""
    example: tuple[str, ...] = ()
    """The paths on this host of the first file with another content, in both layers, where root can read
    them."""


def compare_layers(first: Path, second: Path, most: int) -> LayerDifferences:
    """Compare the layers in two directories; names at most `most` files. Raises OSError."""
    texts = [read_text(layer) for layer in (first, second)]
    before, after = texts
    if before is None or after is None:
        return LayerDifferences((), 0, "a layer has no content manifest, or a damaged one")
    return compare_texts(before, after, most)


def compare_texts(before: bytes, after: bytes, most: int) -> LayerDifferences:
    """Compare two content manifests; names at most `most` files. Raises ValueError for what is none."""
    found = differences(parse(before), parse(after))
    shown = tuple(
        FileDifference(
            each.path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"),
            tuple(dict.fromkeys(_KINDS.get(kind, "content") for kind in each.kinds)),
            _values(each.before, each.kinds),
            _values(each.after, each.kinds),
        )
        for each in found[:most]
    )
    return LayerDifferences(shown, len(found))


def _values(line: dict[str, Any] | None, kinds: tuple[str, ...]) -> dict[str, str]:
    if line is None:
        return {}
    whole = {"added", "removed"}.intersection(kinds)
    return {
        key: str(value) for key, value in line.items() if key != "path" and (whole or key in kinds)
    }
