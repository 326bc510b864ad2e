"""The repositories of a locked build: what earlier transfers captured, in place of what the mirrors have now.

apt gets the captured release files and indexes in repositories of their own, and checks their signatures once
more. Then each list has the name that it has under its mirror's address: from there on the transfer is like
any other, except that every package comes from the package store and nothing from the network. A release
file that has expired since is accepted.

With the lists of several builds the same repository may have two states. The second one stays under the
address of its captured files, beside the first, and the chosen versions are pinned.
"""

import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from dcd.checkpoints.interface import Context, Known
from dcd.checkpoints.transfer.deb_lock import require_locked
from dcd.checkpoints.transfer.deb_sources import host_ingredients, sources_of
from dcd.checkpoints.transfer.deb_store import Wanted, digest_of, is_beside, resolved_package
from dcd.manifest.objects.software import Software
from dcd.platform.apt import HostApt, Source, host_apt, word
from dcd.platform.apt_root import (
    ARCHIVES,
    Place,
    apt_settings,
    index_files,
    transfers,
    update,
)
from dcd.platform.inside import resolve
from statemachine.errors import CheckpointError, DcdError, Unprepared
from statemachine.plan import Locked
from store.captured import MadeRepository, make_repositories
from store.resolved import (
    Repository,
    RepositoryFile,
    Resolved,
    ResolvedPackage,
    encoded,
    union,
)

OTHERS = "/tmp/dcd-captured"
"""The place of the captured repositories of further builds, in the worker's own /tmp: always the same, since
lists are named for it."""

_NOTHING = HostApt((), "", "")
_RELEASES = ("InRelease", "Release")


def known_state(software: Software, known: Known) -> dict[str, str]:
    """The external state of a transfer in a locked build. Raises Unprepared for a repository that was not
    captured."""
    found = {}
    host = [_source(repository) for repository in known.repositories]
    sources = sources_of(software, host)
    for source in sources:
        if source.name not in known.states:
            names = ", ".join(sorted(known.states)) or "none"
            raise Unprepared(
                f"the locked packages do not come from {source.name}",
                f"their repositories are {names}",
                "name one of these repositories in the manifest, or lock a build that used this one",
            )
        found[source.name] = known.states[source.name]
    # The image gets these keyrings, whatever this host has now: a list may come from elsewhere.
    keyrings: dict[str, list[str]] = {}
    for repository in known.repositories:
        if repository.keyring and repository.keyrings:
            keyrings.setdefault(repository.keyring, []).append(repository.keyrings[0])
    digests = {path: " ".join(dict.fromkeys(each)) for path, each in keyrings.items()}
    found |= host_ingredients(software, sources, digests)
    return {**found, "chosen versions": known.versions} if known.versions else found


def apt_of(context: Context) -> HostApt:
    """The host's apt; in a locked build one with the captured repositories alone."""
    if context.locked is None:
        return host_apt()
    return HostApt(tuple(_source(each) for each in _lists(context)[0].repositories), "", "")


def other_sources(context: Context, sources: Sequence[Source]) -> list[Source]:
    """The further states of the sources in a locked build, which exist only during the transfer."""
    further = _lists(context, sources)[1:] if context.locked else []
    return [
        replace(_source(repository), uri=f"copy:{OTHERS}/{number}/{index}", signed_by="")
        for number, resolved in enumerate(further)
        for index, repository in enumerate(resolved.repositories)
    ]


def provide_lists(
    context: Context,
    place: Place,
    sources: Sequence[Source],
    local: Sequence[Source],
    architecture: str,
) -> None:
    """Put the captured lists of `sources` below the root, as `update` puts the mirrors', and those of
    `local`, which are on this host. Raises CheckpointError for one that is not captured or that does not
    verify."""
    first, *further = _lists(context, sources)
    made = _made(context, first, place.aside / "captured")
    for number, resolved in enumerate(further):
        Path(OTHERS).mkdir(exist_ok=True)
        made += _made(context, resolved, Path(OTHERS) / f"{number}")
    shown = [_readable(each) for each in made]
    apt = apt_settings(place, sources=[*shown, *local], architecture=architecture)
    with transfers(place, _NOTHING, shown, check_valid_until=False) as online:
        update(online, shown)
    shutil.rmtree(OTHERS, ignore_errors=True)
    fetched = {
        (file.uri.rstrip("/"), file.suite, file.name): file.file for file in index_files(apt)
    }
    by_place = {(source.uri.rstrip("/"), source.suite): source for source in sources}
    for each, source in zip(made, shown, strict=True):
        mirror = by_place.get((each.repository.uri.rstrip("/"), each.repository.suite))
        if mirror is None or not each.directory.is_relative_to(place.aside):
            continue
        for (uri, suite, name), file in fetched.items():
            if (uri, suite) == (source.fetched_uri.rstrip("/"), source.suite):
                begin = file.name.removesuffix(_as_file(name))
                _rename(file.parent, begin, _prefix(mirror))
                break


def resolve_locked(context: Context, place: Place, wanted: Wanted, below: Resolved | None) -> None:
    """Record which of the locked packages the transfer puts into the image, and which of those beside the
    manifest, as the manifest has them now. `wanted` is what apt did not have in its cache before."""
    assert context.locked is not None
    assert context.packages is not None
    lists = {sha256: _listed(context, sha256) for sha256 in context.locked.lists}
    whole = union(lists.values())
    archives = {file.name: file for file in resolve(place.root, ARCHIVES).glob("*.deb")}
    own = {name for name in archives if name not in wanted or is_beside(wanted[name], place)}
    packages = {
        each for each in whole.packages if each.uri and _archive(each) in archives.keys() - own
    }
    packages |= {resolved_package(archives[name], digest_of(archives[name])) for name in own}
    packages |= set(below.packages if below else ())
    for sha256, resolved in lists.items():
        if set(resolved.packages) == packages:
            context.resolve(sha256)
            return
    found = Resolved(tuple(packages), whole.files, whole.repositories)
    if context.locked.exactly:
        require_locked(context, found, list(lists.values()))
    context.resolve(context.packages.add(encoded(found)))


