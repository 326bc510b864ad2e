"""The package store of the daemon, for a transfer of Debian packages: apt's cache, and the capture.

As a cache: what another build has downloaded is not downloaded again. The digests come from the package lists
that apt has just verified, and the copies are verified against them.

The capture: every package, every index of packages and every release file that apt used goes into the store,
with the keyrings that their signatures were checked with, and a list names all of them (`store.resolved`).
The digest of each package is held against apt's own lists. What is of no repository does not go into the
store, where it would be everybody's: packages beside the manifest, which are captured inputs of the build,
and those that an earlier checkpoint has left in apt's cache. Indexes are compressed again: apt works on them
many times and keeps them uncompressed, and release files always list that form.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import file_digest
from pathlib import Path
from urllib.parse import unquote

from dcd.checkpoints.interface import Context, Report, Stage, UnsuitedBase
from dcd.platform.apt import Source, as_written, configured_paths
from dcd.platform.apt_root import (
    ARCHIVES,
    LISTS,
    Environment,
    Place,
    WantedFile,
    index_files,
    release_files,
    wanted_files,
)
from dcd.platform.inside import resolve
from statemachine.errors import CheckpointError
from store.host.mounts import unmount
from store.packages import Lent
from store.resolved import Repository, RepositoryFile, Resolved, ResolvedPackage, encoded, union

Wanted = Mapping[str, WantedFile]
"""The packages of a transfer as apt's lists describe them, by their names in the package cache."""


def wanted_by_name(environment: Environment, packages: Sequence[str]) -> Wanted:
    """What apt would download for the packages."""
    if not packages:
        return {}
    return {file.name: file for file in wanted_files(environment, packages)}


def fill_cache(context: Context, place: Place, wanted: Wanted) -> set[str]:
    """Put what the store has of the packages into the package cache of the root. Returns the names of the
    files."""
    if context.packages is None or context.packages.is_empty():
        return set()
    archives = resolve(place.root, ARCHIVES)
    found = {
        file.name
        for file in wanted.values()
        if context.packages.copy(file.sha256, archives / file.name)
    }
    if found:
        context.report(
            Report(message=f"from the package store: {len(found)} of {len(wanted)} packages")
        )
    return found


def list_below(context: Context) -> Resolved | None:
    """What the layer below was captured with; None when there is no such layer, or nothing is captured.
    Raises UnsuitedBase when it is lost."""
    store = context.packages
    if context.stage is not Stage.REST or store is None or store.capture == "none":
        return None
    if (found := store.listed(context.below) if context.below else None) is None:
        raise UnsuitedBase("the list of the packages in it is lost")
    return found


def capture(
    context: Context,
    place: Place,
    sources: Sequence[Source],
    wanted: Wanted,
    filled: set[str],
    used: Resolved,
    below: Resolved | None = None,
) -> Resolved:
    """Offer the downloaded packages in the cache of the root to the store, unless one of the sources has a
    login, and capture what the transfer used, as the daemon's settings say. `filled` came from the store, and
    `used` is what `capture_repositories` has found. `below` is what the layer below was captured with, from
    the same state of the same repositories. Returns what the transfer used, without repositories unless it is
    captured. Raises CheckpointError for a package with another digest than that of apt's lists, and
    DiskFull."""
    store = context.packages
    if store is None:
        return Resolved()
    shared = _are_shared(sources)
    whole = shared and store.capture == "packages"
    packages = []
    for file in sorted(resolve(place.root, ARCHIVES).glob("*.deb")):
        listed = wanted.get(file.name)
        own = listed is None or is_beside(listed, place)
        kept = listed.sha256 if listed and not own and file.name in filled else ""
        if not kept and shared and not own:
            kept = store.keep(file)
        sha256 = kept or digest_of(file)
        if listed is not None and listed.sha256 != sha256:
            raise CheckpointError(
                f"{file.name} is not the package that the repository lists",
                f"it has sha256 {sha256}, the list {listed.sha256}",
                "resume the build to download it again",
            )
        uri = "" if listed is None or own else as_written(listed.uri, sources)
        packages.append(resolved_package(file, sha256, uri, captured=whole and bool(kept)))
    resolved = Resolved(tuple(packages))
    if store.capture == "none":
        return resolved if below is None else union((below, resolved))
    if below is None:
        resolved = replace(resolved, files=used.files, repositories=used.repositories)
    else:
        resolved = union((below, resolved))
    if name := store.add(encoded(resolved)):
        context.resolve(name)
    if not shared:
        context.warn(
            "the packages are not captured, since a repository needs a login: the image cannot be rebuilt "
            "without that repository"
        )
    return resolved


