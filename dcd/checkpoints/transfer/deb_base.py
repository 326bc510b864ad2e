"""The base of a transfer of Debian packages: a layer with what the variant brings, which all manifests share
that differ only in the packages that they list.

The base layer keeps the package lists (`deb_lists`). The rest is installed onto the base only if that gives
the packages that one installation of both would give: a listed package may replace one of the variant, or may
make apt choose another alternative of a dependency. An attempt that makes the base has chosen all packages
already, to download them ahead, and hands the choice on.
"""

from collections.abc import Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256

import msgspec
from lxml import etree

from dcd.checkpoints.interface import Base, Context, UnsuitedBase
from dcd.checkpoints.packages import debian_list
from dcd.checkpoints.transfer.deb_store import Wanted, wanted_by_name
from dcd.manifest.objects.software import Software, SoftwareData
from dcd.manifest.registry import write
from dcd.platform.apt_root import Environment, Place, WantedFile, with_nothing_installed
from statemachine.errors import CheckpointError

_NAMED = 5
"""How many packages a message names."""


def base_of(software: Software) -> Base:
    """The base of a software: everything in it except the listed packages."""
    element = write(software)
    assert element is not None
    element.attrib.pop("name", "")
    for data in element.findall(SoftwareData.TAG):
        if data.get("action", "install") == "install":
            element.remove(data)
    decides = etree.tostring(element, method="c14n2")
    return Base(sha256(decides).hexdigest(), tuple(dict.fromkeys(software.names("install"))))


@dataclass(frozen=True, slots=True)
class Chosen:
    """The packages of a stage: the `names` that apt is asked for, and the files `wanted` for them. `ahead`
    has those of the next stage. `whole` has all packages of the image, if the result must have exactly
    these."""

    names: Sequence[str]
    wanted: Wanted
    whole: Wanted | None = None
    ahead: Wanted = field(default_factory=dict)


def choose_base(
    context: Context, apt: Environment, variant: Sequence[str], listed: Sequence[str]
) -> Chosen:
    """The packages of the base, and ahead those of the rest; all of them are handed on. When apt finds no
    solution for both together, the download of these tells why."""
    everything = [*variant, *listed]
    with ThreadPoolExecutor(2) as beside:
        base, whole = beside.map(partial(wanted_by_name, apt), (variant, everything))
    if not whole:
        return Chosen(everything, {})
    context.hand_on(msgspec.json.encode([*whole.values()]).decode())
    suits = base.keys() <= whole.keys()
    rest = {name: file for name, file in whole.items() if suits and name not in base}
    return Chosen(variant, base, ahead=rest)


def choose_rest(
    place: Place, variant: Sequence[str], listed: Sequence[str], whole: Wanted | None = None
) -> Chosen:
    """The packages of one installation of everything, `whole` if they are known, that the base in the root
    does not have. Raises `UnsuitedBase` when the base has others."""
    if whole is None:
        whole = wanted_by_name(with_nothing_installed(place), [*variant, *listed])
    if not whole:
        return Chosen(listed, {}, {})  # the download tells why
    there = _installed(place)
    _require_none(there - whole.keys())
    rest = {name: file for name, file in whole.items() if name not in there}
    return Chosen(listed, rest, whole)


def chosen_ahead(context: Context) -> Wanted | None:
    """What `choose_base` has handed on; None when another attempt has made the base."""
    try:
        found = msgspec.json.decode(context.handed or "null", type=list[WantedFile] | None)
    except msgspec.DecodeError:
        return None
    return None if found is None else {file.name: file for file in found}


@contextmanager
def same_packages(place: Place, apt: Environment, chosen: Chosen) -> Iterator[None]:
    """Raise `UnsuitedBase` unless the packages in the root are exactly `chosen.whole` after the body, which
    installs the rest. On the base apt may choose another alternative, which was not downloaded."""
    if chosen.whole is None:
        yield
        return
    try:
        yield
    except CheckpointError:
        _require_none(wanted_by_name(apt, chosen.names).keys())
        raise
    _require_none(_installed(place) ^ chosen.whole.keys())


def _require_none(differing: Set[str]) -> None:
    if differing:
        first = sorted(differing)[:_NAMED]
        names = ", ".join(name.removesuffix(".deb") for name in first)
        more = f" and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
        raise UnsuitedBase(f"the listed packages change what the variant brings: {names}{more}")


def _installed(place: Place) -> set[str]:
    return {_file_name(line) for line in debian_list(place.root).splitlines()}


def _file_name(line: str) -> str:
    """The name in apt's cache of a package in `debian_list`. Source: apt, QuoteString and pkgAcqArchive."""
    name, version, architecture = line.split("\t")
    return f"{name}_{version.replace(':', '%3a')}_{architecture}.deb"
