"""Reading an export: a tar archive from a stranger.

Nothing of it is extracted. Every file is read where it is in the archive, in the order of the index, and has
to have the size and the digest that the index gives it; the index is bounded, and so is the number of files.
What is not exactly so is refused before anything is sent to a daemon.
"""

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cli.client import CHUNK_BYTES, ClientError, Json

FORMAT = "dcd-export-1"
MOST_INDEX_BYTES = 32 * 1024**2
MOST_FILES = 100_000

_NAME = re.compile(
    r"manifest\.xml|provenance(\.dsse)?\.json|(inputs|packages|contents)/[0-9a-f]{64}"
)


@dataclass(frozen=True, slots=True)
class Exported:
    """An export whose files all have the digests of its index."""

    path: Path
    index: Json
    places: Mapping[str, tuple[int, int]]
    """Where each file is in the archive: its first byte, and its size in bytes."""

    def names(self, directory: str) -> list[str]:
        """The digests of the files in a directory."""
        start = f"{directory}/"
        names = (each["path"] for each in self.index["files"])
        return [name.removeprefix(start) for name in names if name.startswith(start)]

    def size_bytes(self, name: str) -> int:
        """The size of a file."""
        return self.places[name][1]

    def pieces(self, name: str) -> Iterator[bytes]:
        """The content of a file. A receiver that knows its digest notices when the export has changed."""
        begin, left = self.places.get(name, (0, 0))
        with _reporting(self.path), self.path.open("rb") as file:
            file.seek(begin)
            while left and (piece := file.read(min(left, 16 * CHUNK_BYTES))):
                left -= len(piece)
                yield piece

    def text(self, name: str) -> bytes:
        """The content of a short file; empty without one."""
        return b"".join(self.pieces(name))


def read_export(path: Path) -> Exported:
    """The export in a file, every byte of it checked. Raises ClientError."""
    with _opened(path) as archive:
        members = iter(archive)
        first = next(members, None)
        if (
            first is None
            or first.name != "export.json"
            or not _is_plain(first)
            or first.size > MOST_INDEX_BYTES
        ):
            raise bad(path, "its first file is no index")
        index = _index(path, b"".join(_read(archive, first)))
        expected = {each["path"]: each for each in index["files"]}
        places: dict[str, tuple[int, int]] = {}
        for member in members:
            wanted = expected.get(member.name)
            if wanted is None or member.name in places or not _is_plain(member):
                raise bad(path, f"{member.name[:100]!r} is not a file of its index")
            if member.size != wanted["size_bytes"]:
                raise bad(
                    path, f"{member.name} has {member.size} bytes, not as many as the index says"
                )
            places[member.name] = (member.offset_data, member.size)
            digest = hashlib.sha256()
            for piece in _read(archive, member):
                digest.update(piece)
            if digest.hexdigest() != wanted["sha256"]:
                raise bad(
                    path, f"{member.name} has sha256 {digest.hexdigest()}, not that of the index"
                )
        if missing := sorted(expected.keys() - places.keys()):
            raise bad(path, f"{missing[0]} is missing, and {len(missing) - 1} other files")
    return Exported(path, index, places)


def bad(path: Path, details: str) -> ClientError:
    """The error for an export that cannot be used."""
    return ClientError(
        "bad-export",
        f"the export {path} is altered or damaged",
        details,
        "get it again from its publisher; nothing of it was used",
    )


def _is_plain(member: tarfile.TarInfo) -> bool:
    """Whether it is a regular file whose bytes are all in the archive."""
    return member.isreg() and not member.issparse()


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    with _reporting(path), tarfile.open(path, "r:") as archive:
        yield archive


@contextmanager
def _reporting(path: Path) -> Iterator[None]:
    try:
        yield
    except tarfile.TarError as error:
        raise bad(path, f"it is no tar archive: {error}") from None
    except OSError as error:
        raise ClientError("not-found", f"{path} cannot be read", error.strerror or "") from None


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    file = archive.extractfile(member)
    if file is None:
        return
    while piece := file.read(16 * CHUNK_BYTES):
        yield piece


def _index(path: Path, text: bytes) -> Json:
    try:
        index = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise bad(path, f"its index is not JSON: {error}") from None
    match index:
        case {
            "format": str(form),
            "name": str(),
            "manifest_path": str(),
            "source_date_epoch": int(),
            "lists": [*lists],
            "inputs": [*inputs],
            "rebuild": dict(),
            "files": [*files],
        } if form == FORMAT and len(files) <= MOST_FILES:
            paths = [each.get("path") for each in files if _is_file(each)]
            unique = len(paths) == len(files) == len(set(paths))
            if unique and all(map(_is_input, inputs)) and all(isinstance(x, str) for x in lists):
                return index
        case {"format": str(form)} if form != FORMAT:
            raise bad(path, f"it has the format {form[:100]!r}; this dcctl reads {FORMAT}")
    raise bad(path, "its index is not as dcd writes it")


def _is_file(value: Json) -> bool:
    match value:
        case {"path": str(name), "sha256": str(digest), "size_bytes": int()}:
            _, _, own = name.partition("/")
            return bool(_NAME.fullmatch(name)) and own in ("", digest)
    return False


def _is_input(value: Json) -> bool:
    match value:
        case {"path": str(), "sha256": str(), "mode": int()}:
            return True
    return False
