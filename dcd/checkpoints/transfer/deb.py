"""`TransferDEB`: Debian packages into the image area, with mmdebstrap, or with apt into an existing system.

The state of the repositories (the digests of their InRelease files) is part of the key, and the lists that
apt then fetches must have that state, so a layer never holds packages of another one. Everything is
downloaded first, with retries; the same packages are then installed without the network, and without logins
and proxies in reach. The kernel's packages make no initramfs here (`INITRD=No`): the boot archive checkpoint
makes it once.

Beside the packages the image gets its repositories as its own apt sources (without logins, and none on the
build host) with their keyrings, an empty package cache and empty lists, but no host name, resolver, machine
id or user number of the build host.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from dcd.checkpoints import products
from dcd.checkpoints.image.identity import remove_identity
from dcd.checkpoints.interface import (
    MOUNTS,
    Base,
    Checkpoint,
    Context,
    HostPath,
    Lockable,
    Needs,
    Report,
    Stage,
)
from dcd.checkpoints.packages import debian_list, deliver_list, forget_list
from dcd.checkpoints.transfer.deb_ahead import fetched_ahead
from dcd.checkpoints.transfer.deb_architecture import (
    architecture_in,
    architecture_of,
    changes,
    check_architecture,
    default_architecture,
)
from dcd.checkpoints.transfer.deb_base import (
    Chosen,
    base_of,
    choose_base,
    choose_rest,
    chosen_ahead,
    same_packages,
)
from dcd.checkpoints.transfer.deb_fetch import fetch, fetch_at_once
from dcd.checkpoints.transfer.deb_install import bootstrap, change, extend, installed
from dcd.checkpoints.transfer.deb_lists import (
    drop_lists,
    keep_lists,
    kept_lists,
    limited,
)
from dcd.checkpoints.transfer.deb_local import Local, has_local, local_sources
from dcd.checkpoints.transfer.deb_lock import (
    changes_since_lock,
    lockable_of,
    other_keyrings,
    require_locked,
)
from dcd.checkpoints.transfer.deb_locked import (
    apt_of,
    captured_keyrings,
    chosen_versions,
    expected_states,
    known_state,
    listed_packages,
    other_sources,
    provide_lists,
    resolve_locked,
)
from dcd.checkpoints.transfer.deb_products import brought
from dcd.checkpoints.transfer.deb_progress import Progress
from dcd.checkpoints.transfer.deb_settings import Settings, check_settings, leave_pins, settings_of
from dcd.checkpoints.transfer.deb_sources import (
    check_repositories,
    host_ingredients,
    leave_sources,
    sources_of,
    with_keyrings,
)
from dcd.checkpoints.transfer.deb_store import (
    capture,
    capture_repositories,
    fill_cache,
    leave_store,
    list_below,
    wanted_by_name,
)
from dcd.checkpoints.transfer.listed import check_software, listed_bytes, software_of
from dcd.manifest.diagnostics import Diagnostic, did_you_mean, error
from dcd.manifest.doc import DataObjectCache, checkpoints_of, distro, software_for
from dcd.manifest.lock import LockedTransfer
from dcd.manifest.objects.software import Image, Repository, Software, SoftwareData
from dcd.platform import foreign
from dcd.platform.apt import Source
from dcd.platform.apt_root import (
    ARCHIVES,
    LISTS,
    Environment,
    Place,
    apt_settings,
    forget,
    reachable,
    release_files,
    transfers,
    update,
)
from dcd.platform.asking import ask_releases, local_path
from dcd.platform.host_parts import present_apt
from dcd.platform.inside import exists, read, require_no_links, resolve
from statemachine.errors import CheckpointError
from store.resolved import Resolved

_BASE: Mapping[str, tuple[str, ...]] = {
    "custom": (),
    "essential": ("?essential",),
    "apt": ("?essential", "apt"),
    "minbase": ("?essential", "?priority(required)", "apt"),
    "important": ("?essential", "?priority(required)", "?priority(important)", "apt"),
    "standard": (
        "?essential",
        "?priority(required)",
        "?priority(important)",
        "?priority(standard)",
        "apt",
    ),
}
"""The packages of mmdebstrap's variants, as apt patterns."""

_PACKAGE = re.compile(
    r"[a-z0-9][a-z0-9+.-]*[a-z0-9+.](:[a-z0-9-]*[a-z0-9])?([=/][A-Za-z0-9.+:~-]*[A-Za-z0-9.+:~])?"
)
"""For apt, a word that ends in `-` asks for the package to be removed."""

