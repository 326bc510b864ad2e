"""Versions of the host's tools, as these print them."""

import re

from statemachine.errors import DcdError
from store.host.process import run
from store.host.tools import tool_named


def version(name: str) -> str | None:
    """The tool's version as it prints it itself ("1.3.5"), or None when it is missing, has no such
    option, or prints nothing that looks like a version."""
    tool = tool_named(name)
    path = tool.find()
    if path is None or tool.version_argv is None:
        return None
    try:
        output = run(
            [path, *tool.version_argv], capture=True, merge=True, timeout_seconds=10, ok=range(256)
        ).stdout
    except DcdError:
        return None
    found = re.search(r"\d+\.\d[\w.+~:-]*", output)
    return found.group().rstrip(".,:") if found else None
