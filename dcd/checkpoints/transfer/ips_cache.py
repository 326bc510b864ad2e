"""The content cache of pkg(1): files of packages that an earlier attempt or another build has downloaded.

pkg looks below PKG_CACHEROOT for a file before it asks a repository, checks it against the manifest of its
package, and leaves there what it downloads. The directory is the attempt's own. It begins with links to what
the package store has; what pkg adds to it goes into the store when the attempt ends, however it ends
(`store.contents`). Without PKG_CACHEROOT, pkg would use /var/pkg of the image.

Source: pkg(1), PKG_CACHEROOT; pkg5, image.py (`get_cachedirs`: PUBLISHER/file), file_layout (two digits).
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from store.contents import DIRECTORY
from store.packages import Lent

_PUBLISHER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Cache:
    """The cache of one attempt: its directory, and the names of the linked files."""

    store: Lent
    directory: Path
    linked: frozenset[str]

    @property
    def environment(self) -> dict[str, str]:
        """What tells pkg of the cache."""
        return {"PKG_CACHEROOT": str(self.directory)}

    def note_use(self, names: Iterable[str]) -> int:
        """Note which of the linked files the image uses. Returns their number."""
        used = self.linked.intersection(names)
        for name in used:
            self.store.note_use(name)
        return len(used)


def lend_cache(store: Lent, publishers: Iterable[str]) -> Cache:
    """Make the cache of this attempt for packages of these publishers."""
    directory = store.incoming / DIRECTORY
    directory.mkdir(exist_ok=True)
    # pkg removes its directory for incoming files together with all parents that are then empty.
    (directory / ".keep").touch()
    names = frozenset(store.contents())
    for publisher in publishers:
        if _PUBLISHER.fullmatch(publisher):
            _link(store, directory / publisher / "file", names)
    return Cache(store, directory, names)


def _link(store: Lent, files: Path, names: Iterable[str]) -> None:
    made: set[str] = set()
    for name in names:
        first = name[:2]
        if first not in made:
            (files / first).mkdir(parents=True, exist_ok=True)
            made.add(first)
        place = files / first / name
        if not os.path.lexists(place):
            place.symlink_to(store.content(name))
