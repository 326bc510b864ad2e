"""`TransferIPS`: IPS packages into an image, with pkg(7).

The state of the catalogs that it installs from is part of the key; if it has changed at the end of the
transfer, the checkpoint fails, since its layer would not match the key. With `action="use_existing"` it
changes the image of an earlier checkpoint: the listed publishers replace the image's own, and they are only
contacted for an installation, since the repositories of an installed system need not be reachable from the
build host. The history of the image is purged at the end.

Keys and certificates of publishers are among the secrets (`dcd.manifest.secrets`). A killed install cannot be
repaired; each attempt has a fresh workspace, and takes the contents that were downloaded from the package
store (`ips_cache`).
Source: pkg(1); the original's TransferIPS.
"""

import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from dcd.checkpoints import products
from dcd.checkpoints.areas import areas
from dcd.checkpoints.interface import CHROOT, Checkpoint, Context, HostPath, Needs, Report, Variance
from dcd.checkpoints.transfer.ips_output import unmatched
from dcd.checkpoints.transfer.ips_pkg import NOTHING_TO_DO, Pkg
from dcd.checkpoints.transfer.listed import check_software, listed_bytes, software_of
from dcd.manifest.diagnostics import Diagnostic, error
from dcd.manifest.doc import DataObjectCache, checkpoints_of, distro, software_for
from dcd.manifest.forms import WORD
from dcd.manifest.objects.software import (
    Facet,
    Image,
    ImgType,
    Mirror,
    Origin,
    Property,
    Publisher,
    Software,
    SoftwareData,
    Variant,
)
from dcd.platform.asking import ask_catalogs, local_path
from dcd.platform.host_parts import SUFFIX
from dcd.platform.inside import resolve
from dcd.platform.ips import Repository, catalog_digests
from dcd.platform.ips_image import has_configuration, is_of_the_host
from dcd.platform.sight import require_shown
from statemachine.errors import CheckpointError
from store.host.process import ToolFailed
from store.host.secret_files import DIRECTORIES, secret_file

_ROOT = re.compile(r"\{(?P<token>PKG_IMAGE_PATH|BOOT_ARCHIVE|BUILD_DATA|TMP_DIR)\}(?P<below>/.*)?")
_PATTERN = re.compile(r"[^\s-]\S*")
_LOGIN = re.compile(r"[a-z]+://[^/]*@")

_ARCHITECTURE = "arch"
"""The variant that pkg(1) takes from the host unless the manifest gives it."""


