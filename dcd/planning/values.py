"""The values in the reasons for a run: what a part of the manifest was, and what it is now.

A reason names the part that changed and its line; the edits between the two manifests, without their secrets,
have the values. Pure.
"""

import re
from collections.abc import Sequence

from dcd.manifest.mixture import Edit

MOST_VALUES = 3
"""How many changes a reason shows."""

_SHOWN = 60
"""How many characters of a value are shown."""

_OWN = ("checkpoint", "software", "configuration")
"""Elements that belong to the checkpoint of their name."""

_PLAIN = re.compile(r"<(\w+)(?: [^<>]*)?>([^<>]*)</\1>")
"""An element with only a text."""

_NOUNS = {"name": "package", "arg": "", "argitem": "", "args": "", "text": ""}


def with_values(checkpoint: str, reason: str, edits: Sequence[Edit]) -> str:
    """A reason for the run of a checkpoint, with the values of the edits that it is about."""
    found = [_shown(edit) for edit in edits if _is_about(edit.place, checkpoint, reason)]
    found = list(dict.fromkeys(filter(None, found)))
    if not found:
        return reason
    left = len(found) - MOST_VALUES
    more = [f"and {left} more"] if left > 0 else []
    return f"{reason} ({'; '.join([*found[:MOST_VALUES], *more])})"


def _is_about(place: str, checkpoint: str, reason: str) -> bool:
    """Whether an edit at a place is one that the reason for that checkpoint names."""
    named = set(re.findall(r"[\w-]+", reason))
    for part in place.split("/"):
        tag, _, name = part.partition(" ")
        if tag in _OWN:
            own = name.partition(" ")[0] in ("", checkpoint)
            return own and (tag in named or (tag == "checkpoint" and "argument" in named))
        if tag not in ("dc", "distro", "execution") and tag in named:
            return True
    return False


def _shown(edit: Edit) -> str:
    """`package sudoo -> sudo`."""
    noun = _noun(edit)
    before, after = map(_value, _without_common_lines(edit.before, edit.after))
    if before and after:
        return f"{noun} {before} -> {after}".strip() if before != after else ""
    if not (before or after):
        return ""
    return f"{noun} {before or after} {'is gone' if before else 'is new'}".strip()


def _without_common_lines(before: str, after: str) -> tuple[str, str]:
    """Two texts of several lines without the lines with which both begin or end."""
    one, other = before.splitlines(), after.splitlines()
    if min(len(one), len(other)) < 2:
        return before, after
    while one and other and one[0] == other[0]:
        del one[0], other[0]
    while one and other and one[-1] == other[-1]:
        del one[-1], other[-1]
    return "\n".join(one), "\n".join(other)


def _noun(edit: Edit) -> str:
    found = _PLAIN.fullmatch(edit.after or edit.before)
    tag = found[1] if found else edit.place.rpartition("/")[2]
    # An attribute follows the label of its element.
    word = (
        tag.rpartition(" ")[2]
        if not found and tag.split(" ")[0] not in _NOUNS
        else tag.split(" ")[0]
    )
    return _NOUNS.get(word, word)


def _value(text: str) -> str:
    """An element's text or the whole of it, shortened."""
    found = _PLAIN.fullmatch(text)
    value = " ".join((found[2] if found else text).split())
    return value if len(value) <= _SHOWN else f"{value[: _SHOWN - 3]}..."
