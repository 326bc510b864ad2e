"""Locks of transfers of Debian packages: what a manifest asks for, what has changed in the repositories since
a lock was made, and whether a transfer has resolved to the packages in it.

Two resolutions are the same when they have the same packages by name, version, architecture and digest,
wherever they were downloaded. Packages beside the manifest are none of a lock's: they come with the manifest.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dcd.checkpoints.interface import Ask, Context, Lockable, Stage
from dcd.checkpoints.transfer.deb_architecture import (
    architecture_in,
    changes,
    host_architecture,
)
from dcd.checkpoints.transfer.deb_sources import sources_of
from dcd.checkpoints.transfer.deb_store import trusted_keyrings
from dcd.manifest.data_object import Origin
from dcd.manifest.diagnostics import Diagnostic, error
from dcd.manifest.lock import LockedPackage, LockedRepository, LockedTransfer
from dcd.manifest.objects.software import Image, Pin, Repository, Software, SoftwareData
from dcd.platform.apt import HostApt, Source, host_apt
from dcd.platform.apt_offers import Offer, Wanted, is_newer, newest
from dcd.platform.asking import ask_offers
from dcd.platform.host_parts import file_digest
from statemachine.errors import CheckpointError, Unprepared
from store.resolved import Resolved

_UPDATE = "dcctl lock --update shows what changes, and accepts it"
_REMEDY = f"{_UPDATE}; --offline builds what is locked from the package store"
_NAMED = 20
"""The number of packages that an error names."""


def lockable_of(software: Software, variant: str) -> Lockable:
    """What a lock says of a software, whose variant is given."""
    images = software.get_descendants(class_type=Image)
    place = images[0].origin if images else software.origin
    named = architecture_in(software)
    asks = [Ask(f"variant {variant}", place)]
    for repository in software.get_descendants(class_type=Repository):
        if not repository.source:
            where = repository.uri or "of the host"
            words = ("repository", where, repository.suite or "", repository.components)
            asks.append(Ask(" ".join(filter(None, words)), repository.origin))
    asks += [
        Ask(f"pin {pin.package}: {pin.pin} {pin.priority}", pin.origin)
        for pin in software.get_children(class_type=Pin)
    ]
    for data in software.get_children(class_type=SoftwareData):
        for index, name in enumerate(data.names):
            asks.append(Ask(f"{data.action} {name}", data.place_of("name", index)))
    architecture = named or ("" if changes(software) else host_architecture())
    return Lockable(
        tuple(asks), Ask(architecture, images[0].place_of("architecture") if named else place)
    )


def changes_since_lock(
    software: Software, locked: LockedTransfer, states: Mapping[str, str], http_proxy: str
) -> Iterator[Diagnostic]:
    """See `Checkpoint.changes_since`."""
    host = host_apt()
    sources = sources_of(software, host.sources)
    changed = []
    for source in sources:
        then = locked.releases.get(source.name)
        if then is None:
            yield error(
                _place(software, source),
                f"the lock does not have the repository {source.name}",
                f"It has {', '.join(sorted(locked.releases)) or 'none'}.",
                f"{_UPDATE}; or name one of these repositories in the manifest",
            )
        elif then != states[source.name].split()[0]:
            changed.append(source)
    if not changed:
        return
    # A package may have moved between the suites of an archive.
    archives = {source.uri for source in changed}
    asked = [source for source in sources if source.uri in archives]
    found, unknown = _offers(asked, host, locked, http_proxy)
    for source in changed:
        yield error(
            _place(software, source),
            f"the repository {source.name} has changed since the lock was made",
            f"Its release file had sha256 {locked.releases[source.name]}, now {states[source.name]}. "
            f"{unknown}".strip(),
            _REMEDY,
        )
    for package in locked.packages:
        offer = found.get((package.name, package.architecture))
        inside = any(package.uri.startswith(f"{uri.rstrip('/')}/") for uri in archives)
        if offer and (text := _change(package, offer, inside)):
            yield error(_place_of(software, package.name), text, "", _REMEDY)


def other_keyrings(
    software: Software, locked: LockedTransfer, inputs: Mapping[str, str]
) -> Iterator[Diagnostic]:
    """The repositories that apt would check in another way than when the lock was made. `inputs` are the
    digests of captured keyrings by path."""
    for source in sources_of(software, host_apt().sources):
        then = locked.checked.get(source.name)
        if then is None:
            continue
        if source.trusted != then.trusted:
            before, now = (
                "trusted without a signature" if trusted else "checked by its signature"
                for trusted in (then.trusted, source.trusted)
            )
            yield error(
                _place(software, source),
                f"the repository {source.name} was {before} when the lock was made, and is {now} now",
                "",
                _UPDATE,
            )
        elif not source.trusted and (why := _other_keys(source, then, inputs)):
            yield error(
                _place(software, source),
                f"the keyring of the repository {source.name} has changed since the lock was made",
                why,
                _UPDATE,
            )


def _other_keys(source: Source, then: LockedRepository, inputs: Mapping[str, str]) -> str:
    """The keys of a repository in the lock and now ("": they are the same)."""
    before, now = [then.signed_by, *then.keyrings], _keys(source, inputs)
    if sorted(filter(None, before)) == sorted(filter(None, now)):
        return ""
    was, present = (", ".join(filter(None, each)) or "none" for each in (before, now))
    return f"Its keys were {was}, now {present}."


def _keys(source: Source, inputs: Mapping[str, str]) -> list[str]:
    """The key or the fingerprints that a repository is checked with, or the digests of its keyrings."""
    if source.signed_by in inputs:
        return [inputs[source.signed_by]]
    if source.signed_by and not source.signed_by.startswith("/"):
        return [source.signed_by]
    files = [Path(source.signed_by)] if source.signed_by else trusted_keyrings(source)
    return [*{file_digest(file) for file in files}]


def require_locked(context: Context, resolved: Resolved, lists: Sequence[Resolved]) -> None:
    """Raise CheckpointError unless the packages are those of one of the lists; for a base, unless they are
    among them."""
    found = _identities(resolved)
    expected = [_identities(each) for each in lists]
    if context.stage is Stage.BASE and any(found <= each for each in expected):
        return
    if found in expected:
        return
    nearest = min(expected, key=lambda each: len(each ^ found))
    texts = [f"{' '.join(each)} is not in the lock" for each in sorted(found - nearest)]
    if context.stage is not Stage.BASE:
        texts += [f"{' '.join(each)} is only in the lock" for each in sorted(nearest - found)]
    more = f"\nand {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
    raise CheckpointError(
        "the packages are not those of the lock", "\n".join(texts[:_NAMED]) + more, _UPDATE
    )


def _identities(resolved: Resolved) -> set[tuple[str, str, str, str]]:
    """The packages that have come from repositories."""
    return {
        (each.name, each.version, each.architecture, f"sha256 {each.sha256}")
        for each in resolved.packages
        if each.uri
    }


def _offers(
    sources: Sequence[Source], host: HostApt, locked: LockedTransfer, http_proxy: str
) -> tuple[dict[tuple[str, str], Offer], str]:
    """The offers by name and architecture, and a sentence if there are none."""
    wanted = [
        Wanted(each.name, each.architecture, each.version, each.sha256) for each in locked.packages
    ]
    try:
        found = ask_offers(sources, host, wanted, locked.architecture, http_proxy)
    except Unprepared as failure:
        return {}, f"Which packages have changed is not known: {failure.brief}; {failure.details}."
    unchanged = "" if found else "All locked packages are still there, and there is no newer one."
    return {(each.name, each.architecture): each for each in found}, unchanged


def _change(package: LockedPackage, offer: Offer, inside: bool) -> str:
    known = f"package {package.name} {package.version}"
    if (newer := newest(offer.automatic)) and is_newer(newer, package.version):
        return f"{known} -> {newer}"
    if offer.same or not inside:
        return ""
    if package.version in offer.versions:
        return f"{known} has another digest in its repository now"
    if offer.versions:
        return f"{known} -> {newest(offer.versions)}"
    return f"{known} is gone from its repository"


def _place(software: Software, source: Source) -> Origin | None:
    for repository in software.get_descendants(class_type=Repository):
        named = repository.uri in (None, source.uri)
        if named and repository.suite in (None, source.suite) and not repository.source:
            return repository.origin
    return software.origin


def _place_of(software: Software, package: str) -> Origin | None:
    for data in software.get_children(class_type=SoftwareData):
        for index, name in enumerate(data.names):
            if re.split("[:=/]", name)[0] == package:
                return data.place_of("name", index)
    return software.origin
