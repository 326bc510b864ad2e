"""Starting another Python that imports what this one imports, wherever the project is installed."""

import os
import sys
from pathlib import Path


def module_command(module: str) -> list[str]:
    """The command that runs `module` as a program. Its environment needs `module_environment()`."""
    return [sys.executable, "-P", "-m", module]


def module_environment() -> dict[str, str]:
    """What the environment of `module_command` must hold: this interpreter's search path."""
    return {"PYTHONPATH": os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)}