@dataclass(frozen=True)
class TransferIPS(Checkpoint):
    """Make an IPS image and install packages into it, or change one.

    The `software` of the checkpoint's name has the image (facets, variants, properties, whether it is made
    or changed), publishers with origins and mirrors, and `software_data` to install, uninstall, avoid or
    unavoid, in this order. Licences are accepted; `licences.tsv` lists those that had to be. The image has an
    identifier of pkg's client that is derived from its packages, and that installed machines send to
    repositories unless its property `send-uuid` is false.
    """

    DESCRIPTION = "Transfer IPS packages into the image"
    EXPECTED_SECONDS = 600.0
    VERSION = 2
    NAMED = ("software",)
    TOOLS = ("pkg",)

    zonename: Annotated[str, WORD] | None = None
    """Known from manifests of the original; images that are linked to a zone are not supported."""

    show_stdout: bool = False
    """Show pkg's lines as progress messages too; they are always in the log."""

    verify: bool = False
    """Compare the image with its packages at the end (pkg verify); a difference fails the checkpoint."""

    def needs(self, doc: DataObjectCache) -> Needs:
        software = software_of(doc, self, "IPS")
        listed = listed_bytes(software)
        fetches = _fetches(software)
        return Needs(
            tools=self.TOOLS,
            network=fetches and any(Repository(each.name).is_remote for each in self._origins(doc)),
            proxy_logins=True,
            packages=True,
            disk_bytes=listed or (1 << 30 if fetches else 0),
            # The actuators of packages run programs of the image.
            capabilities=CHROOT,
            reads=tuple(
                HostPath(path, each.place_of("name"))
                for each in (self._origins(doc) if fetches else ())
                if (path := local_path(each.name)) is not None
            ),
            secrets=_secrets(software, self._publishers(doc) if fetches else ()),
        )

    def requires(self, doc: DataObjectCache) -> Iterator[tuple[str, ...]]:
        if _image(software_of(doc, self, "IPS")).action == "use_existing":
            yield (products.IMAGE,)

    def provides(self, doc: DataObjectCache) -> products.Provided:
        return {**products.in_area("{PKG_IMAGE_PATH}"), products.IMAGE: "surely"}

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        if self.zonename is not None:
            message = "an image that is linked to a zone is not supported"
            yield self.fault(doc, "zonename", message, "", "leave out zonename")
        missing = list(check_software(doc, self, "IPS"))
        yield from missing
        if not missing:
            yield from _check_software(self.name, software_of(doc, self, "IPS"))

    def variances(self, doc: DataObjectCache) -> Iterator[Variance]:
        yield Variance(
            "pkg(7) keeps times of the installation in the image's /var/pkg", certain=False
        )

    def external_state(self, doc: DataObjectCache) -> Mapping[str, str]:
        software = software_of(doc, self, "IPS")
        state: dict[str, str] = {}
        image = _image(software)
        variants = {variant.name for variant in image.get_children(class_type=Variant)}
        if image.action == "create" and not variants & {_ARCHITECTURE, f"variant.{_ARCHITECTURE}"}:
            state[f"architecture{SUFFIX}"] = platform.machine()
        if _fetches(software):
            state |= ask_catalogs(
                self.repositories(doc), distro(doc).http_proxy or "", patient=self.patient
            )
        return state

    def execute(self, context: Context) -> None:
        software = software_of(context.doc, self, "IPS")
        image = _image(software)
        pkg = Pkg(context, _place(context, image), self.show_stdout)
        if image.action == "create":
            _create(pkg, image)
        publishers = software.get_descendants(class_type=Publisher)
        fetches = _fetches(software)
        if publishers:
            set_publishers(pkg, image, publishers, refresh=fetches)
        elif fetches and has_configuration(pkg.root):
            _return_origins(pkg, self._publishers(context.doc))
        # Contents that were downloaded with a login are not for other builds.
        if fetches and not any(_login_options(*pair) for pair in self._publishers(context.doc)):
            pkg.use_cache()
        if image.action == "use_existing":
            _change(pkg, image)
        for data in software.get_children(class_type=SoftwareData):
            _carry_out(pkg, image, data)
        pkg.run("purge-history")
        if fetches:
            self._same_state(context)
            pkg.settle_files()
        if self.verify:
            pkg.verify()
        if image.action == "create" or fetches or software.names("uninstall"):
            pkg.deliver_lists()
        pkg.forget_host()
        context.report(Report(fraction=1.0))

    def _same_state(self, context: Context) -> None:
        repositories = self.repositories(context.doc)
        present = catalog_digests(repositories, distro(context.doc).http_proxy or "")
        if any(context.external.get(name) != state for name, state in present.items()):
            raise CheckpointError(
                "a repository changed while its packages were transferred",
                "its catalog is not in the state that was recorded when the checkpoint started",
                "resume the build to try again with the new state",
            )

    def repositories(self, doc: DataObjectCache) -> list[Repository]:
        """The repositories of the packages, with their keys."""
        return [
            Repository(
                origin.name, publisher.name if _named(publisher) else "", *_login(image, publisher)
            )
            for image, publisher in self._publishers(doc)
            for origin in publisher.get_children(class_type=Origin)
        ]

    def _origins(self, doc: DataObjectCache) -> list[Origin]:
        return [
            origin
            for _, publisher in self._publishers(doc)
            for origin in publisher.get_children(class_type=Origin)
        ]

    def _publishers(self, doc: DataObjectCache) -> list[tuple[Image, Publisher]]:
        """The listed publishers, or else those of the last earlier checkpoint that has some."""
        names = [spec.name for spec in checkpoints_of(doc)]
        earlier = names[: names.index(self.name)] if self.name in names else []
        for name in (self.name, *reversed(earlier)):
            software = software_for(doc, name)
            if software is not None and software.type == "IPS":
                publishers = software.get_descendants(class_type=Publisher)
                if publishers:
                    return [(_image(software), publisher) for publisher in publishers]
        return []


