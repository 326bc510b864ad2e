"""Files that differ on live media: changed for the medium, the original kept below /save, from where the
installer returns it to the installed system.

Source: the original's checkpoints pre_pkg_img_mod and boot_archive_configure.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from dcd.checkpoints.interface import Context
from dcd.platform.inside import entry, make_directory, new_file, regular_file

SAVE = "save"


def save_copy(image: Path, path: str, source: Path | None = None) -> bool:
    """Copy a file (by default that of the image) to /save, with its mode and times. False if there is
    none."""
    file = regular_file(image, path) if source is None else regular_file(source, path)
    if file is None:
        return False
    shutil.copy2(file, new_file(image, f"{SAVE}/{path}"))
    return True


def move_to_save(context: Context, paths: Sequence[str]) -> None:
    """Move files to /save; of directories only the place is made. Missing ones are named: releases differ."""
    image = context.pkg_image
    missing = []
    for path in paths:
        found = entry(image, path)
        if found.is_dir() and not found.is_symlink():
            make_directory(image, f"{SAVE}/{path}")
        elif found.is_file():
            shutil.move(found, new_file(image, f"{SAVE}/{path}"))
        else:
            missing.append(path)
    if missing:
        context.warn(
            f"not in the image, so not saved for the installed system: {', '.join(missing)}"
        )
