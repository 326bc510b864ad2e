"""The areas of a workspace, which have to be its own directories.

Whatever is put into an area goes where its name leads, and work in a workspace is done as root: a link in the
place of an area leads to the build host.
"""

from pathlib import Path

from dcd.worker.request import AREAS
from statemachine.errors import CheckpointError


def make_areas(root: Path) -> None:
    """Make the areas that are not there. Raises `CheckpointError` as `require_areas`."""
    for area in AREAS:
        path = root / area
        if not path.exists() and not path.is_symlink():
            path.mkdir()
    require_areas(root)


def require_areas(root: Path) -> None:
    """Raise `CheckpointError` when something else is in the place of an area."""
    for area in AREAS:
        path = root / area
        if path.is_symlink() or not path.is_dir():
            raise CheckpointError(
                f"the area {area} of the workspace is not a directory any more",
                f"{path} was replaced",
                "leave the areas themselves in their places",
            )
