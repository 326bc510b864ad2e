"""What a program really opens and looks for in a tree, by strace(1), held against what is declared."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dcd.platform.inside import resolve
from statemachine.plan import Inputs
from store.layers.content import Content, key_of
from store.layers.inputs import Read, _matcher, _Readers

_CALL = re.compile(r"^\d+ +(\w+)\((.*)$")
_TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')
_AT = re.compile(r"^(?:AT_FDCWD|\d+)<([^>]*)>")


@dataclass
class Calls:
    """Paths below the tree: those that exist, those that do not, and directories whose names were read."""

    found: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    enumerated: set[str] = field(default_factory=set)


def trace(command: Sequence[str | Path], directory: Path, log: Path) -> None:
    """Run a command under strace."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    options = ["-f", "-qq", "-y", "-e", "trace=%file,getdents64", "-e", "signal=none", "-o", log]
    subprocess.run(["strace", *options, *command], cwd=directory, check=True, capture_output=True)


def calls(lines: Iterable[str], tree: Path, root: str = "") -> Calls:
    """The calls in a log of strace that are about the tree, with paths as links lead to them. `root` is the
    directory of the tree in which absolute paths begin, for programs that are chrooted to it."""
    result = Calls()
    for line in lines:
        if (match := _CALL.match(line)) is None:
            continue
        name, rest = match.groups()
        at = _AT.match(rest)
        if name == "getdents64":
            if (place := re.search(r"<([^>]*)>", rest)) and place[1].startswith(f"{tree}"):
                result.enumerated.add(os.path.relpath(place[1], tree))
            continue
        if (text := _TEXT.search(rest)) is None:
            continue
        above = at[1] if at else f"{tree}/{root}"
        rooted = root and text[1].startswith("/")
        path = f"{tree}/{root}{text[1]}" if rooted else str(Path(above) / text[1])
        path = os.path.normpath(path)
        if not path.startswith(f"{tree}/"):
            continue
        start = tree / root
        name = os.path.relpath(path, start)
        if name.startswith(".."):
            continue
        real = resolve(start, str(Path(name).parent)) / Path(name).name
        inside = os.path.relpath(real, tree)
        (result.missing if "ENOENT" in line else result.found).add(inside)
    return result


def undeclared(made: Calls, inputs: Inputs, content: Content, read: Read) -> Iterator[str]:
    """What was opened, looked for or enumerated although the declaration does not cover it."""
    whole, unread = _matcher(inputs.whole), _matcher(inputs.unread)
    readers = _Readers(inputs, content, read)
    for path in sorted(made.found):
        # A change of anything that exists counts, unless it is declared as never read.
        if unread(path) and not whole(path) and _is_file(content, path):
            yield f"{path} is read"
    for path in sorted(made.missing):
        top = _topmost_missing(content, path)
        name = top.rpartition("/")[2]
        if whole(top) or not _is_below_something(content, top):
            continue
        if unread(top) or not (readers.first_in_texts([name]) or readers.first_in_programs([name])):
            yield f"{path} is looked for"
    for path in sorted(made.enumerated):
        if not whole(path):
            yield f"{path} is enumerated"


def _is_file(content: Content, path: str) -> bool:
    return b'","type":"file"' in content.lines.get(key_of(path), b"")


def _topmost_missing(content: Content, path: str) -> str:
    parts = path.split("/")
    for length in range(1, len(parts) + 1):
        if key_of("/".join(parts[:length])) not in content.lines:
            return "/".join(parts[:length])
    return path


def _is_below_something(content: Content, path: str) -> bool:
    """Whether the path could exist: its directory does."""
    above = path.rpartition("/")[0]
    return not above or b'"type":"directory"' in content.lines.get(key_of(above), b"")
