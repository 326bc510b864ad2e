"""The labels of this host: what a build may require of the host that makes it.

Plain labels are the architectures that the processor runs by itself, by Debian's names, and `kvm` and `zfs`
where these work; `tool:NAME` is a tool of `store.host.tools`, `secret:NAME` a secret by reference. A user who
may not read a directory of secrets does not see their names, so the launcher runs this as a program, which
prints the labels as JSON.
"""

import json
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

from dcd.platform import foreign
from dcd.platform.hypervisor import probe_kvm
from store.host.secret_files import DIRECTORIES, PREFIX
from store.host.tools import TOOLS, tool_named


def of_tool(name: str) -> str:
    """The label of a tool."""
    return f"tool:{name}"


def of_secret(name: str) -> str:
    """The label of a secret: the path of its file, or its variable."""
    return f"secret:{quote(name, safe='/')}"


def of_host(name: str) -> str:
    """The label that only the member of a farm with this name has."""
    return f"host:{name}"


def of_slots(number: object) -> str:
    """The label by which a member of a farm says how many builds it drives at once."""
    return f"slots:{number}"


def of_code(digest: str) -> str:
    """The label of the code of checkpoints with this digest."""
    return f"dcd:{digest}"


def public(labels: Iterable[str]) -> tuple[str, ...]:
    """The labels without those of secrets, whose names not everybody may know."""
    return tuple(each for each in labels if not each.startswith(of_secret("")))


def kept_on(name: str, labels: Iterable[str]) -> tuple[str, ...]:
    """The labels of a build that repeats one with these labels on the member of a farm with this name, with
    the code that it has now; "": there is no farm."""
    others = {each for each in labels if not each.startswith((of_host(""), of_code("")))}
    return tuple(sorted({*others, of_host(name)} if name else labels))


def plain(labels: Iterable[str]) -> str:
    """The plain labels, for people: `amd64+kvm`."""
    return "+".join(sorted(each for each in labels if ":" not in each)) or "none"


def host_labels(directories: Iterable[Path] = DIRECTORIES) -> list[str]:
    """The labels of this host. Starts a guest to try KVM, for at most some seconds. Blocking."""
    found = set(foreign.native() or (platform.machine(),))
    if probe_kvm().usable:
        found.add("kvm")
    if Path("/dev/zfs").exists() and tool_named("zfs").find():
        found.add("zfs")
    found |= {of_tool(name) for name, tool in TOOLS.items() if tool.find()}
    found |= {of_secret(name) for name in _secrets(directories)}
    return sorted(found)


def _secrets(directories: Iterable[Path]) -> Iterator[str]:
    yield from (name for name in os.environ if name.startswith(PREFIX))
    for directory in directories:
        yield from (str(path) for path in directory.rglob("*") if path.is_file())


if __name__ == "__main__":
    json.dump(host_labels(), sys.stdout)