_HOST_TOOLS_USE = (
    *("etc/hostname", "etc/apt/apt.conf.d", "etc/apt/preferences.d"),
    *("etc/apt/keyrings", "etc/apt/sources.list.d", f"{LISTS}/partial", f"{ARCHIVES}/partial"),
    *("etc/dpkg/dpkg.cfg.d", "var/cache/apt", "var/lib/dpkg/status", "var/lib/dpkg/arch", "dev"),
)
"""Paths of the image that mmdebstrap, apt and dpkg use from outside. Links on the way to one are refused:
they would lead into the build host."""


@dataclass(frozen=True)
class TransferDEB(Checkpoint):
    """Install Debian packages and all they depend on.

    The `software` of the checkpoint's name lists them: `repository` (suite, components, uri, signed_by; or
    source, a directory with packages), `pin`, `dpkg_option` and `debconf`, which apply from the first
    package on, the image's `variant` and `architecture`, and `software_data` to install and to uninstall;
    packages under `uninstall` are never installed. With `action="use_existing"` the packages go into the
    system of an earlier checkpoint, with its present configuration and answers for debconf, and packages
    under `uninstall` are removed from it; the default variant is then `custom`.

    The result has two layers: what the variant brings, which all manifests share that differ only in the
    listed packages, and these packages.
    """

    DESCRIPTION = "Transfer Debian packages into the image"
    VERSION = 1
    NAMED = ("software",)
    TOOLS = ("mmdebstrap", "apt-get", "apt-helper", "dpkg-query", "xargs")

    def needs(self, doc: DataObjectCache) -> Needs:
        software = software_of(doc, self, "DEB")
        listed = listed_bytes(software)
        return Needs(
            tools=self.TOOLS,
            network=True,
            packages=True,
            disk_bytes=listed or 1 << 30,
            capabilities=MOUNTS,
            reads=tuple(
                HostPath(path, repository.place_of("uri"))
                for repository in software.get_descendants(class_type=Repository)
                if (path := local_path(repository.uri or "")) is not None
            ),
        )

    def provides(self, doc: DataObjectCache) -> products.Provided:
        names = [re.split(r"[:=/]", name)[0] for name in software_of(doc, self, "DEB").names()]
        return {products.IMAGE: "surely", **brought(names)}

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        yield from check_software(doc, self, "DEB")
        software = software_of(doc, self, "DEB")
        variant = _variant(software)
        if variant not in _BASE:
            yield error(
                software.get_descendants(class_type=Image)[0].place_of("variant"),
                f"{variant!r} is not a variant",
                "",
                f"use one of {', '.join(_BASE)}",
            )
        architecture = architecture_in(software)
        if architecture is not None and architecture not in foreign.ARCHITECTURES:
            meant = did_you_mean(architecture, foreign.ARCHITECTURES)
            yield error(
                software.get_descendants(class_type=Image)[0].place_of("architecture"),
                f"{architecture!r} is not an architecture of Debian"
                + (f"; did you mean {meant!r}?" if meant else ""),
                "",
                f'architecture="{meant}"'
                if meant
                else f"use one of {', '.join(foreign.ARCHITECTURES)}",
            )
        for data in software.get_descendants(class_type=SoftwareData):
            if data.action not in ("install", "uninstall"):
                yield error(
                    data.place_of("action"),
                    f"{data.action} means nothing for Debian packages",
                    "",
                    'use action="install" or "uninstall"',
                )
            for index, name in enumerate(data.names):
                if name and not _PACKAGE.fullmatch(name):
                    yield error(
                        data.place_of("name", index),
                        f"{name!r} is not a Debian package",
                        "",
                        "write NAME, NAME=VERSION or NAME/SUITE, one in each <name>",
                    )
        if variant == "custom" and not _lists_anything(software):
            yield error(
                software.origin,
                "there is nothing to install",
                "",
                "list packages, or use another variant",
            )
        yield from check_repositories(software)
        yield from check_settings(software)
        if not changes(software) and (earlier := self._maker_before(doc)):
            yield error(
                software.origin,
                f"{self.name} makes a system where {earlier} has made one already",
                "",
                '<destination><image action="use_existing"/></destination>',
            )

    def base(self, doc: DataObjectCache) -> Base | None:
        software = software_of(doc, self, "DEB")
        # apt knows packages beside the manifest by a path that is another in each attempt.
        if changes(software) or _variant(software) == "custom" or has_local(software):
            return None
        return base_of(software)

    def external_state(self, doc: DataObjectCache) -> Mapping[str, str]:
        software = software_of(doc, self, "DEB")
        if self.known is not None:
            return {**known_state(software, self.known), **default_architecture(software)}
        host = present_apt()
        sources = sources_of(software, host.sources)
        proxy = distro(doc).http_proxy or ""
        state = ask_releases(sources, host, proxy, patient=self.patient)
        state |= host_ingredients(software, sources)
        return {**state, **default_architecture(software)}

    def lockable(self, doc: DataObjectCache) -> Lockable:
        software = software_of(doc, self, "DEB")
        return lockable_of(software, _variant(software))

    def changes_since(
        self,
        doc: DataObjectCache,
        locked: LockedTransfer,
        states: Mapping[str, str],
        inputs: Mapping[str, str],
    ) -> Iterator[Diagnostic]:
        software = software_of(doc, self, "DEB")
        yield from other_keyrings(software, locked, inputs)
        yield from changes_since_lock(software, locked, states, distro(doc).http_proxy or "")

    def get_progress_estimate(self) -> float:
        return 45.0

    def execute(self, context: Context) -> None:
        lock = context.locked if context.locked and context.locked.fetch else None
        if lock is not None:
            context = replace(context, locked=None)
        software = software_of(context.doc, self, "DEB")
        host = apt_of(context)
        sources = sources_of(software, host.sources)
        _check_image(context, software)
        architecture = architecture_of(context.pkg_image, software)
        check_architecture(architecture)
        require_no_links(context.pkg_image, _HOST_TOOLS_USE)
        progress = Progress(context.report, rest=context.stage is Stage.REST)
        settings = settings_of(software, context.pkg_image)
        with (
            reachable(context.pkg_image) as place,
            local_sources(context, place, software) as local,
        ):
            sources = with_keyrings(sources, context.inputs, place.aside / "keyrings")
            below, kept = list_below(context), kept_lists(context.root)
            locked = context.locked is not None
            if locked and kept is None:
                provide_lists(context, place, sources, local.sources, architecture)
            every = [*sources, *other_sources(context, sources), *local.sources]
            pins = f"{settings.pins}\n{chosen_versions(context)}"
            apt = apt_settings(
                place,
                sources=every,
                architecture=architecture,
                never=_never(software),
                pins=pins,
                lists=kept,
            )
            with transfers(place, host, sources, distro(context.doc).http_proxy or "") as online:
                if kept is None and not locked:
                    update(online, sources, progress.line)
                lists = kept or resolve(context.pkg_image, LISTS)
                _same_state(context, sources, local, lists)
                chosen = _choose(context, place, apt, software, sources)
                with ThreadPoolExecutor(1) as beside:
                    repositories = partial(capture_repositories, context, place, apt, sources)
                    used = beside.submit(Resolved if locked else repositories)
                    filled = fill_cache(context, place, chosen.wanted)
                    missing = [file for name, file in chosen.wanted.items() if name not in filled]
                    fetched = fetch_at_once(place, online, missing, progress)
                    if len(fetched) < len(missing) or not (chosen.whole or chosen.wanted):
                        fetch(software, chosen.names, sources, online, progress)
            if locked:
                resolve_locked(context, place, chosen.wanted, below)
            else:
                found = capture(
                    context, place, sources, chosen.wanted, filled, used.result(), below
                )
                if lock is not None:
                    require_locked(context, found, listed_packages(context, lock))
            keyrings = captured_keyrings(context, place.aside)
            with_pins = replace(settings, pins=pins)
            with ExitStack() as meanwhile:
                if context.stage is Stage.BASE:
                    keep_lists(context.root, place.root)
                with_chosen = apt
                if not changes(software):
                    with_chosen = limited(place, apt, lists, chosen, kept=kept is not None)
                meanwhile.enter_context(fetched_ahead(context, place, host, sources, chosen.ahead))
                leave_store(context)
                meanwhile.enter_context(same_packages(place, apt, chosen))
                _install(
                    context, place, software, every, architecture, with_chosen, with_pins, progress
                )
            require_no_links(context.pkg_image, _HOST_TOOLS_USE)
            forget(place.root)
            if context.stage is Stage.BASE:
                return
            drop_lists(context.root)
            _leave_sources(context, sources, keyrings)
            leave_pins(context.pkg_image, settings)
        remove_identity(context.pkg_image)
        if context.stage is Stage.REST:
            forget_list(context)
        deliver_list(context, debian_list(context.pkg_image))
        context.report(Report(fraction=1.0))

    def _maker_before(self, doc: DataObjectCache) -> str | None:
        """The earlier checkpoint that makes a system of Debian packages, or None."""
        for spec in checkpoints_of(doc):
            if spec.name == self.name:
                return None
            software = software_for(doc, spec.name)
            if software is not None and software.type == "DEB" and not changes(software):
                return spec.name
        return None


