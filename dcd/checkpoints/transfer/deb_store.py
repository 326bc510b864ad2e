"""The package store of the daemon as apt's cache: what another build has downloaded is not downloaded again.

The digests come from the package lists that apt has just verified, and the copies are verified against them.
"""

from collections.abc import Sequence

from dcd.checkpoints.interface import Context, Report
from dcd.platform.apt import Source
from dcd.platform.apt_root import ARCHIVES, Environment, Place, wanted_files
from dcd.platform.inside import resolve
from store.host.mounts import unmount


def fill_cache(
    context: Context, place: Place, environment: Environment, packages: Sequence[str]
) -> set[str]:
    """Put what the store has of the packages, and of all they depend on, into the package cache of the root.
    Returns the names of the files."""
    if context.packages is None or context.packages.is_empty():
        return set()
    files = wanted_files(environment, packages)
    archives = resolve(place.root, ARCHIVES)
    found = {
        file.name for file in files if context.packages.copy(file.sha256, archives / file.name)
    }
    if found:
        context.report(
            Report(message=f"from the package store: {len(found)} of {len(files)} packages")
        )
    return found


def keep_downloads(
    context: Context, place: Place, sources: Sequence[Source], filled: set[str]
) -> None:
    """Offer the downloaded packages in the cache of the root to the store, unless the manifest has a login
    for a source."""
    if context.packages is None or any(source.login for source in sources):
        return
    for file in sorted(resolve(place.root, ARCHIVES).glob("*.deb")):
        if file.name not in filled:
            context.packages.keep(file)


def leave_store(context: Context) -> None:
    """Take the store out of the reach of what runs from here on: the packages' scripts."""
    if context.packages is not None:
        for directory in (context.packages.kept, context.packages.incoming):
            if directory.is_mount():
                unmount(directory)
