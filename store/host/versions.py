"""Versions of the host's tools, as the tools print them."""

import functools
import re
from pathlib import Path

from statemachine.errors import DcdError
from store.host.process import run
from store.host.tools import tool_named


def version(name: str) -> str | None:
    """The version that the tool prints ("1.3.5"), or None when it is missing, has no such option, or
    prints nothing that looks like a version."""
    tool = tool_named(name)
    path = tool.find()
    if path is None or tool.version_argv is None:
        return None
    try:
        program = Path(path).stat()
        output = _printed(
            (path, *tool.version_argv), (program.st_dev, program.st_ino, program.st_ctime_ns)
        )
    except (DcdError, OSError):
        return None
    found = re.search(r"\d+\.\d[\w.+~:-]*", output)
    return found.group().rstrip(".,:") if found else None


@functools.lru_cache(maxsize=128)
def _printed(command: tuple[str, ...], program: tuple[int, int, int]) -> str:
    """What a command prints, asked once as long as the `program` is the same file. Raises DcdError."""
    return run(command, capture=True, merge=True, timeout_seconds=10, ok=range(256)).stdout
