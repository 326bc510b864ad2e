"""Data objects of `software`: what a transfer checkpoint brings into the image."""

from typing import Literal

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
from dcd.manifest.forms import (
    APT_URI,
    ARCHITECTURE,
    AREA_PATH,
    CLIENT_PATH,
    COMPONENTS,
    ENTRY,
    FACET,
    HOST_PATH,
    IPS_ORIGIN,
    LINE,
    PUBLISHER,
    SUITE,
    VARIANT_VALUE,
    WORD,
)


class Dir(DataObject, tag="dir"):
    """A directory."""

    path: str = attribute(
        "Its path; `{PKG_IMAGE_PATH}` and `{BOOT_ARCHIVE}` stand for those areas.", form=AREA_PATH
    )


class Origin(DataObject, tag="origin"):
    """Where a publisher's packages come from."""

    name: str = attribute("A URI, or the path of a file, archive or directory.", form=IPS_ORIGIN)


class Mirror(DataObject, tag="mirror"):
    """Where the contents of a publisher's packages can be fetched too."""

    name: str = attribute("A URI.", form=IPS_ORIGIN)


class Publisher(DataObject, tag="publisher", content=(some(Origin), many(Mirror))):
    """A publisher of IPS packages. The first one is the preferred one."""

    name: str = attribute(
        "Its name; without it, whatever the origin publishes.", default="", form=PUBLISHER
    )
    ssl_key: str | None = attribute("Key file for its origins.", default=None, form=HOST_PATH)
    ssl_cert: str | None = attribute(
        "Certificate file for its origins.", default=None, form=HOST_PATH
    )
    signature_policy: Literal["ignore", "verify", "require-signatures", "require-names"] | None = (
        attribute("How signatures of its packages are treated.", default=None)
    )
    sticky: bool = attribute(
        "Installed packages are updated from this publisher only.", default=True
    )


class Repository(DataObject, tag="repository"):
    """A repository of Debian packages."""

    suite: str | None = attribute(
        "The suite or codename, such as bookworm.", default=None, form=SUITE
    )
    components: str = attribute(
        "The components, separated by spaces.", default="main", form=COMPONENTS
    )
    uri: str | None = attribute(
        "Where it is; without it, the host's own sources of that suite are used.",
        default=None,
        form=APT_URI,
    )
    signed_by: str | None = attribute(
        "The keyring file that its Release file must be signed with.",
        default=None,
        form=CLIENT_PATH,
    )


class Source(
    DataObject,
    tag="source",
    content=(OneOf((some(Publisher), some(Repository), one(Dir))),),
):
    """Where the software comes from."""


class Facet(DataObject, tag="facet"):
    """A facet of an IPS image that is set or not."""

    set: bool = attribute("Whether it is set.", default=True)
    text: str = text("The facet's name, such as `facet.locale.*`.", form=FACET)


class Variant(DataObject, tag="variant"):
    """A variant of an IPS image."""

    name: str = attribute("The variant's name, such as `variant.arch`.", form=FACET)
    text: str = text("Its value.", form=VARIANT_VALUE)


class Property(DataObject, tag="property"):
    """A property of an IPS image."""

    val: Literal["true", "false"] = attribute("Its value.")
    text: str = text("The property's name, such as `flush-content-cache-on-success`.", form=FACET)


class ImgType(DataObject, tag="img_type"):
    """The kind of an IPS image."""

    completeness: Literal["full", "partial"] = attribute("A full or a partial image.")
    zone: bool = attribute("It is the image of a zone.", default=False)


class Image(
    DataObject, tag="image", content=(many(Facet), many(Variant), optional(ImgType), many(Property))
):
    """The package image that the software goes into."""

    action: Literal["create", "use_existing"] = attribute(
        "Make the image, or change the one that an earlier checkpoint made.", default="create"
    )
    index: bool = attribute("Make its search index.", default=False)
    ssl_key: str | None = attribute("Key file for all its origins.", default=None, form=HOST_PATH)
    ssl_cert: str | None = attribute(
        "Certificate file for all its origins.", default=None, form=HOST_PATH
    )
    img_root: str | None = attribute(
        "Its root; usually `{PKG_IMAGE_PATH}`.", default=None, form=AREA_PATH
    )
    variant: str | None = attribute(
        "For DEB, which packages are there at first: custom (those listed only), essential, apt, minbase "
        "(the default; custom where the image is changed), important, standard.",
        default=None,
        form=WORD,
    )
    architecture: str | None = attribute(
        "For DEB, the architecture; the host's by default.", default=None, form=ARCHITECTURE
    )


class Destination(
    DataObject, tag="destination", content=(OneOf((one(Image), one(Dir)), required=True),)
):
    """Where the software goes."""


class SoftwareData(DataObject, tag="software_data"):
    """Packages or files, and what is done with them."""

    action: Literal["install", "uninstall", "unpack", "avoid", "unavoid"] = attribute(
        "What is done.", default="install"
    )
    size: int | None = attribute(
        "Size of the listed files, in bytes.", default=None, minimum=0, maximum=10**15
    )
    names: tuple[str, ...] = items("name", "A package, file or directory.", form=ENTRY)
    rejects: tuple[str, ...] = items(
        "reject", "A package that must not be installed (IPS).", form=ENTRY
    )


class Software(
    DataObject,
    tag="software",
    content=(optional(Destination), many(Source), many(SoftwareData)),
):
    """What the checkpoint of the same name transfers."""

    name: str = attribute("The checkpoint's name.", default="", form=LINE)
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
