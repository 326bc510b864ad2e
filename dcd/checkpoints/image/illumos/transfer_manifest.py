"""The list of what an installer copies from the live medium: .transfer-manifest.xml.

Three transfers into the new system: the running root (without what only the medium needs), the files behind
/mnt/misc, and those of the medium itself. The installer of the image reads it from /.cdrom.
Source: the original's checkpoints boot_archive_configure and pkg_img_mod, its media_transfer module and
media-transfer.dtd.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from lxml import etree

NAME = ".transfer-manifest.xml"
MISC = "/mnt/misc"
"""Where the live system mounts solarismisc.zlib."""

_DTD = "file:///usr/share/install/media-transfer.dtd.1"
_TARGET = "{INSTALL_TARGET}"
_MEDIUM = "{MEDIA}"
_MEDIUM_ONLY = (
    *(".zlib", ".image_info", "boot_archive", "boot_archive.hash", ".media-transfer.xml", NAME),
    *("boot/conf.d/dcd", "boot/menu.rc.local", "boot/efiboot.img"),
)
"""Endings of the paths of files that no installed system gets: the boot menu is the medium's."""


def links_to_misc(boot_archive: Path) -> list[str]:
    """The files below etc and var of the boot archive that are links to `MISC`, sorted."""
    return sorted(
        str(path.relative_to(boot_archive))
        for top in ("etc", "var")
        for path in _files(boot_archive / top)
        if path.is_symlink() and str(path.readlink()).startswith(f"{MISC}/")
    )


def files_of_medium(image: Path) -> list[str]:
    """Everything of the medium that an installed system gets, as paths with `./`, sorted."""
    found = []
    for where, directories, names in os.walk(image):
        below = Path(where).relative_to(image)
        paths = [f"./{below / name}" for name in names]
        found += [path for path in paths if not path.endswith(_MEDIUM_ONLY)]
        found += [f"./{below / name}" for name in directories]
    return sorted(found)


def saved_files(image: Path) -> list[str]:
    """The files below `save`, which installers that were booted from the network fetch, sorted."""
    return sorted(
        str(path.relative_to(image)) for path in _files(image / "save") if not path.is_symlink()
    )


def transfer_manifest(links: Sequence[str], medium: Sequence[str]) -> bytes:
    """The text of the list. `links` of the boot archive are not copied, `medium` is copied."""
    root = etree.Element("media_transfer")
    first = _software(root, "transfer-root", "/")
    for name in (".", "usr", "dev"):
        _data(first, "install", [name])
    _data(first, "uninstall", ["opt"])
    _data(first, "uninstall", links)
    _data(_software(root, "transfer-misc", MISC), "install", ["."])
    _data(_software(root, "transfer-media", _MEDIUM), "install", medium)
    return bytes(
        etree.tostring(
            root,
            pretty_print=True,
            xml_declaration=True,
            encoding="UTF-8",
            doctype=f'<!DOCTYPE media_transfer SYSTEM "{_DTD}">',
        )
    )


def _software(root: "etree._Element", name: str, source: str) -> "etree._Element":
    software = etree.SubElement(root, "software", name=name, type="CPIO")
    etree.SubElement(etree.SubElement(software, "destination"), "dir", path=_TARGET)
    etree.SubElement(etree.SubElement(software, "source"), "dir", path=source)
    return software


def _data(software: "etree._Element", action: str, names: Sequence[str]) -> None:
    data = etree.SubElement(software, "software_data", action=action)
    for name in names:
        etree.SubElement(data, "name").text = os.fsencode(name).decode("utf-8", "replace")


def _files(directory: Path) -> Iterator[Path]:
    if directory.is_symlink():
        return  # It could lead out of the workspace.
    for where, directories, names in os.walk(directory):
        for name in (*names, *directories):
            path = Path(where, name)
            if path.is_symlink() or not path.is_dir():
                yield path
