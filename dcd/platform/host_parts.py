"""Host parts: the tools and files of this host that determine the bytes of a result.

A host part has a name for people ("GRUB of the host") and one line of text that identifies it: a sha256 over
the program, its shared libraries or all files of the set, followed by the packages with their versions. The
text changes when an update of the host could change a result, and the plan then names the changed part. The C
library is excluded: its updates change how a program runs, not its output.

They are computed for each plan and again before each checkpoint starts, so they are cheap: a file is read
again only when its inode, size or times have changed, packages are listed again when dpkg's status has. Opens
only regular files, without blocking, and runs only ldd(1), dpkg-query(1) and, for a program without a known
package, the tool's version option.
"""

import functools
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from dcd.platform.apt import HostApt, host_apt
from dcd.platform.sight import is_limited, require_shown
from statemachine.errors import DcdError, Unprepared
from store.host.process import run
from store.host.regular import open_regular
from store.host.tools import TOOLS, tool_named
from store.host.versions import version

SUFFIX = " of the host"
"""Suffix of the names of host parts."""

_DPKG_STATUS = Path("/var/lib/dpkg/status")
_LOADER_CACHE = Path("/etc/ld.so.cache")
_C_LIBRARY = re.compile(
    r"(ld-linux.*|ld|libc|libm|libdl|libpthread|librt|libresolv)(-[\d.]+)?\.so.*"
)
_LIBRARY = re.compile(r"(?:=>\s*|^\s*)(/\S+)", re.MULTILINE)

Identity = tuple[int, ...]
"""A tuple that changes when a file does: device, inode, size, times."""


def host_parts(names: Iterable[str]) -> dict[str, str]:
    """The host parts of the tools `names` (see `store.host.tools`): name to identifying text. Omits tools
    that do not shape results, and missing tools."""
    found: dict[str, dict[str, str]] = {}
    packages: dict[str, dict[str, str]] = {}
    for name in dict.fromkeys(names):
        tool = tool_named(name)
        path = tool.find()
        if path is None or not tool.shapes:
            continue
        part = tool.part or tool.package or tool.executable
        whole_set = (file for file in path.parent.iterdir() if file.is_file())
        files = {
            file.name: file_digest(file) for file in (whole_set if tool.whole else _program(path))
        }
        found.setdefault(part, {})[name] = _text_digest(files)
        note = _package(tool.package, path) or f"{name} {version(name) or ''}"
        packages.setdefault(part, {})[note.strip()] = ""
    return {
        f"{part}{SUFFIX}": f"{_text_digest(digests)} {', '.join(packages[part])}"
        for part, digests in found.items()
    }


def host_package(package: str) -> str | None:
    """A package of this host as one line: name, version, architecture, source, version of the source,
    maintainer, separated by tabs; None where dpkg does not have it."""
    if not _DPKG_STATUS.exists():
        return None
    return _described(package, _identity(_DPKG_STATUS.stat()))


@functools.lru_cache(maxsize=16)
def _described(package: str, identity: Identity) -> str | None:
    """The line; `identity` is only a key of the cache."""
    fields = ("Package", "Version", "Architecture", "source:Package", "source:Version")
    form = "\t".join(f"${{{name}}}" for name in (*fields, "Maintainer"))
    try:
        shown = run(
            ["dpkg-query", "--show", f"--showformat={form}", package],
            capture=True,
            timeout_seconds=60,
            log_errors=False,
        )
    except DcdError:
        return None
    return shown.stdout.strip() or None


def entering_packages() -> dict[str, str]:
    """The packages of this host whose files become parts of images (`Tool.enters`), each as `host_package`
    describes it."""
    packages = [tool.package for tool in TOOLS.values() if tool.enters]
    return {each: about for each in packages if (about := host_package(each))}


def present_apt() -> HostApt:
    """The configuration of the host's apt, like `host_apt`. A planner sees a copy of apt's settings that
    nothing changes (`dcd.platform.sight`): there apt is asked once until packages of the host change."""
    if not is_limited() or not _DPKG_STATUS.exists():
        return host_apt()
    return _apt(_identity(_DPKG_STATUS.stat()))


@functools.lru_cache(maxsize=1)
def _apt(identity: Identity) -> HostApt:
    """The configuration; `identity` is only a key of the cache."""
    return host_apt()


def file_digest(path: Path) -> str:
    """The sha256 (hex) of a regular file of the host. Raises Unprepared; in a planner also Unseen."""
    require_shown([path])
    try:
        identity = _identity(path.stat())
        return _file_digest(os.fspath(path), identity)
    except OSError as error:
        raise Unprepared(
            f"{path} of this host cannot be read", error.strerror or str(error)
        ) from error


def _program(path: Path) -> Iterator[Path]:
    """A program and its shared libraries, except the C library."""
    yield path
    cache = _identity(_LOADER_CACHE.stat()) if _LOADER_CACHE.exists() else ()
    for library in _libraries(os.fspath(path), _identity(path.stat()), cache):
        yield Path(library)


@functools.lru_cache(maxsize=256)
def _libraries(path: str, identity: Identity, cache: Identity) -> tuple[str, ...]:
    """The shared libraries; `identity` and `cache` (the loader's) are only keys of the cache."""
    with open(path, "rb") as file:  # noqa: PTH123
        if file.read(4) != b"\x7fELF":
            return ()
    printed = run(["ldd", path], capture=True, timeout_seconds=30, ok=range(256)).stdout
    libraries = {found[1] for found in _LIBRARY.finditer(printed)}
    return tuple(sorted(one for one in libraries if not _C_LIBRARY.fullmatch(Path(one).name)))


def _text_digest(named: dict[str, str]) -> str:
    lines = "".join(f"{name}\0{digest}\n" for name, digest in sorted(named.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _identity(status: os.stat_result) -> Identity:
    return (
        *(status.st_dev, status.st_ino, status.st_size),
        *(status.st_mtime_ns, status.st_ctime_ns),
    )


@functools.lru_cache(maxsize=8192)
def _file_digest(path: str, identity: Identity) -> str:
    """The digest; `identity` is only a key of the cache."""
    with open_regular(Path(path), follow=True) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _package(package: str, path: Path) -> str:
    """The package with its version, if dpkg has installed it and the file is not below /usr/local; or ""."""
    if not package or not _DPKG_STATUS.exists() or path.is_relative_to("/usr/local"):
        return ""
    installed = _packages(_identity(_DPKG_STATUS.stat()))
    return f"{package} {installed[package]}" if package in installed else ""


@functools.lru_cache(maxsize=4)
def _packages(identity: Identity) -> dict[str, str]:
    """All installed packages with their versions; `identity` is only a key of the cache."""
    form = "${db:Status-Abbrev}\t${Package}\t${Version}\n"
    try:
        listing = run(
            ["dpkg-query", "--show", f"--showformat={form}"], capture=True, timeout_seconds=60
        ).stdout
    except DcdError:
        return {}
    rows = (line.split("\t") for line in listing.splitlines())
    return {name: number for status, name, number in rows if status.startswith("ii")}