def expected_states(context: Context, sources: Sequence[Source]) -> set[str]:
    """The digests of the release files that the sources have to have."""
    if context.locked is None:
        return {context.external[source.name].split()[0] for source in sources}
    return {
        _release(resolved, repository)
        for resolved in _lists(context, sources)
        for repository in resolved.repositories
    }


def chosen_versions(context: Context) -> str:
    """Pins for the packages of which a locked build has several versions. Source: apt_preferences(5)."""
    versions = context.locked.versions if context.locked else {}
    return "\n".join(
        f"Package: {word(name)}\nPin: version {word(version)}\nPin-Priority: 1001\n"
        for name, version in versions.items()
    )


def captured_keyrings(context: Context, aside: Path) -> dict[str, Path]:
    """Copies of the captured keyrings of a locked build in the directory `aside`, by the paths that they had
    on the host."""
    if context.locked is None or context.packages is None:
        return {}
    found: dict[str, Path] = {}
    for resolved in _lists(context):
        for repository in resolved.repositories:
            if repository.keyring and repository.keyrings and repository.keyring not in found:
                copied = aside / f"keyring-of-host-{len(found)}"
                if context.packages.copy(repository.keyrings[0], copied):
                    found[repository.keyring] = copied
    return found


def listed_packages(context: Context, locked: Locked) -> list[Resolved]:
    """The lists of a lock. Raises CheckpointError for one that is lost."""
    return [_listed(context, sha256) for sha256 in locked.lists]


def _lists(context: Context, sources: Sequence[Source] | None = None) -> list[Resolved]:
    """The repositories in their first states, with all packages, then those of further states by list; with
    `sources` these alone."""
    assert context.locked is not None
    names = None if sources is None else {source.name for source in sources}
    lists = [_listed(context, sha256) for sha256 in context.locked.lists]
    states: dict[tuple[str, str], str] = {}
    first: dict[Repository, None] = {}
    further = []
    for resolved in lists:
        others = []
        for repository in resolved.repositories:
            if names is not None and _source(repository).name not in names:
                continue
            place, state = (repository.uri, repository.suite), _release(resolved, repository)
            if states.setdefault(place, state) == state:
                first[repository] = None
            else:
                others.append(repository)
        if others:
            further.append(replace(resolved, repositories=tuple(others)))
    whole = union(lists)
    files = tuple(
        file
        for resolved in lists
        for file in resolved.files
        if states.get((file.repository, file.suite)) == _release(resolved, file)
    )
    return [Resolved(whole.packages, files, _each_place_once(first)), *further]


def _release(resolved: Resolved, of: Repository | RepositoryFile) -> str:
    """The digest of the release file of a repository in a list."""
    uri = of.uri if isinstance(of, Repository) else of.repository
    found = (file for file in resolved.files if (file.repository, file.suite) == (uri, of.suite))
    return next((file.sha256 for file in found if file.path in _RELEASES), "")


def _each_place_once(repositories: Iterable[Repository]) -> tuple[Repository, ...]:
    """The repositories, with the components of all that name the same one."""
    found: dict[tuple[str, str], Repository] = {}
    for each in repositories:
        known = found.setdefault((each.uri, each.suite), each)
        components = tuple(dict.fromkeys((*known.components, *each.components)))
        found[each.uri, each.suite] = replace(known, components=components)
    return tuple(found.values())


def _listed(context: Context, sha256: str) -> Resolved:
    store = context.packages
    resolved = store.listed(sha256) if store is not None else None
    if resolved is None:
        raise CheckpointError(
            "the list of the locked packages is lost",
            f"the package store does not have {sha256}",
            "import the export again, or lock another build",
        )
    return resolved


def _made(context: Context, resolved: Resolved, directory: Path) -> list[MadeRepository]:
    """The repositories of a list, without their packages, which the store lends one by one."""
    store = context.packages
    assert store is not None
    try:
        return make_repositories(
            replace(resolved, packages=()), lambda sha256: store.kept / sha256, directory
        )
    except DcdError as error:
        raise CheckpointError(error.brief, error.details, error.resolution) from error


def _readable(made: MadeRepository) -> Source:
    """A captured repository as apt reads it."""
    keyring = ",".join(map(str, made.keyrings)) or made.repository.signed_by
    return replace(_source(made.repository), uri=f"copy:{made.directory}", signed_by=keyring)


def _source(repository: Repository) -> Source:
    return Source(
        repository.uri,
        repository.suite,
        repository.components,
        repository.signed_by or repository.keyring,
        repository.trusted,
    )


def _rename(directory: Path, begin: str, prefix: str) -> None:
    for file in list(directory.iterdir()):
        if file.name.startswith(begin):
            file.rename(directory / f"{prefix}{file.name.removeprefix(begin)}")


def _prefix(source: Source) -> str:
    """How apt's names of the lists of a source begin. Source: apt, URItoFileName."""
    return _as_file(re.sub(r"^[a-z+]+:/*", "", source.release_uri))


def _as_file(text: str) -> str:
    quoted = re.sub(r"[\\|{}\[\]<>\"^~_=!@#$%&*]", lambda found: f"%{ord(found[0]):02x}", text)
    return quoted.replace("/", "_")


def _archive(package: ResolvedPackage) -> str:
    """apt's name for the file of a package in its cache."""
    version = package.version.replace(":", "%3a")
    return f"{package.name}_{version}_{package.architecture}.deb"
