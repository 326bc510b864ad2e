"""The list of an image's packages, which is delivered beside it and kept up to date.

A transfer delivers it. Later checkpoints can change the packages (a script that runs apt-get, an archive), so
the list is compared with the image at the end of each checkpoint, and delivered again if it differs.
Source: dpkg(1), the states of a package in its status file.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dcd.checkpoints.interface import Context
from dcd.checkpoints.media.deliver import deliver_file
from dcd.platform.inside import entry, read, write

PACKAGE_LIST = "packages.tsv"
"""A line for each package: for Debian its name, version and architecture, for IPS publisher, name and
version. The name is the same for all distributions, so that two which differ only in it share the layer."""

_STATUS = "var/lib/dpkg/status"
_FIELD = re.compile(r"^(Package|Status|Version|Architecture): *(.*)$", re.MULTILINE)
_ABSENT = ("not-installed", "config-files")


LICENCE_LIST = "licences.tsv"
"""A line for each licence that was accepted for an IPS package: package, version and licence."""


def deliver_list(context: Context, listing: str, name: str = PACKAGE_LIST) -> None:
    """Deliver this list, unless it is the last delivered one."""
    if read(context.media, name) == listing:
        return
    written = write(context.media, name, listing.encode("utf-8", "surrogateescape"))
    deliver_file(context, written, "text")


def forget_list(context: Context) -> None:
    """Have the next list delivered in any case: the last one was delivered by another result, to which this
    checkpoint adds."""
    entry(context.media, PACKAGE_LIST).unlink(missing_ok=True)


def debian_list(root: Path) -> str:
    """The packages in the root that dpkg knows as installed."""
    found = []
    for stanza in (read(root, _STATUS) or "").split("\n\n"):
        fields = dict(_FIELD.findall(stanza))
        state = fields.get("Status", "").split()
        if "Package" in fields and state and state[-1] not in _ABSENT:
            names = ("Package", "Version", "Architecture")
            found.append("\t".join(fields.get(name, "") for name in names))
    return "".join(f"{line}\n" for line in sorted(found))


def architecture_of(root: Path) -> str:
    """The architecture of the root's dpkg, or the first of its packages; `all` without any."""
    if native := (read(root, "var/lib/dpkg/arch-native") or "").strip():
        return native
    lines = [line.split("\t") for line in debian_list(root).splitlines()]
    found: list[str] = [line[2] for line in lines if line[0] == "dpkg"]
    found += sorted({line[2] for line in lines} - {"all"})
    return found[0] if found else "all"


@contextmanager
def list_kept_true(context: Context) -> Iterator[None]:
    """Deliver the list again after a change of dpkg's packages inside, if a list was delivered before."""
    before = debian_list(context.pkg_image)
    yield
    after = debian_list(context.pkg_image)
    if after != before and read(context.media, PACKAGE_LIST) is not None:
        deliver_list(context, after)
