"""Starting another Python with this one's import path, independent of the installation."""

import os
import sys
from pathlib import Path


def module_command(module: str) -> list[str]:
    """The command that runs `module` as a program. Its environment needs `module_environment()`."""
    return [sys.executable, "-P", "-m", module]


def module_environment() -> dict[str, str]:
    """The environment that `module_command` needs: this interpreter's search path."""
    return {"PYTHONPATH": os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)}
