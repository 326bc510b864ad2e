"""`TransferDEB`: Debian packages into the image area, with mmdebstrap.

The state of the repositories (the digests of their InRelease files) is part of the key, and what apt then
really fetched must have that state, so a layer never holds packages of another one. Everything is
downloaded first, with retries; the same packages are then installed by mmdebstrap without the network.
The kernel's packages make no initramfs here (`INITRD=No`): the boot archive checkpoint makes it once.

What the image gets beside the packages: the repositories that it was made from as its own apt
sources (never with a login in them) with the keyrings that they need; an empty package cache and
empty lists; no host name, resolver or machine id of the build host.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from dcd.checkpoints import products
from dcd.checkpoints.image.identity import remove_identity
from dcd.checkpoints.interface import MOUNTS, Checkpoint, Context, Needs, Report
from dcd.checkpoints.transfer.deb_progress import Progress
from dcd.checkpoints.transfer.listed import check_software, software_of
from dcd.manifest.diagnostics import Diagnostic, did_you_mean, error
from dcd.manifest.doc import DataObjectCache, distro
from dcd.manifest.objects.software import Image, Repository, Software, SoftwareData
from dcd.platform.apt import (
    Source,
    host_apt,
    host_codename,
    source_list,
    sources_for,
    split_login,
)
from dcd.platform.apt_root import (
    SOURCES_NAME,
    Environment,
    apt_root,
    download,
    list_digests,
    similar_packages,
    update,
)
from dcd.platform.asking import ask_host_apt, ask_releases
from dcd.platform.capabilities import CHROOT, keep_only
from dcd.platform.chroot import bootstrap_mounts
from dcd.platform.devices import LINKS, make_devices
from dcd.platform.foreign import ARCHITECTURES
from dcd.platform.host_parts import SUFFIX, file_digest
from dcd.platform.inside import require_no_links, write
from dcd.platform.process import ToolFailed, run
from statemachine.errors import CheckpointError
from statemachine.events import Artifact
from statemachine.keys import digest

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
"""What mmdebstrap's variants install of themselves, as apt patterns."""

_GIBIBYTE = 1 << 30
_UNKNOWN = re.compile(
    r"^E: (?:Unable to locate package |Package '|Couldn't find any package by (?:glob|regex) ')"
    r"([^'\s]+)(?:' has no installation candidate|')?$",
    re.MULTILINE,
)
"""How apt says that it knows no such package."""

_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9-]+)?([=/][A-Za-z0-9.+:~-]+)?")

_BRINGING: Mapping[str, tuple[str, str]] = {
    products.KERNEL: (r"linux-image-.+", r"linux-|kernel|task-|live-task|pve-|proxmox"),
    products.LIVE_BOOT: (r"live-boot(-initramfs-tools)?|casper", r"live-|task-"),
    products.GRUB["bios"]: (r"grub-pc(-bin)?|grub2|grub-cloud-amd64", r"task-|proxmox"),
    products.GRUB["uefi"]: (
        r"grub-efi(-amd64(-bin|-signed)?)?|grub-cloud-amd64",
        r"shim-|task-|proxmox",
    ),
}
"""Which packages bring a product (all of a name matches), and which may depend on such (its beginning)."""

_HOST_TOOLS_USE = (
    *("etc/hostname", "etc/apt/apt.conf.d/00dcd", "etc/apt/auth.conf.d/00dcd.conf"),
    *("etc/apt/preferences.d/00dcd", "etc/apt/keyrings", f"etc/apt/sources.list.d/{SOURCES_NAME}"),
    *("var/lib/apt/lists/partial", "var/cache/apt/archives/partial", "var/lib/dpkg/status", "dev"),
)
"""Paths of the image that apt, mmdebstrap and this checkpoint use from outside. No link may be on the way to
one, neither of an earlier checkpoint nor of a package: it would lead into the build host."""

PACKAGE_LIST = "packages.tsv"
"""Name, version, architecture of each package. Not named for the distribution: so that two which differ
in name alone share the layer."""


