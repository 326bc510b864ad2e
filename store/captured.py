"""What the package store has of a build, and repositories made from it again.

A build names its lists (`BuildState.resolved`), a list names files of the store (`store.resolved`):

    resolved = resolved_of(packages, state.resolved)     everything that transfers put into the image
    files = captured_files(packages, state.resolved)     all files of it, the lists included, for an export
    made = make_repositories(resolved, packages.path, directory)

`make_repositories` lays the files out as the mirrors did: with the release file and its signature, so apt
checks all of them once more, from the keyring down to each package. Blocking; changes nothing in the store.
"""

import gzip
import hashlib
import shutil
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from statemachine.errors import DcdError, NotFound
from store.host.regular import open_regular
from store.packages import Packages
from store.resolved import Repository, Resolved, union


@dataclass(frozen=True, slots=True)
class CapturedFile:
    """A file of the package store."""

    sha256: str
    path: Path
    size_bytes: int


@dataclass(frozen=True, slots=True)
class MadeRepository:
    """A repository that was made from captured files. apt reads it as `copy:` + `directory` with the same
    suite and components, and checks it with `keyrings` (or, without one, with `repository.signed_by`). By
    `file:` it would insist on the compressed indexes that the release file lists too."""

    repository: Repository
    directory: Path
    keyrings: tuple[Path, ...]


def resolved_of(packages: Packages, lists: Iterable[str]) -> Resolved:
    """All that the lists of a build name. Raises NotFound for a list that the store does not have."""
    return union(packages.resolved(each) for each in lists)


def captured_files(packages: Packages, lists: Iterable[str]) -> list[CapturedFile]:
    """All files that the store keeps for a build: the lists, and what they name, each once. Raises NotFound,
    which names how many are missing."""
    names: dict[str, None] = dict.fromkeys(lists)
    resolved = resolved_of(packages, names)
    # Those without an address are brought by the build's own inputs, or by its earlier checkpoints.
    uncaptured = [
        each for each in resolved.packages if each.kind == "deb" and each.uri and not each.captured
    ]
    if uncaptured:
        raise NotFound(
            f"{len(uncaptured)} packages of this build were not captured",
            ", ".join(f"{each.name} {each.version}" for each in uncaptured[:5]),
            "build again with capture = packages in the daemon's configuration (dcctl submit --fresh)",
        )
    if missing := packages.missing(resolved):
        raise NotFound(
            f"{len(missing)} captured files of this build are not in the package store any more",
            ", ".join(missing[:5]),
            "build again (dcctl submit --fresh)",
        )
    paths = [packages.path(name) for name in {**names, **resolved.stored()}]
    return [CapturedFile(path.name, path, path.stat().st_size) for path in sorted(paths)]


def make_repositories(
    resolved: Resolved, path_of: Callable[[str], Path], directory: Path
) -> list[MadeRepository]:
    """Make every repository of a list below a new directory, from its captured files; `path_of` gives the
    file of a digest. Each file is digested as it is copied. Raises NotFound, and DcdError for a file that is
    damaged or a path that leads out of its repository."""
    directory.mkdir()
    made = []
    for number, repository in enumerate(resolved.repositories):
        place = directory / f"{number}"
        place.mkdir()
        release = place if repository.suite.endswith("/") else place / "dists"
        for file in resolved.files:
            if (file.repository, file.suite) == (repository.uri, repository.suite) and file.stored:
                target = _below(release / file.suite, file.path)
                _put(path_of(file.stored), target, file.sha256, packed=file.compressed)
        base = _path(repository.uri)
        for package in resolved.packages:
            if package.captured and _is_below(package.uri, repository.uri):
                target = _below(place, _path(package.uri)[len(base) :].lstrip("/"))
                _put(path_of(package.sha256), target, package.sha256)
        made.append(MadeRepository(repository, place, _keyrings(repository, path_of, place)))
    return made


def _keyrings(
    repository: Repository, path_of: Callable[[str], Path], place: Path
) -> tuple[Path, ...]:
    found = []
    for number, sha256 in enumerate(repository.keyrings):
        source = path_of(sha256)
        with open_regular(source) as file:
            armored = file.read(10) == b"-----BEGIN"
        # apt recognizes a keyring's format by its name.
        target = place / f"keyring-{number}{'.asc' if armored else '.gpg'}"
        _put(source, target, sha256)
        found.append(target)
    return tuple(found)


def _put(source: Path, target: Path, sha256: str, *, packed: bool = False) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        return
    try:
        with (
            open_regular(source) as file,
            target.open("xb") as sink,
            gzip.GzipFile(fileobj=file) if packed else file as content,
        ):
            shutil.copyfileobj(content, sink, 1 << 20)
        with target.open("rb") as written:
            found = hashlib.file_digest(written, "sha256").hexdigest()
    except (OSError, EOFError, zlib.error) as error:
        raise DcdError(f"the captured file {source.name} cannot be read", str(error)) from error
    if found != sha256:
        raise DcdError(
            f"the captured file {source.name} is damaged",
            f"{PurePosixPath(target.name)} has sha256 {found} instead of {sha256}",
            "take it from another copy, or build again",
        )


def _path(uri: str) -> str:
    return unquote(urlsplit(uri).path).rstrip("/")


def _is_below(uri: str, repository: str) -> bool:
    """Whether a file belongs to a repository, by its URI."""
    parts, base = urlsplit(uri), urlsplit(repository)
    same_host = (parts.scheme, parts.netloc) == (base.scheme, base.netloc)
    return same_host and _path(uri).startswith(f"{_path(repository)}/")


def _below(directory: Path, path: str) -> Path:
    names = PurePosixPath(path)
    if names.is_absolute() or ".." in names.parts or not names.parts:
        raise DcdError("a captured file is named outside its repository", path)
    return directory / names
