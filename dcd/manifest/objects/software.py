"""Data objects of `software`: the content that a transfer checkpoint adds to the image."""

from typing import Literal

from dcd.manifest import forms
from dcd.manifest.data_object import (
    DataObject,
    OneOf,
    attribute,
    items,
    many,
    one,
    optional,
    some,
    text,
)


class Dir(DataObject, tag="dir"):
    """A directory."""

    path: str = attribute(
        "Its path; `{PKG_IMAGE_PATH}` and `{BOOT_ARCHIVE}` are the names of areas.",
        form=forms.AREA_PATH,
    )


class Origin(DataObject, tag="origin"):
    """The source of a publisher's packages."""

    name: str = attribute(
        "A URI, or the path of a file, archive or directory.", form=forms.IPS_ORIGIN
    )


class Mirror(DataObject, tag="mirror"):
    """A further source of the contents of a publisher's packages."""

    name: str = attribute("A URI.", form=forms.IPS_ORIGIN)


class Publisher(DataObject, tag="publisher", content=(some(Origin), many(Mirror))):
    """A publisher of IPS packages. The first one is the preferred one."""

    name: str = attribute(
        "Its name; without it, all publishers of the origin.", default="", form=forms.PUBLISHER
    )
    ssl_key: str | None = attribute("Key file for its origins.", default=None, form=forms.HOST_PATH)
    ssl_cert: str | None = attribute(
        "Certificate file for its origins.", default=None, form=forms.HOST_PATH
    )
    signature_policy: Literal["ignore", "verify", "require-signatures", "require-names"] | None = (
        attribute("The treatment of its packages' signatures.", default=None)
    )
    sticky: bool = attribute(
        "Installed packages are updated from this publisher only.", default=True
    )


class Repository(DataObject, tag="repository"):
    """A repository of Debian packages."""

    suite: str | None = attribute(
        "The suite or codename, such as bookworm.", default=None, form=forms.SUITE
    )
    components: str = attribute(
        "The components, separated by spaces.", default="main", form=forms.COMPONENTS
    )
    uri: str | None = attribute(
        "Its URI; without it, the host's own sources of that suite are used.",
        default=None,
        form=forms.APT_URI,
    )
    source: str | None = attribute(
        "A directory with packages (.deb files), in place of all else: it is captured, indexed, and not left "
        "in the image. A relative path begins at the manifest's directory.",
        default=None,
        form=forms.CLIENT_DIRECTORY,
    )
    signed_by: str | None = attribute(
        "The keyring file for the signature of its Release file.",
        default=None,
        form=forms.CLIENT_PATH,
    )


class Source(
    DataObject, tag="source", content=(OneOf((some(Publisher), some(Repository), one(Dir))),)
):
    """The source of the software."""


class Facet(DataObject, tag="facet"):
    """A facet of an IPS image that is set or not."""

    set: bool = attribute("Whether it is set.", default=True)
    text: str = text("The facet's name, such as `facet.locale.*`.", form=forms.FACET)


class Variant(DataObject, tag="variant"):
    """A variant of an IPS image."""

    name: str = attribute("The variant's name, such as `variant.arch`.", form=forms.FACET)
    text: str = text("Its value.", form=forms.VARIANT_VALUE)


class Property(DataObject, tag="property"):
    """A property of an IPS image."""

    val: Literal["true", "false"] = attribute("Its value.")
    text: str = text(
        "The property's name, such as `flush-content-cache-on-success`.", form=forms.FACET
    )


class ImgType(DataObject, tag="img_type"):
    """The kind of an IPS image."""

    completeness: Literal["full", "partial"] = attribute("A full or a partial image.")
    zone: bool = attribute("It is the image of a zone.", default=False)


class Image(
    DataObject, tag="image", content=(many(Facet), many(Variant), optional(ImgType), many(Property))
):
    """The package image that receives the software."""

    action: Literal["create", "use_existing"] = attribute(
        "Make the image, or change the one that an earlier checkpoint made.", default="create"
    )
    index: bool = attribute("Make its search index.", default=False)
    ssl_key: str | None = attribute(
        "Key file for all its origins.", default=None, form=forms.HOST_PATH
    )
    ssl_cert: str | None = attribute(
        "Certificate file for all its origins.", default=None, form=forms.HOST_PATH
    )
    img_root: str | None = attribute(
        "Its root; usually `{PKG_IMAGE_PATH}`.", default=None, form=forms.AREA_PATH
    )
    variant: str | None = attribute(
        "For DEB, the initial packages: custom (only the listed ones), essential, apt, minbase "
        "(the default; custom where the image is changed), important, standard.",
        default=None,
        form=forms.WORD,
    )
    architecture: str | None = attribute(
        "For DEB, the architecture; the host's by default.", default=None, form=forms.ARCHITECTURE
    )


class Destination(
    DataObject, tag="destination", content=(OneOf((one(Image), one(Dir)), required=True),)
):
    """The place of the software."""


class SoftwareData(DataObject, tag="software_data"):
    """Packages or files, and the action for them."""

    action: Literal["install", "uninstall", "unpack", "avoid", "unavoid"] = attribute(
        "The action.", default="install"
    )
    size: int | None = attribute(
        "Size of the listed files, in bytes.", default=None, minimum=0, maximum=10**15
    )
    names: tuple[str, ...] = items("name", "A package, file or directory.", form=forms.ENTRY)
    rejects: tuple[str, ...] = items(
        "reject", "A package that must not be installed (IPS).", form=forms.ENTRY
    )


class Pin(DataObject, tag="pin"):
    """A preference of apt for versions of packages (apt_preferences(5)), for Debian packages. It applies from
    the first package on, and stays in the image."""

    package: str = attribute(
        "The packages, separated by blanks, with shell patterns; `*` for all.", form=forms.PINNED
    )
    pin: str = attribute("The preferred versions.", form=forms.PIN)
    priority: int = attribute(
        "Above 1000 also for older versions than the installed one, below 0 never.",
        minimum=-32768,
        maximum=32767,
    )


class DpkgOption(DataObject, tag="dpkg_option"):
    """An option of dpkg(1), for Debian packages. It applies from the first package on, and stays in the
    image."""

    option: str = attribute("The option, without its hyphens.", form=forms.DPKG_OPTION)


class Debconf(DataObject, tag="debconf"):
    """Answers for debconf, for Debian packages: they are there when a package beyond the essential ones is
    configured."""

    SECRETS = ("text",)

    text: str = text(
        "Lines as debconf-set-selections(1) reads: package, question, type, and answer.",
        default="",
        form=forms.ANSWERS,
    )


class Software(
    DataObject,
    tag="software",
    content=(
        optional(Destination),
        many(Source),
        many(Pin),
        many(DpkgOption),
        many(Debconf),
        many(SoftwareData),
    ),
):
    """The software that the checkpoint of the same name transfers."""

    name: str = attribute("The checkpoint's name.", default="", form=forms.LINE)
    type: Literal["IPS", "DEB", "SVR4", "CPIO", "ARCHIVE", "IMAGE", "DIR", "P5I", "DU", "P5P"] = (
        attribute("The kind of transfer.", default="IPS")
    )

    def names(self, action: str = "install") -> list[str]:
        """All names listed for an action, in order."""
        return [
            name
            for data in self.get_children(class_type=SoftwareData)
            if data.action == action
            for name in data.names
        ]
