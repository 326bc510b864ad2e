"""Packages beside the manifest: captured directories of .deb files, as repositories of one transfer.

The packages are put below the package cache of the root, where apt's user can read them, with an index made
from their own fields, and removed when apt has copied what it needs. They are trusted: the submitter names
them as the packages to install. Source: deb(5), deb-control(5); the flat repositories of sources.list(5).
"""

import hashlib
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dcd.checkpoints.areas import captured_file
from dcd.checkpoints.interface import Context
from dcd.manifest.objects.software import Repository, Software
from dcd.platform.apt import Source
from dcd.platform.apt_root import ARCHIVES, Place
from dcd.platform.inside import make_directory, readable, resolve
from statemachine.errors import CheckpointError
from store.host.process import ToolFailed, run

_ABOVE = PurePosixPath(ARCHIVES).parent
_DATE = "Thu, 01 Jan 1970 00:00:00 UTC"
"""apt wants one; the same packages have the same index."""


@dataclass(frozen=True, slots=True)
class Local:
    """The directories as sources of apt, and the sha256 of each one's release file."""

    sources: tuple[Source, ...] = ()
    releases: frozenset[str] = frozenset()


def has_local(software: Software) -> bool:
    """Whether the software has packages beside the manifest."""
    return any(each.source for each in software.get_descendants(class_type=Repository))


@contextmanager
def local_sources(context: Context, place: Place, software: Software) -> Iterator[Local]:
    """The captured packages of the software as sources, for as long as the context is open. Raises
    `CheckpointError` for a file that is no package, at the place of its directory in the manifest."""
    made: list[Path] = []
    sources: list[Source] = []
    releases: set[str] = set()
    try:
        for repository in software.get_descendants(class_type=Repository):
            if not repository.source:
                continue
            name = f"{_ABOVE}/dcd-{len(made) + 1}"
            shutil.rmtree(resolve(place.root, name), ignore_errors=True)
            directory = make_directory(place.root, name)
            made.append(directory)
            try:
                _unpack(captured_file(context.inputs, repository.source), directory)
                releases.add(_index(directory))
            except CheckpointError as error:
                where = ": ".join(filter(None, (str(repository.origin or ""), error.details)))
                raise CheckpointError(
                    f"the packages in {repository.source} cannot be used: {error.brief}",
                    where,
                    error.resolution,
                ) from error
            sources.append(Source(f"copy:{directory}", "./", (), trusted=True))
        yield Local(tuple(sources), frozenset(releases))
    finally:
        for directory in made:
            shutil.rmtree(directory, ignore_errors=True)


def _unpack(archive: Path, directory: Path) -> None:
    """Unpack the packages. Nothing else in the archive is read, and no name leads out of the directory."""
    with tarfile.open(archive, "r:", errors="surrogateescape") as tar:
        for member in tar:
            if not member.isreg() and not member.islnk():
                continue
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts or path.suffix != ".deb":
                raise CheckpointError(f"{readable(member.name)} is no package of the directory")
            content = tar.extractfile(member)
            if content is None:
                raise CheckpointError(f"{readable(member.name)} is a link to nothing")
            target = make_directory(directory, path.parent) / path.name
            with content, target.open("wb") as sink:
                shutil.copyfileobj(content, sink, 1 << 20)
            target.chmod(0o644)


def _index(directory: Path) -> str:
    """Write the index and the release file of a flat repository. Returns the release file's sha256."""
    stanzas = []
    for file in sorted(directory.rglob("*.deb")):
        below = file.relative_to(directory)
        try:
            fields = run(
                ["dpkg-deb", "--field", file], capture=True, timeout_seconds=60
            ).stdout.strip()
        except ToolFailed as error:
            raise CheckpointError(
                f"{readable(below)} is no Debian package",
                error.output,
                "build it again, or remove it",
            ) from error
        if any(character.isspace() for character in str(below)):
            raise CheckpointError(
                f"{readable(below)} has a blank in its name",
                "",
                "rename it as dpkg-deb names packages",
            )
        stanzas.append(
            f"{fields}\nFilename: ./{below}\nSize: {file.stat().st_size}\nSHA256: {_digest(file)}\n"
        )
    packages = directory / "Packages"
    packages.write_text("\n".join(stanzas), "utf-8", "surrogateescape")
    release = directory / "Release"
    release.write_text(
        f"Label: packages beside the manifest\nDate: {_DATE}\nSHA256:\n"
        f" {_digest(packages)} {packages.stat().st_size} Packages\n"
    )
    for file in (packages, release):
        file.chmod(0o644)
    return _digest(release)


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
