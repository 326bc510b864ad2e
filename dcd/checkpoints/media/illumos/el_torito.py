"""The boot catalog of an ISO: where firmware finds its boot images.

Source: the El Torito specification 1.0; UEFI specification, 13.3.2.
"""

from dataclasses import dataclass
from pathlib import Path

from statemachine.errors import CheckpointError

_SECTOR_BYTES = 2048
_BOOT_RECORD = 17
_SIGNATURE = b"\x00CD001\x01EL TORITO SPECIFICATION"
_PLATFORMS = {0: "bios", 0xEF: "efi"}
_ENTRY_BYTES = 32
_BOOTABLE = 0x88


@dataclass(frozen=True, slots=True)
class BootImage:
    """A boot image: its offset in the ISO, and how many bytes firmware loads of it."""

    offset_bytes: int
    loaded_bytes: int


def boot_images(iso: Path) -> dict[str, BootImage]:
    """The boot images by platform, `bios` and `efi`. Raises `CheckpointError` for an ISO without a valid
    catalog."""
    with iso.open("rb") as file:
        file.seek(_BOOT_RECORD * _SECTOR_BYTES)
        record = file.read(_SECTOR_BYTES)
        if not record.startswith(_SIGNATURE):
            raise CheckpointError(f"{iso.name} has no boot catalog")
        file.seek(int.from_bytes(record[71:75], "little") * _SECTOR_BYTES)
        catalog = file.read(_SECTOR_BYTES)
    words = [int.from_bytes(catalog[at : at + 2], "little") for at in range(0, _ENTRY_BYTES, 2)]
    if catalog[0] != 1 or catalog[30:32] != b"\x55\xaa" or sum(words) & 0xFFFF:
        raise CheckpointError(f"the boot catalog of {iso.name} is damaged")
    found: dict[str, BootImage] = {}
    platform, at = catalog[1], _ENTRY_BYTES
    while at < len(catalog) and catalog[at] in (_BOOTABLE, 0x90, 0x91):
        entry = catalog[at : at + _ENTRY_BYTES]
        if entry[0] == _BOOTABLE:
            offset = int.from_bytes(entry[8:12], "little") * _SECTOR_BYTES
            loaded = int.from_bytes(entry[6:8], "little") * 512
            found[_PLATFORMS.get(platform, str(platform))] = BootImage(offset, loaded)
        else:
            platform = entry[1]
        at += _ENTRY_BYTES
    return found
