"""The package lists of a transfer between its stages and its steps.

The layer of the base keeps them beside the image area, out of reach of the packages' scripts, so the rest
needs no second download of them.

Once the packages are chosen, apt sees only these and the installed ones in its lists, in all versions.
apt-get examines every package of its lists in each call, which takes most of a second for those of Debian,
and the installation calls it several times. The choice is not made again by that: the pins and the versions
are the same, and what was not chosen is not downloaded either.
"""

import re
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from dcd.checkpoints.packages import debian_list
from dcd.checkpoints.transfer.deb_base import Chosen
from dcd.platform.apt_root import LISTS, Environment, Place, with_lists
from dcd.platform.inside import resolve
from store.host.regular import open_regular

KEPT = "lists"
"""The directory of the lists in the workspace, beside the areas."""

_INDEX = "Packages"
"""How the names of indexes of packages end in apt's lists."""

_NOT_KEPT = shutil.ignore_patterns("partial", "lock", "auxfiles")
_NAME = re.compile(rb"^package:[ \t]*(\S*)", re.IGNORECASE | re.MULTILINE)
_CHUNK_BYTES = 1 << 22


def keep_lists(root: Path, image: Path) -> None:
    """Copy the lists of the image into the workspace `root`. No program of the image may have run yet."""
    shutil.copytree(resolve(image, LISTS), root / KEPT, symlinks=True, ignore=_NOT_KEPT)


def kept_lists(root: Path) -> Path | None:
    """The lists that the base has kept in the workspace, if any."""
    lists = root / KEPT
    return lists if lists.is_dir() and not lists.is_symlink() else None


def drop_lists(root: Path) -> None:
    """Remove them: they are no part of the result."""
    shutil.rmtree(root / KEPT, ignore_errors=True)


def limited(
    place: Place, apt: Environment, lists: Path, chosen: Chosen, *, kept: bool
) -> Environment:
    """apt's environment for the installation, with only the chosen and the installed packages in its lists,
    in all versions. Lists in the root are changed; those that the base has `kept` are copied."""
    if not chosen.wanted:
        return apt
    names = {name.partition("_")[0] for name in chosen.wanted}
    names |= {line.partition("\t")[0] for line in debian_list(place.root).splitlines()}
    if not kept:
        for index in lists.glob(f"*{_INDEX}"):
            aside = index.with_name(f".{index.name}.limited")
            _write_limited(index, names, aside)
            aside.rename(index)
        return apt
    copy = place.aside / "limited-lists"
    copy.mkdir()
    for file in lists.iterdir():
        if file.name.endswith(_INDEX):
            _write_limited(file, names, copy / file.name)
        elif file.is_file():
            shutil.copy(file, copy)
    return with_lists(place, copy)


def _write_limited(index: Path, names: Collection[str], target: Path) -> None:
    wanted = {name.encode() for name in names}
    with open_regular(index) as source, target.open("wb") as sink:
        for stanza in _stanzas(source):
            if (found := _NAME.search(stanza)) and found[1] in wanted:
                sink.write(stanza + b"\n\n")


def _stanzas(source: BinaryIO) -> Iterator[bytes]:
    """The stanzas of an index. Source: deb822(5)."""
    rest = b""
    while chunk := source.read(_CHUNK_BYTES):
        *whole, rest = (rest + chunk).split(b"\n\n")
        yield from whole
    if rest.strip():
        yield rest.rstrip(b"\n")
