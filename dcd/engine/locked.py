"""Locked builds: which packages they use, and the state of their repositories for keys.

The state of a captured repository reads as that of its mirror did when it was captured, so a locked build of
the same manifest has the same keys as the build that it is locked to, and reuses its results. Blocking.
"""

import gzip
import zlib
from collections.abc import Iterable

from dcd.checkpoints.interface import Known
from dcd.engine.stores import Stores
from dcd.platform.apt_release import date_of
from dcd.platform.host_labels import of_host
from statemachine.build import BuildState
from statemachine.errors import DcdError, NotFound, Refused
from statemachine.keys import digest
from statemachine.plan import Locked
from store.captured import captured_files
from store.host.regular import open_regular
from store.packages import Packages
from store.resolved import RepositoryFile, Resolved, union

_HEAD_BYTES = 1 << 16

_RELEASES = ("InRelease", "Release")


def known_repositories(stores: Stores, locked: Locked) -> Known:
    """What the planner knows of the repositories of a locked build. Raises NotFound for lists or packages
    that the package store does not have, Refused for lists without packages of Debian."""
    captured_files(stores.packages, locked.lists)
    lists = [stores.packages.resolved(sha256) for sha256 in locked.lists]
    if not any(resolved.repositories for resolved in lists):
        raise Refused("the locked builds have no repositories of Debian packages")
    versions = digest([list(locked.lists), locked.versions]) if locked.versions else ""
    return Known(union(lists).repositories, _states(stores, lists), versions)


def has_inputs(stores: Stores, state: BuildState) -> bool:
    """Whether the captured files of a build are here, and the packages of a locked one."""
    try:
        has_files = all(stores.blobs.has(file.sha256) for file in state.inputs)
    except DcdError:  # what another member has recorded names no file
        return False
    return has_files and (state.locked is None or has_locked(stores.packages, state.locked))


def has_locked(packages: Packages, locked: Locked) -> bool:
    """Whether the package store has what a locked build takes from it."""
    try:
        return all(
            packages.has(name) and (locked.fetch or not packages.missing(packages.resolved(name)))
            for name in locked.lists
        )
    except DcdError:  # a damaged list
        return False


def _states(stores: Stores, lists: Iterable[Resolved]) -> dict[str, str]:
    found: dict[str, dict[str, str]] = {}
    for resolved in lists:
        for file in resolved.files:
            if file.path in _RELEASES:
                name = f"{file.repository} {file.suite}"
                found.setdefault(name, {})[file.sha256] = _date(stores, file)
    return {name: _state(dates) for name, dates in found.items()}


def _state(dates: dict[str, str]) -> str:
    """As `Checkpoint.external_state` describes it, of one release file or of several."""
    [*digests] = dates
    sha256 = digests[0] if len(digests) == 1 else digest(sorted(digests))
    return f"{sha256} {max(dates.values())}".strip()


def _date(stores: Stores, file: RepositoryFile) -> str:
    if not file.stored:
        raise NotFound(f"the release file of {file.repository} {file.suite} was not captured")
    try:
        with open_regular(stores.packages.path(file.stored)) as stored:
            if file.compressed:
                with gzip.GzipFile(fileobj=stored) as content:
                    return date_of(content.read(_HEAD_BYTES))
            return date_of(stored.read(_HEAD_BYTES))
    except (OSError, EOFError, zlib.error) as error:
        raise DcdError(
            f"the release file of {file.repository} {file.suite} is damaged", str(error)
        ) from error


def require_packages_here(state: BuildState, host: str) -> None:
    """Raise Refused when the packages of a locked build are on another member of a farm than `host`."""
    there = [each for each in state.requires if each.startswith(of_host(""))]
    if state.locked and there and of_host(host) not in there:
        raise Refused(
            f"the packages of build {state.id} are on another member: {' '.join(there)}",
            "another manifest for a locked build is planned where they are",
            f"give the command there: dcctl resume {state.id} --manifest FILE",
        )
