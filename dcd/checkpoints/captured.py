"""Files that the manifest names, as they were captured when the build was submitted."""

import os.path
from collections.abc import Mapping
from pathlib import Path

from dcd.manifest.data_object import DataObject
from statemachine.errors import CheckpointError


def captured_file(inputs: Mapping[str, Path], node: DataObject, path: str) -> Path:
    """The captured file that `node` of the manifest names as `path`; a relative path begins at the
    directory of the manifest. Raises `CheckpointError` for one that was not captured."""
    directory = os.path.dirname(node.origin.file) if node.origin else ""  # noqa: PTH120
    for candidate in (path, os.path.normpath(os.path.join(directory, path))):  # noqa: PTH118
        if candidate in inputs:
            return inputs[candidate]
    raise CheckpointError(
        f"the file {path} was not captured with the build",
        f"{node.origin or node.name}; captured: {', '.join(sorted(inputs)) or 'nothing'}",
        "submit the manifest again",
    )
