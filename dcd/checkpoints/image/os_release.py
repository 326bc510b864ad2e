"""What an image says of itself. Source: os-release(5)."""

import shlex
from pathlib import Path

from dcd.platform.inside import read


def os_release(image: Path) -> dict[str, str]:
    """The variables of the image's os-release. A line that is none is ignored: the text is the image's
    own."""
    text = read(image, "etc/os-release") or read(image, "usr/lib/os-release") or ""
    found = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        try:
            words = shlex.split(value)
        except ValueError:
            continue
        if equals and not name.startswith("#"):
            found[name.strip()] = " ".join(words)
    return found
