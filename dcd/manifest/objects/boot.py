"""Data objects of the boot menu: `boot_mods` and its entries."""

from typing import Literal

from dcd.manifest.data_object import DataObject, attribute, child, many
from dcd.manifest.forms import KERNEL_ARGUMENTS, LINES, TITLE


class BootEntry(DataObject, tag="boot_entry"):
    """An entry added to the boot menu. When several ask to be the default, the last one is."""

    default_entry: bool = attribute("Start this entry when nobody chooses.", default=False)
    insert_at: Literal["start", "end"] = attribute(
        "Before or after the entries that the image has by itself.", default="end"
    )
    title_suffix: str = child("Appended to the menu's title to make the entry's title.", form=LINES)
    kernel_args: str | None = child(
        "Arguments appended to the kernel's command line.", default=None, form=KERNEL_ARGUMENTS
    )


class BootMods(DataObject, tag="boot_mods", content=(many(BootEntry),)):
    """Changes to the boot menu of the image."""

    title: str | None = attribute(
        "Title of the entries; without it, the name that the image gives itself.",
        default=None,
        form=TITLE,
    )
    timeout: int | None = attribute(
        "Seconds before the default entry starts by itself.",
        default=None,
        minimum=0,
        maximum=86400,
    )