def _choose(
    context: Context,
    place: Place,
    apt: Environment,
    software: Software,
    sources: Sequence[Source],
) -> Chosen:
    """The packages of a stage; apt adds those that they depend on."""
    variant, listed = _BASE[_variant(software)], software.names("install")
    if context.stage is Stage.BASE:
        stored = context.packages is not None and not any(source.login for source in sources)
        if stored and context.locked is None:
            return choose_base(context, apt, variant, listed)
        names = [*variant]
    elif kept_lists(context.root) is not None:
        return choose_rest(place, variant, listed, chosen_ahead(context))
    else:
        names = [*(() if context.stage is Stage.REST else variant), *listed]
    wanted = {} if context.packages is None else wanted_by_name(apt, names)
    return Chosen(names, wanted)


def _variant(software: Software) -> str:
    image = software.get_descendants(class_type=Image)
    default = "custom" if changes(software) else "minbase"
    return (image[0].variant if image else None) or default


def _lists_anything(software: Software) -> bool:
    return bool(software.names("install") or (changes(software) and software.names("uninstall")))


def _never(software: Software) -> list[str]:
    return [re.split(r"[=/]", name)[0] for name in software.names("uninstall")]


def _check_image(context: Context, software: Software) -> None:
    """Raise `CheckpointError` unless there is a system to change, or none before one is made."""
    there = bool(read(context.pkg_image, "var/lib/dpkg/status"))
    if there and not changes(software) and context.stage is not Stage.REST:
        raise CheckpointError(
            "there is a system in the image already",
            "an earlier checkpoint has installed Debian packages",
            'write <image action="use_existing"/> to install into it',
        )
    if not there and changes(software):
        raise CheckpointError(
            "there is no system of Debian packages in the image",
            'action="use_existing" changes one that an earlier checkpoint has made',
            'leave out action="use_existing" to make one',
        )