class TransferDEB(Checkpoint):
    """Install Debian packages and all they depend on.

    The `software` of the checkpoint's name says which: `repository` (suite, components, uri,
    signed_by), the image's `variant` and `architecture`, and `software_data` to install and to
    uninstall; what is listed under `uninstall` is never installed in the first place.
    """

    DESCRIPTION = "Transfer Debian packages into the image"
    VERSION = 1
    TOOLS = ("mmdebstrap", "apt-get", "apt-helper", "dpkg-query")

    def __init__(self, name: str) -> None:
        super().__init__(name)

    def needs(self, doc: DataObjectCache) -> Needs:
        software = self._software(doc)
        listed = sum(data.size or 0 for data in software.get_descendants(class_type=SoftwareData))
        return Needs(
            tools=self.TOOLS,
            network=True,
            disk_bytes=listed or _GIBIBYTE,
            capabilities=MOUNTS,
        )

    def provides(self, doc: DataObjectCache) -> products.Provided:
        names = [re.split(r"[:=/]", name)[0] for name in self._software(doc).names()]
        return {products.IMAGE: "surely", **_brought(names)}

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        yield from check_software(doc, self, "DEB")
        software = self._software(doc)
        variant = _variant(software)
        if variant not in _BASE:
            yield error(
                software.get_descendants(class_type=Image)[0].place_of("variant"),
                f"{variant!r} is not a variant",
                "",
                f"use one of {', '.join(_BASE)}",
            )
        architecture = _architecture(software)
        if architecture is not None and architecture not in ARCHITECTURES:
            meant = did_you_mean(architecture, ARCHITECTURES)
            yield error(
                software.get_descendants(class_type=Image)[0].place_of("architecture"),
                f"{architecture!r} is not an architecture of Debian"
                + (f"; did you mean {meant!r}?" if meant else ""),
                "",
                f'architecture="{meant}"' if meant else f"use one of {', '.join(ARCHITECTURES)}",
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
        if variant == "custom" and not software.names("install"):
            yield error(
                software.origin,
                "there is nothing to install",
                "",
                "list packages, or use another variant",
            )
        for repository in software.get_descendants(class_type=Repository):
            yield from _check_repository(repository)

    def external_state(self, doc: DataObjectCache) -> Mapping[str, str]:
        software = self._software(doc)
        host = ask_host_apt()
        sources = _sources(software, host.sources)
        state = ask_releases(sources, host, distro(doc).http_proxy or "")
        named = {repository.uri for repository in software.get_descendants(class_type=Repository)}
        for source in sources:
            if source.uri not in named:
                state[f"source {source.name}{SUFFIX}"] = _as_configured(source)
        if not _architecture(software):
            state[f"architecture{SUFFIX}"] = _host_architecture()
        return state

    def get_progress_estimate(self) -> float:
        return 45.0

    def execute(self, context: Context, dry_run: bool = False) -> None:
        software = self._software(context.doc)
        host = host_apt()
        sources = _sources(software, host.sources)
        if dry_run:
            names = ", ".join(source.name for source in sources)
            count = len(software.names("install"))
            context.report(Report(message=f"would install {count} listed packages from {names}"))
            return
        sources = _with_keyrings(context, sources)
        architecture = _architecture(software) or _host_architecture()
        progress = Progress(context.report)
        require_no_links(context.pkg_image, _HOST_TOOLS_USE)
        with apt_root(
            context.pkg_image,
            context.tmp,
            sources=sources,
            host=host,
            architecture=architecture,
            never=[name.partition("=")[0] for name in software.names("uninstall")],
            http_proxy=distro(context.doc).http_proxy or "",
        ) as environment:
            _keep_host_out(context.pkg_image)
            update(environment, progress.line)
            _same_state(context, sources)
            _download(software, sources, environment, progress)
            _install(context, software, sources, architecture, progress)
        require_no_links(context.pkg_image, _HOST_TOOLS_USE)
        _finish(context, sources)
        remove_identity(context.pkg_image)
        _deliver_package_list(context)
        context.report(Report(fraction=1.0))

    def _software(self, doc: DataObjectCache) -> Software:
        return software_of(doc, self, "DEB")


def _brought(names: Sequence[str]) -> products.Provided:
    """What the packages bring that later checkpoints need; `hardly`, where only a dependency could. GRUB's
    modules are no dependency of packages for other things."""
    found: dict[str, products.Odds] = {}
    for product, (certain, likely) in _BRINGING.items():
        if any(re.fullmatch(certain, name) for name in names):
            found[product] = "surely"
        elif any(re.match(likely, name) for name in names):
            found[product] = "perhaps"
        elif names and product not in products.GRUB.values():
            found[product] = "hardly"
    return found


def _variant(software: Software) -> str:
    image = software.get_descendants(class_type=Image)
    return (image[0].variant if image else None) or "minbase"


def _architecture(software: Software) -> str | None:
    image = software.get_descendants(class_type=Image)
    return image[0].architecture if image else None


def _as_configured(source: Source) -> str:
    """What this host's apt says of a source beside its name, and the keyring that comes with it."""
    keyring = source.signed_by
    if keyring.startswith("/"):
        keyring = f"{keyring} {file_digest(Path(keyring))}"
    return digest([list(source.components), keyring, source.trusted])


def _where(node: object) -> str:
    return str(getattr(node, "origin", None) or "")


def _check_repository(repository: Repository) -> Iterator[Diagnostic]:
    if repository.uri and split_login(repository.uri)[1] is not None:
        # The manifest is kept in the event log for ever.
        yield error(
            repository.place_of("uri"),
            "a repository's uri must not hold a login",
            "",
            "put it into the build host's /etc/apt/auth.conf.d/NAME.conf: "
            "machine HOST/PATH login USER password PASSWORD",
        )


def _sources(software: Software, host: Sequence[Source]) -> list[Source]:
    """The sources that the manifest names, in order; those of the host where it names none."""
    repositories = software.get_descendants(class_type=Repository)
    if not repositories:
        return sources_for(host, host_codename())
    sources: list[Source] = []
    for repository in repositories:
        suite = repository.suite or host_codename()
        components = tuple(repository.components.split())
        if repository.uri:
            kept = () if suite.endswith("/") else components
            found = [Source(repository.uri, suite, kept, repository.signed_by or "")]
        else:
            found = sources_for(host, suite, components)
        sources += [source for source in found if source.name not in {s.name for s in sources}]
    return sources


def _with_keyrings(context: Context, sources: list[Source]) -> list[Source]:
    """The sources with keyrings that apt can read now: those that the manifest names were captured,
    and apt tells a keyring's format by its name."""
    directory = context.tmp / "keyrings"
    directory.mkdir(exist_ok=True)
    ready = []
    for source in sources:
        if source.signed_by in context.inputs:
            content = context.inputs[source.signed_by].read_bytes()
            suffix = ".asc" if content.startswith(b"-----BEGIN") else ".gpg"
            keyring = directory / f"{Path(source.signed_by).stem}{suffix}"
            keyring.write_bytes(content)
            source = replace(source, signed_by=str(keyring))
        ready.append(source)
    return ready


def _host_architecture() -> str:
    return run(["dpkg", "--print-architecture"], capture=True).stdout.strip()


def _keep_host_out(root: Path) -> None:
    """mmdebstrap copies these two from the host where they are not there yet."""
    write(root, "etc/hostname", "localhost\n")
    if not os.path.lexists(root / "etc/resolv.conf"):
        write(root, "etc/resolv.conf", "")


def _same_state(context: Context, sources: list[Source]) -> None:
    expected = {context.external[source.name].split()[0] for source in sources}
    if list_digests(context.pkg_image) != expected:
        raise CheckpointError(
            "a repository changed while its packages were transferred",
            "what apt fetched is not the state that was recorded when the checkpoint started: "
            + ", ".join(source.name for source in sources),
            "resume the build to try again with the new state",
        )


def _download(
    software: Software, sources: list[Source], environment: Environment, progress: Progress
) -> None:
    wanted = [*_BASE[_variant(software)], *software.names("install")]
    try:
        download(environment, wanted, progress.line)
    except ToolFailed as error:
        raise _unsolvable(error, software, sources, environment) from error


def _unsolvable(
    error: ToolFailed, software: Software, sources: list[Source], environment: Environment
) -> CheckpointError:
    """apt's refusal, told in terms of the manifest."""
    looked = "looked for in " + ", ".join(
        f"{source.name} {' '.join(source.components)}" for source in sources
    )
    unknown = list(dict.fromkeys(match[1] for match in _UNKNOWN.finditer(error.output)))
    if unknown:
        lines, hints = [], []
        for name in unknown:
            places = [
                _where(data)
                for data in software.get_descendants(class_type=SoftwareData)
                if name in {re.split(r"[=/]", listed)[0] for listed in data.names}
            ]
            lines.append(": ".join([*filter(None, places), name]))
            similar = [found for found in similar_packages(environment, name) if found != name]
            if similar:
                hints.append(f"did you mean {' or '.join(similar)} instead of {name}?")
        never = set(unknown) & set(software.names("uninstall"))
        if never:
            hints.append(f"{', '.join(sorted(never))} is listed under uninstall")
        return CheckpointError(
            f"there is no package {', '.join(unknown)}",
            "\n".join([*lines, looked]),
            " ".join(hints) or "correct the name, or add the repository or component that has it",
        )
    return CheckpointError(
        "apt cannot install what the manifest lists",
        f"{error.output}\n{looked}",
        "correct the list of packages, then resume the build with the new manifest",
    )


def _install(
    context: Context,
    software: Software,
    sources: list[Source],
    architecture: str,
    progress: Progress,
) -> None:
    mirror = context.tmp / SOURCES_NAME.removeprefix("0000")
    mirror.write_text(source_list(sources))
    include = software.names("install")
    command: list[str | Path] = [
        "mmdebstrap",
        "--verbose",
        "--mode=root",
        "--format=directory",
        f"--variant={_variant(software)}",
        f"--architectures={architecture}",
        # The lists, the cache and apt's settings are in place already, and so are /proc and /dev.
        "--skip=check/empty,check/signed-by,update,output/dev,chroot/mount",
        *([f"--include={','.join(include)}"] if include else []),
        sources[0].suite,
        context.pkg_image,
        mirror,
    ]
    with bootstrap_mounts(context.pkg_image):
        for link in LINKS:
            # mmdebstrap makes these itself, and takes them away again.
            (context.pkg_image / "dev" / link).unlink()
        run(
            command,
            env={**context.environment, "INITRD": "No"},
            on_line=progress.line,
            # The packages' scripts run with the same rights: not with that to mount.
            start=partial(keep_only, CHROOT),
        )
    make_devices(context.pkg_image / "dev")


def _finish(context: Context, sources: list[Source]) -> None:
    """Leave in the image the sources that a user of it expects, and nothing of the build host."""
    root = context.pkg_image
    etc = root / "etc/apt"
    shutil.rmtree(root / "var/lib/apt/lists", ignore_errors=True)
    (root / "var/lib/apt/lists/partial").mkdir(parents=True)
    (root / "etc/hostname").unlink(missing_ok=True)
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    if not (root / "usr/bin/apt-get").exists():
        return
    kept = []
    for source in sources:
        keyring = source.signed_by
        if keyring.startswith("/") and not (root / keyring.lstrip("/")).exists():
            keyring = f"/etc/apt/keyrings/{Path(keyring).name}"
            (etc / "keyrings").mkdir(exist_ok=True)
            shutil.copyfile(source.signed_by, root / keyring.lstrip("/"))
        kept.append(Source(source.uri, source.suite, source.components, keyring, source.trusted))
    write(root, "etc/apt/sources.list.d/dcd.sources", source_list(kept))
    names = ", ".join(source.name for source in kept)
    context.report(Report(message=f"apt sources of the image: {names}"))


def _deliver_package_list(context: Context) -> None:
    listing = run(
        [
            "dpkg-query",
            f"--admindir={context.pkg_image}/var/lib/dpkg",
            "--show",
            "--showformat=${Package}\t${Version}\t${Architecture}\n",
        ],
        capture=True,
    ).stdout.encode()
    path = write(context.media, PACKAGE_LIST, listing)
    context.deliver(
        Artifact(
            name=path.name,
            path=str(path.relative_to(context.root)),
            format="text",
            size_bytes=len(listing),
            sha256=hashlib.sha256(listing).hexdigest(),
        )
    )
