"""Data objects of the boot menu: `boot_mods` and its entries."""

from typing import Literal

from dcd.manifest import forms
from dcd.manifest.data_object import DataObject, attribute, child, many


class BootEntry(DataObject, tag="boot_entry"):
    """An entry added to the boot menu. Of several default entries, the last one counts."""

    default_entry: bool = attribute("Start this entry by default.", default=False)
    insert_at: Literal["start", "end"] = attribute(
        "Before or after the image's own entries.", default="end"
    )
    title_suffix: str = child(
        "Appended to the menu's title to make the entry's title.", form=forms.LINES
    )
    kernel_args: str | None = child(
        "Arguments appended to the kernel's command line.",
        default=None,
        form=forms.KERNEL_ARGUMENTS,
    )


class BootMods(DataObject, tag="boot_mods", content=(many(BootEntry),)):
    """Changes to the boot menu of the image."""

    title: str | None = attribute(
        "Title of the entries; without it, the image's own name.", default=None, form=forms.TITLE
    )
    timeout: int | None = attribute(
        "Seconds before the default entry starts.", default=None, minimum=0, maximum=86400
    )