def _same_state(context: Context, sources: list[Source], local: Local, lists: Path) -> None:
    if set(release_files(lists)) != expected_states(context, sources) | local.releases:
        raise CheckpointError(
            "a repository changed while its packages were transferred",
            "what apt fetched is not the state that was recorded when the checkpoint started: "
            + ", ".join(source.name for source in sources),
            "resume the build to try again with the new state",
        )


def _install(
    context: Context,
    place: Place,
    software: Software,
    sources: list[Source],
    architecture: str,
    apt: Environment,
    settings: Settings,
    progress: Progress,
) -> None:
    include = software.names("install")
    if changes(software):
        there = installed(place.root)
        change(
            place,
            include=[*_BASE[_variant(software)], *include],
            remove=[name for name in _never(software) if name in there],
            apt=apt,
            settings=settings,
            environment=context.environment,
            on_line=progress.line,
        )
    elif context.stage is Stage.REST:
        extend(
            place,
            include=include,
            apt=apt,
            environment=context.environment,
            on_line=progress.line,
        )
    else:
        bootstrap(
            place,
            variant=_variant(software),
            include=() if context.stage is Stage.BASE else include,
            never=_never(software),
            architecture=architecture,
            sources=sources,
            settings=settings,
            environment=context.environment,
            on_line=progress.line,
        )


def _leave_sources(context: Context, sources: list[Source], keyrings: Mapping[str, Path]) -> None:
    root = context.pkg_image
    if not exists(root, "usr/bin/apt-get"):
        return
    kept, left_out = leave_sources(root, sources, keyrings)
    names = ", ".join(source.name for source in kept) or "none"
    context.report(Report(message=f"apt sources of the image: {names}"))
    if left_out:
        names = ", ".join(source.name for source in left_out)
        context.report(Report(message=f"not among them, being on the build host: {names}"))
