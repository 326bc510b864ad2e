"""The software of an old manifest: publishers and packages, and the boot archive's contents. Pure."""

from collections.abc import Iterable

from dcd.manifest.data_object import Element
from dcd.manifest.migrate.elements import Arguments, add
from dcd.manifest.migrate.reader import Reader

_ARCHIVE = "distro_constr_params/output_image/boot_archive"
_CONTENTS = "img_params/boot_archive_contents"


def transfer(reader: Reader, distro: Element, checkpoint: str) -> None:
    """The software of the checkpoint that makes the image and installs packages."""
    software = add(distro, "software", name=checkpoint, type="IPS")
    image = add(add(software, "destination"), "image", img_root="{PKG_IMAGE_PATH}", action="create")
    index = (reader.text("img_params/generate_ips_search_index") or "false").lower()
    if index == "true":
        image.set("index", index)
    add(image, "img_type", completeness="full")
    _publishers(reader, software, "pkg_repo")
    if software.find("source") is None:
        reader.note(
            reader.find("img_params"),
            "no publisher is named, so there is no source of packages",
            '<source><publisher name="..."><origin name="..."/></publisher></source>',
        )
    for action, path in (("install", "packages"), ("uninstall", "post_install_remove_packages")):
        names = [reader.attribute_of(pkg, "name") for pkg in reader.each(f"img_params/{path}/pkg")]
        _data(software, action, [name for name in names if name])


def post_install(reader: Reader, distro: Element, checkpoint: str) -> bool:
    """Add the software of the checkpoint that sets the publishers of an installed system, if the manifest
    names any. Returns whether it does."""
    software = add(distro, "software", name=checkpoint, type="IPS")
    destination = add(software, "destination")
    add(destination, "image", img_root="{PKG_IMAGE_PATH}", action="use_existing")
    _publishers(reader, software, "post_install_repo")
    if software.find("source") is None:
        distro.remove(software)
        return False
    return True


def boot_archive(reader: Reader, distro: Element, checkpoint: str) -> None:
    """The software of the checkpoint that copies files into the boot archive."""
    software = add(distro, "software", name=checkpoint, type="CPIO")
    add(add(software, "destination"), "dir", path="{BOOT_ARCHIVE}")
    add(add(software, "source"), "dir", path="{PKG_IMAGE_PATH}")
    included: dict[str, None] = {}
    excluded: dict[str, None] = {}
    for names, tag in ((included, "base_include"), (excluded, "base_exclude")):
        for element in reader.each(f"{_CONTENTS}/{tag}"):
            reader.attribute_of(element, "type")  # a copy itself recognises directories
            names[reader.text_of(element)] = None
    for place in (_CONTENTS, _ARCHIVE):
        for element in reader.each(f"{place}/adjustment"):
            added = reader.attribute_of(element, "add")
            names, other = (included, excluded) if added is not None else (excluded, included)
            name = (added or reader.attribute_of(element, "delete") or "").lstrip("/")
            names[name] = None
            other.pop(name, None)
    _data(software, "install", filter(None, included))
    _data(software, "uninstall", filter(None, excluded))


def archive_arguments(reader: Reader) -> Arguments:
    """The arguments of the checkpoint that packs the boot archive."""
    kind = reader.attribute(f"{_ARCHIVE}/compression", "type")
    level = reader.attribute(f"{_ARCHIVE}/compression", "level")
    by_file = kind == "dcfs"  # on SPARC, where each file is always compressed separately
    plain = [
        reader.text_of(element)
        for element in reader.each(f"{_CONTENTS}/base_include")
        if reader.attribute_of(element, "fiocompress") == "false"
    ]
    return {
        "compression_type": None if by_file else kind,
        "compression_level": None if by_file else level,
        "uncompressed_files": plain,
        "size_pad": reader.text(f"{_ARCHIVE}/size_pad_mb"),
        "bytes_per_inode": reader.text(f"{_ARCHIVE}/nbpi"),
    }


def _publishers(reader: Reader, software: Element, prefix: str) -> None:
    found: list[tuple[str, str, list[str]]] = []
    path = f"img_params/{prefix}_default_authority"
    url = reader.attribute(f"{path}/main", "url")
    name = reader.attribute(f"{path}/main", "authname")
    found.append((url or "", name or "", _mirrors(reader, reader.find(path))))
    for authority in reader.each(f"img_params/{prefix}_addl_authority"):
        main = authority.find("main")
        if main is not None:
            url, name = reader.attribute_of(main, "url"), reader.attribute_of(main, "authname")
            found.append((url or "", name or "", _mirrors(reader, authority)))
    for url, name, mirrors in found:
        if not url:
            continue
        source = software.find("source")
        if source is None:
            source = add(software, "source")
        publisher = add(source, "publisher", name=name or None)
        add(publisher, "origin", name=url)
        for mirror in mirrors:
            add(publisher, "mirror", name=mirror)


def _mirrors(reader: Reader, authority: Element | None) -> list[str]:
    elements = [] if authority is None else authority.findall("mirror")
    return [url for element in elements if (url := reader.attribute_of(element, "url"))]


def _data(software: Element, action: str, names: Iterable[str]) -> None:
    listed = list(names)
    if listed:
        data = add(software, "software_data", action=action)
        for name in listed:
            add(data, "name", name)