def _create(pkg: Pkg, image: Image) -> None:
    kind = image.get_first_child(class_type=ImgType)
    arguments = [f"--{kind.completeness}" if kind else "--full"]
    if kind and kind.zone:
        arguments.append("--zone")
    for facet in _facets(image):
        arguments += ["--facet", facet]
    for variant in _variants(image):
        arguments += ["--variant", variant]
    for name, value in _properties(image):
        arguments += ["--set-property", f"{name}={value}"]
    pkg.create(*arguments)


def _change(pkg: Pkg, image: Image) -> None:
    for name, value in _properties(image):
        pkg.run("set-property", name, value)
    if variants := _variants(image):
        pkg.run("change-variant", "--accept", *variants, ok=(0, NOTHING_TO_DO))
    if facets := _facets(image):
        pkg.run("change-facet", "--accept", *facets, ok=(0, NOTHING_TO_DO))


def set_publishers(pkg: Pkg, image: Image, publishers: Sequence[Publisher], refresh: bool) -> None:
    """Give the image these publishers, in this order of search, and no others."""
    if image.action == "use_existing":
        present = [line.split("\t")[0] for line in pkg.ask("publisher", "-H", "-F", "tsv")]
        if present:
            pkg.run("unset-publisher", *dict.fromkeys(present))
    for publisher in publishers:
        origins = [each.name for each in publisher.get_children(class_type=Origin)]
        sticky = "--sticky" if publisher.sticky else "--non-sticky"
        arguments = [sticky, *_login_options(image, publisher)]
        if publisher.signature_policy:
            arguments += ["--set-property", f"signature-policy={publisher.signature_policy}"]
        if not _named(publisher):
            pkg.run("set-publisher", *arguments, "-p", origins[0])
            continue
        for origin in origins:
            arguments += ["-g", origin]
        for mirror in publisher.get_children(class_type=Mirror):
            arguments += ["-m", mirror.name]
        if not refresh:
            arguments.append("--no-refresh")
        pkg.run("set-publisher", *arguments, publisher.name)


def _return_origins(pkg: Pkg, publishers: Sequence[tuple[Image, Publisher]]) -> None:
    """Add again what an earlier checkpoint used and removed: origins and mirrors of this host, and keys."""
    for image, publisher in publishers:
        arguments = _login_options(image, publisher)
        for option, kind in (("-g", Origin), ("-m", Mirror)):
            for each in publisher.get_children(class_type=kind):
                if is_of_the_host(each.name):
                    arguments += [option, each.name]
        if not arguments:
            continue
        if _named(publisher):
            pkg.run("set-publisher", *arguments, "--no-refresh", publisher.name)
        else:
            origin = publisher.get_children(class_type=Origin)[0].name
            pkg.run("set-publisher", *arguments[: -2 if "-g" in arguments else None], "-p", origin)


def _carry_out(pkg: Pkg, image: Image, data: SoftwareData) -> None:
    index = [] if image.index else ["--no-index"]
    rejects = [word for name in data.rejects for word in ("--reject", name)]
    match data.action:
        case "install":
            arguments = ["install", "--accept", *index, *rejects]
        case "uninstall":
            arguments = ["uninstall", *index]
        case action:
            arguments = [action]
    try:
        pkg.run(*arguments, *data.names, ok=(0, NOTHING_TO_DO))
    except ToolFailed as error:
        brief = f"pkg cannot {data.action} the listed packages"
        details = error.details
        remedy = "correct the list of packages, then resume the build with the new manifest"
        if unknown := unmatched(error.output):
            brief = f"there is no package {', '.join(unknown)} to {data.action}"
            details = error.output
            remedy = "correct the name, or add the publisher that has it"
        raise CheckpointError(brief, f"{data.origin or ''}\n{details}".strip(), remedy) from error


def _place(context: Context, image: Image) -> Path:
    """The root of the image, with links resolved inside its area."""
    found = _ROOT.fullmatch(_root(image))
    assert found is not None  # `check` guarantees it.
    return resolve(areas(context)[found["token"]], found["below"] or "/")


