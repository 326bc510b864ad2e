"""The statements about a build's products, from its events and the lists of packages that these name.

A list has the digest that the event names, so a statement stays a function of the events; when the package
store has a list no more, the statement names it by its digest alone. Blocking.
"""

from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import quote, urlsplit

from statemachine.errors import DcdError
from statemachine.events import CheckpointCompleted, CheckpointReused, Event
from statemachine.plan import Json
from statemachine.provenance import provenance
from store.packages import Packages
from store.resolved import Resolved, ResolvedPackage


def provenance_of(
    packages: Packages, events: Sequence[Event], parameters: Mapping[str, str]
) -> str:
    """The provenance of a build, with the packages that it used. Raises Refused."""
    names = {
        event.data.resolved
        for event in events
        if isinstance(event.data, CheckpointCompleted | CheckpointReused) and event.data.resolved
    }
    return provenance(events, parameters, dict(_lists(packages, names)))


def _lists(packages: Packages, names: set[str]) -> Iterator[tuple[str, list[Json]]]:
    for name in names:
        try:
            yield name, list(_entries(packages.resolved(name)))
        except DcdError:
            continue


def _entries(resolved: Resolved) -> Iterator[Json]:
    for package in resolved.packages:
        entry: Json = {
            "name": package.name,
            "uri": _package_url(package),
            "digest": {"sha256": package.sha256},
            "downloadLocation": package.uri,
        }
        if package.accepted:
            entry["annotations"] = {"acceptedLicences": list(package.accepted)}
        yield entry
    for file in resolved.files:
        below = file.suite if file.suite.endswith("/") else f"dists/{file.suite}/"
        yield {
            "name": f"{file.suite} {file.path}",
            "uri": f"{file.repository.rstrip('/')}/{below}{file.path}",
            "digest": {"sha256": file.sha256},
        }


def _package_url(package: ResolvedPackage) -> str:
    """The package's URL. Source: the package URL specification, types deb and generic."""
    version = quote(package.version, safe="~.-")
    if package.kind != "deb":
        return f"pkg:generic/{quote(package.name, safe='/~.-')}@{version}"
    place = urlsplit(package.uri)
    # Mirrors have the archive in a directory of its name.
    vendor = "ubuntu" if "ubuntu" in f"{place.hostname}{place.path}" else "debian"
    name = quote(package.name, safe="~.-")
    return f"pkg:deb/{vendor}/{name}@{version}?arch={quote(package.architecture)}"