def capture_repositories(
    context: Context, place: Place, environment: Environment, sources: Sequence[Source]
) -> Resolved:
    """Capture the repositories that the transfer uses, and what apt has fetched of them, as the daemon's
    settings say. Raises DiskFull."""
    store = context.packages
    if store is None or store.capture == "none" or context.stage is Stage.REST:
        return Resolved()
    whole = _are_shared(sources) and store.capture == "packages"
    return Resolved(
        files=tuple(_repository_files(context, place, environment, sources, whole)),
        repositories=tuple(
            _repository(source, store if whole else None, place) for source in sources
        ),
    )


def _are_shared(sources: Sequence[Source]) -> bool:
    """Whether what comes from them may be in the store, where it is everybody's."""
    return not any(source.login for source in sources)


def leave_store(context: Context) -> None:
    """Take the store out of the reach of what runs from here on: the packages' scripts."""
    if context.packages is not None:
        for directory in (context.packages.kept, context.packages.incoming):
            if directory.is_mount():
                unmount(directory)


def is_beside(listed: WantedFile, place: Place) -> bool:
    """Whether it is a package beside the manifest (`deb_local`)."""
    return listed.uri.startswith(f"copy:{place.root}/")


def resolved_package(
    file: Path, sha256: str, uri: str = "", *, captured: bool = False
) -> ResolvedPackage:
    """The entry of a package's file in the cache, by apt's name for it."""
    # apt's own name for it: NAME_VERSION_ARCHITECTURE.deb, with what a file name cannot hold quoted.
    name, version, architecture = (unquote(part) for part in file.stem.split("_"))
    return ResolvedPackage(
        kind="deb",
        name=name,
        version=version,
        architecture=architecture,
        sha256=sha256,
        size_bytes=file.stat().st_size,
        uri=uri,
        captured=captured,
    )


def _repository_files(
    context: Context,
    place: Place,
    environment: Environment,
    sources: Sequence[Source],
    whole: bool,
) -> Iterator[RepositoryFile]:
    """The release files and the indexes of packages that apt has fetched."""
    store = context.packages
    assert store is not None
    releases = release_files(resolve(place.root, LISTS))
    for source in sources:
        file = releases[context.external[source.name].split()[0]]
        kind = "InRelease" if file.name.endswith("InRelease") else "Release"
        signature = file.with_name(f"{file.name}.gpg")
        for name, each in ((kind, file), ("Release.gpg", signature)):
            if each.is_file():
                stored = store.keep(each) if whole else ""
                yield _described(source, name, each, stored)
    by_place = {(source.fetched_uri.rstrip("/"), source.suite): source for source in sources}
    for index in index_files(environment):
        found = by_place.get((index.uri.rstrip("/"), index.suite))
        if found is None:
            continue  # Packages beside the manifest are captured with it.
        stored = store.keep_compressed(index.file) if whole else ""
        yield _described(found, index.name.removeprefix("./"), index.file, stored)


def _described(source: Source, name: str, file: Path, stored: str) -> RepositoryFile:
    size = file.stat().st_size
    return RepositoryFile(source.uri, source.suite, name, digest_of(file), size, stored)


def _repository(source: Source, store: Lent | None, place: Place) -> Repository:
    """The source; with the store, the keyrings that apt checks its signature with are stored there."""
    by_path = source.signed_by.startswith("/")
    by_manifest = Path(source.signed_by).is_relative_to(place.aside)
    keyrings: list[str] = []
    if store is not None and not source.trusted:
        files = [Path(source.signed_by)] if by_path else []
        keyrings = [store.keep(file) for file in files or trusted_keyrings(source)]
    return Repository(
        source.uri,
        source.suite,
        source.components,
        source.trusted,
        "" if by_path else source.signed_by,
        tuple(keyrings),
        # Those of the manifest are captured files, and in place for the attempt only.
        source.signed_by if by_path and not by_manifest else "",
    )


def trusted_keyrings(source: Source) -> list[Path]:
    """The keyrings that this host's apt trusts for every repository, if the source names no key."""
    if source.signed_by:
        return []
    single, parts = configured_paths("Dir::Etc::Trusted/f", "Dir::Etc::TrustedParts/d")
    found = [Path(single)] if single else []
    found += sorted(Path(parts).iterdir()) if parts and Path(parts).is_dir() else []
    return [file for file in found if file.suffix in (".gpg", ".asc") and file.is_file()]


def digest_of(file: Path) -> str:
    """The sha256 of a file."""
    with file.open("rb") as content:
        return file_digest(content, "sha256").hexdigest()