def _check_software(checkpoint: str, software: Software) -> Iterator[Diagnostic]:
    image = _image(software)
    if not _ROOT.fullmatch(_root(image)):
        message = f"{_root(image)!r} is not in the workspace"
        yield error(image.place_of("img_root"), message, "", 'img_root="{PKG_IMAGE_PATH}"')
    publishers = software.get_descendants(class_type=Publisher)
    if image.action == "create" and not publishers:
        remedy = "add a <source> with a <publisher> and its <origin>"
        yield error(software.origin, f"{checkpoint} makes an image without publisher", "", remedy)
    for publisher in publishers:
        yield from _check_publisher(publisher)
    for data in software.get_descendants(class_type=SoftwareData):
        yield from _check_data(data)


def _check_publisher(publisher: Publisher) -> Iterator[Diagnostic]:
    origins = publisher.get_children(class_type=Origin)
    if not _named(publisher) and (len(origins) > 1 or publisher.get_children(class_type=Mirror)):
        message = "a publisher without a name has one origin and no mirrors"
        remedy = "give it its name, or leave one <origin> and no <mirror>"
        yield error(publisher.origin, message, "", remedy)
    if (publisher.ssl_key is None) != (publisher.ssl_cert is None):
        message = "a publisher needs both ssl_key and ssl_cert, or neither"
        yield error(publisher.origin, message, "", 'ssl_key="FILE" ssl_cert="FILE"')
    for place in (*origins, *publisher.get_children(class_type=Mirror)):
        if _LOGIN.match(place.name):
            # The event log keeps the manifest permanently.
            message = "an origin must not hold a login"
            yield error(place.place_of("name"), message, "", "use ssl_key and ssl_cert")


def _check_data(data: SoftwareData) -> Iterator[Diagnostic]:
    if data.action == "unpack":
        message = "unpack means nothing for IPS packages"
        yield error(data.place_of("action"), message, "", 'action="install"')
    for tag, names in (("name", data.names), ("reject", data.rejects)):
        for index, name in enumerate(names):
            if name and not _PATTERN.fullmatch(name):
                message = f"{name!r} is not an IPS package"
                remedy = f"write a name or a pkg:/ FMRI, one in each <{tag}>"
                yield error(data.place_of(tag, index), message, "", remedy)


def _fetches(software: Software) -> bool:
    """Whether contents of packages are needed: for an installation, or a change of facets or variants."""
    image = _image(software)
    changes = image.get_children(class_type=Facet) + image.get_children(class_type=Variant)
    return bool(software.names("install") or (image.action == "use_existing" and changes))


def _login(image: Image, publisher: Publisher) -> tuple[Path | None, Path | None]:
    key = publisher.ssl_key or image.ssl_key
    certificate = publisher.ssl_cert or image.ssl_cert
    require_shown(Path(name) for name in (key, certificate) if name is not None)
    return tuple(
        None if name is None else secret_file(Path(name), DIRECTORIES)
        for name in (key, certificate)
    )  # type: ignore[return-value]  # two in, two out


def _login_options(image: Image, publisher: Publisher) -> list[str]:
    key, certificate = _login(image, publisher)
    if key is None or certificate is None:
        return []
    return ["-k", str(key), "-c", str(certificate)]


def _secrets(software: Software, used: Sequence[tuple[Image, Publisher]]) -> tuple[str, ...]:
    """The keys and certificates of the software, and of the used publishers."""
    holders: list[Image | Publisher] = [_image(software)]
    holders += software.get_descendants(class_type=Publisher)
    for pair in used:
        holders += pair
    names = (name for each in holders for name in (each.ssl_key, each.ssl_cert) if name)
    return tuple(dict.fromkeys(names))


def _named(publisher: Publisher) -> bool:
    return publisher.name not in ("", Publisher.TAG)


def _image(software: Software) -> Image:
    found = software.get_descendants(class_type=Image)
    return found[0] if found else Image()


def _root(image: Image) -> str:
    return image.img_root or "{PKG_IMAGE_PATH}"


def _variants(image: Image) -> list[str]:
    return [f"{each.name}={each.text}" for each in image.get_children(class_type=Variant)]


def _facets(image: Image) -> list[str]:
    return [f"{each.text}={each.set}" for each in image.get_children(class_type=Facet)]


def _properties(image: Image) -> list[tuple[str, str]]:
    return [(each.text, each.val) for each in image.get_children(class_type=Property)]
