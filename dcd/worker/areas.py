"""The areas of a workspace: real directories, never links.

A worker writes into an area as root, so a link in its place would lead to a directory of the host.
"""

from pathlib import Path

from dcd.worker.request import AREAS
from statemachine.errors import CheckpointError


def make_areas(root: Path) -> None:
    """Create the missing areas. Raises `CheckpointError` as `require_areas`."""
    for area in AREAS:
        path = root / area
        if not path.exists() and not path.is_symlink():
            path.mkdir()
    require_areas(root)


def require_areas(root: Path) -> None:
    """Raise `CheckpointError` when an area is missing or not a directory."""
    for area in AREAS:
        path = root / area
        if path.is_symlink() or not path.is_dir():
            raise CheckpointError(
                f"the area {area} of the workspace is not a directory any more",
                f"{path} was replaced",
                "change only what is inside the areas",
            )
