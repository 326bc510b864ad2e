"""Running the host's apt on the root directory of an image.

`reachable` shows the root at a path that apt's own user can reach, even below closed directories, and beside
it a temporary directory. All files for apt (sources, pins, keyrings, logins, proxies) are in that directory
and never in the root, so packages can neither read nor change them. `transfers` adds logins and proxies for
the time of a download. `update` and `download` fill apt's lists and package cache below the root, with
retries, so that the installation needs no network. The host's own apt state is neither used nor changed, nor
are settings of the image, which could make apt run programs.
"""

import difflib
import hashlib
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from dcd.platform.apt import (
    HostApt,
    Source,
    as_written,
    auth_file,
    configured_paths,
    settings_text,
    source_list,
    transfer_settings,
    word,
)
from dcd.platform.apt_release import BACK_OFF_SECONDS, MOST_BYTES, fetch_problem, unreachable
from dcd.platform.inside import entry, make_directory, may_set_owners, resolve, write
from dcd.platform.sandbox import is_apart
from statemachine.errors import CheckpointError
from store.host.capabilities import FILES, keep_only
from store.host.mounts import NO_DEVICES, NO_SUID, bind, mount, unmount
from store.host.process import ToolFailed, operand, run
from store.host.tools import TOOLS

LISTS, ARCHIVES = "var/lib/apt/lists", "var/cache/apt/archives"

MIRROR_NAME = "dcd.sources"
"""The file of sources for mmdebstrap."""

USER = "_apt"
"""The user of the host as which apt downloads."""

_WANTED = re.compile(r"^'([^']+)' ([^\s/]+\.deb) ([0-9]+) SHA256:([0-9a-f]{64})$", re.MULTILINE)
"""A line of `apt-get --print-uris`."""

_OF_INDEX = ("REPO_URI", "RELEASE", "METAKEY")

BESIDE_SCRIPTS = (*FILES, "SETPCAP")
"""The capabilities of a download beside packages' scripts. The scripts have one less, so they cannot reach
its files, the package store among them, by /proc. Source: ptrace(2), PTRACE_MODE_READ."""

_CONNECTIONS = 4

_NO_SOLUTION = 100
"""The exit status of apt-get after an error. Source: apt-get(8), "DIAGNOSTICS"."""

Environment = Mapping[str, str]
OnLine = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Place:
    """The `root` of the image, and the directory `aside` for apt's other files."""

    root: Path
    aside: Path

    @property
    def settings(self) -> Path:
        """apt's settings, without logins and proxies."""
        return self.aside / "apt.conf"


@contextmanager
def reachable(root: Path) -> Iterator[Place]:
    """Show the root at a path that apt's user can reach. Raises `CheckpointError` when it cannot: apt would
    download as root instead."""
    with ExitStack() as stack:
        aside = Path(tempfile.mkdtemp(prefix="dcd-apt-"))
        stack.callback(shutil.rmtree, aside, ignore_errors=True)
        aside.chmod(0o711)
        shown = root
        if is_apart():
            mount("tmpfs", aside, "mode=711", NO_SUID | NO_DEVICES)
            stack.callback(unmount, aside)
            shown = aside / "root"
            shown.mkdir()
            bind(root, shown)
            stack.callback(unmount, shown)
        for directory in (LISTS, ARCHIVES):
            make_directory(shown, f"{directory}/partial")
        # In a user namespace with a single user apt cannot switch to another.
        if may_set_owners():
            _require_reach(resolve(shown, f"{ARCHIVES}/partial"))
        yield Place(shown, aside)


def _require_reach(directory: Path) -> None:
    try:
        run(
            [TOOLS["apt-helper"].executable, "drop-privs", "--", "test", "-r", directory],
            capture=True,
            merge=True,
            timeout_seconds=60,
        )
    except ToolFailed as error:
        raise CheckpointError(
            f"apt cannot download as its own user {USER}",
            f"{USER} cannot reach the package cache of the image: {error.output or directory}",
            "open the directories of the image that are closed to others: /, /var, /var/cache, /var/lib",
        ) from error


def apt_settings(
    place: Place,
    *,
    sources: Sequence[Source],
    architecture: str,
    never: Sequence[str] = (),
    pins: str = "",
    lists: Path | None = None,
) -> Environment:
    """Write settings for apt on the root, without downloads. Returns apt's environment. The packages in
    `never` cannot be installed; `pins` are further preferences. `lists` is the directory of the package
    lists, by default in the root."""
    etc = place.aside / "etc"
    for directory in ("apt.conf.d", "sources.list.d", "preferences.d", "auth.conf.d"):
        (etc / directory).mkdir(parents=True, exist_ok=True)
    (place.aside / "log").mkdir(exist_ok=True)
    (etc / "sources.list.d/dcd.sources").write_text(source_list(sources))
    (etc / "preferences.d/dcd").write_text(f"{_pins(never)}\n{pins}")
    status = make_directory(place.root, "var/lib/dpkg") / "status"
    status.touch()
    trusted, trusted_parts = configured_paths("Dir::Etc::Trusted/f", "Dir::Etc::TrustedParts/d")
    place.settings.write_text(
        settings_text(
            [
                ("APT::Architecture", architecture),
                ("APT::Architectures", architecture),
                ("APT::Install-Recommends", "false"),
                ("APT::Sandbox::User", USER),
                ("Acquire::Languages", "none"),
                ("Dir", f"{place.root}"),
                ("Dir::State::Status", f"{status}"),
                ("Dir::State::Lists", f"{lists or resolve(place.root, LISTS)}"),
                ("Dir::Cache::Archives", f"{resolve(place.root, ARCHIVES)}"),
                ("Dir::Etc", f"{etc}"),
                ("Dir::Etc::Trusted", trusted),
                ("Dir::Etc::TrustedParts", trusted_parts),
                ("Dir::Log", f"{place.aside}/log"),
                ("Dir::Log::Terminal", ""),
                ("Dir::Log::History", ""),
            ]
        )
    )
    return {"APT_CONFIG": str(place.settings)}


def with_nothing_installed(place: Place) -> Environment:
    """apt's environment on the same root and lists, as if no package were installed and none in its cache."""
    status, archives = place.aside / "no-status", place.aside / "no-archives"
    status.touch()
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    return _varied(
        place,
        "nothing-installed",
        ("Dir::State::Status", f"{status}"),
        ("Dir::Cache::Archives", f"{archives}"),
        ("Dir::Cache::pkgcache", ""),
    )


def with_lists(place: Place, lists: Path) -> Environment:
    """apt's environment on the same root, with other lists, of which it keeps no cache."""
    caches = [("Dir::Cache::pkgcache", ""), ("Dir::Cache::srcpkgcache", "")]
    return _varied(place, "other-lists", ("Dir::State::Lists", f"{lists}"), *caches)


def _varied(place: Place, name: str, *options: tuple[str, str]) -> Environment:
    settings = place.aside / f"{name}.conf"
    settings.write_text(place.settings.read_text() + settings_text(options))
    return {"APT_CONFIG": str(settings)}


@contextmanager
def transfers(
    place: Place,
    host: HostApt,
    sources: Sequence[Source],
    http_proxy: str = "",
    *,
    check_valid_until: bool = True,
) -> Iterator[Environment]:
    """The same settings with those for downloads: the host's transports, proxies and logins."""
    settings, auth = place.aside / "transfer.conf", place.aside / "auth.conf"
    options = [
        ("Dir::Etc::netrc", f"{auth}"),
        ("Dir::Etc::netrcparts", "/dev/null"),
        ("Acquire::MaxReleaseFileSize", f"{MOST_BYTES}"),
        *(() if check_valid_until else [("Acquire::Check-Valid-Until", "false")]),
    ]
    transport = transfer_settings(host.settings, http_proxy) + settings_text(options)
    try:
        for file in (settings, auth):
            file.touch(0o600)
        settings.write_text(place.settings.read_text() + transport)
        auth.write_text(auth_file(host.logins, sources))
        yield {"APT_CONFIG": str(settings)}
    finally:
        settings.unlink(missing_ok=True)
        auth.unlink(missing_ok=True)


@contextmanager
def settings_in_root(root: Path, never: Sequence[str], preferences: str = "") -> Iterator[None]:
    """Write the pins into the root for the time of mmdebstrap, whose apt reads its settings there; remove
    them and mmdebstrap's own sources afterwards."""
    pins = write(root, "etc/apt/preferences.d/00dcd", f"{_pins(never)}\n{preferences}")
    try:
        yield
    finally:
        pins.unlink(missing_ok=True)
        entry(root, f"etc/apt/sources.list.d/0000{MIRROR_NAME}").unlink(missing_ok=True)


def update(
    environment: Environment, sources: Sequence[Source], on_line: OnLine | None = None
) -> None:
    """Fetch the package lists of the sources. Raises `Unprepared` when a mirror does not serve them, and
    `CheckpointError` when apt does not trust them."""
    try:
        _run_apt(["apt-get", "update", "--error-on=any"], environment, sources, on_line)
    except ToolFailed as error:
        if untrusted := re.findall(
            r"^(?:E|W): (.*(?:GPG error|not signed).*)$", error.output, re.M
        ):
            raise CheckpointError(
                "apt does not trust a repository of this image",
                "\n".join(untrusted),
                'name the keyring with its key: <repository signed_by="/path/keyring.gpg">',
            ) from error
        raise


def release_files(lists: Path) -> dict[str, Path]:
    """Each InRelease (or Release) file of the lists in a directory, by its sha256."""
    found = {}
    for pattern in ("*InRelease", "*_Release", "Release"):
        for file in lists.glob(pattern):
            with file.open("rb") as content:
                found[hashlib.file_digest(content, "sha256").hexdigest()] = file
    return found


def download(
    environment: Environment,
    sources: Sequence[Source],
    packages: Sequence[str],
    on_line: OnLine | None = None,
) -> None:
    """Fetch packages and their dependencies into the cache below the root. Raises `ToolFailed` when apt
    finds no solution, `Unprepared` when a mirror does not serve a package."""
    _run_apt(
        ["apt-get", "--yes", "--download-only", "install", *map(operand, packages)],
        environment,
        sources,
        on_line,
    )


@dataclass(frozen=True, slots=True)
class WantedFile:
    """A package that apt would download: its name in the package cache, and its digest by the lists; where
    it comes from, and its size."""

    name: str
    sha256: str
    uri: str
    size_bytes: int


def wanted_files(environment: Environment, packages: Sequence[str]) -> list[WantedFile]:
    """The packages, and all they depend on, that are not in the cache below the root. None, when apt finds no
    solution: `download` tells why. Raises `ToolFailed` when apt does not come to an end."""
    command = ["apt-get", "--quiet=2", "--yes", "--print-uris", "-o", "Acquire::ForceHash=SHA256"]
    try:
        listing = run(
            [*command, "--download-only", "install", *map(operand, packages)],
            env=environment,
            capture=True,
            start=partial(keep_only, FILES),
        ).stdout
    except ToolFailed as error:
        if error.exit_status != _NO_SOLUTION:
            raise
        return []
    return [
        WantedFile(match[2], match[4], match[1], int(match[3]))
        for match in _WANTED.finditer(listing)
    ]


def download_files(
    environment: Environment,
    files: Sequence[WantedFile],
    directory: Path,
    on_line: OnLine | None = None,
) -> None:
    """Fetch packages to files of their names in a directory, once, over several connections at the same time:
    most packages are small, and one connection would mostly wait for the next answer. There is output with
    `on_line` only. Raises `ToolFailed`; files without their whole size are incomplete then. Source:
    apt-helper of apt, download-file."""
    shutil.chown(directory, USER)
    by_size = sorted(files, key=lambda file: -file.size_bytes)
    order = [file for first in range(_CONNECTIONS) for file in by_size[first::_CONNECTIONS]]
    wanted = [
        word
        for file in order
        for word in (file.uri, f"{directory / file.name}", f"SHA256:{file.sha256}")
    ]
    share = 3 * -(-len(order) // _CONNECTIONS)
    run(
        [
            *("xargs", "--null", f"--max-procs={_CONNECTIONS}", f"--max-args={share}"),
            *(TOOLS["apt-helper"].executable, "download-file"),
        ],
        env=environment,
        stdin="\0".join(wanted).encode(),
        capture=on_line is None,
        log_errors=on_line is not None,
        on_line=on_line,
        start=partial(keep_only, BESIDE_SCRIPTS),
    )


@dataclass(frozen=True, slots=True)
class IndexFile:
    """A list of packages below the root: the file, the URI and suite of its repository as apt fetches them,
    and its name in the release file."""

    file: Path
    uri: str
    suite: str
    name: str


def index_files(environment: Environment) -> list[IndexFile]:
    """The lists of packages that apt has fetched. Source: apt-get(8), indextargets."""
    columns = "\t".join(f"$({name})" for name in ("CREATED_BY", "FILENAME", *_OF_INDEX))
    listing = run(
        ["apt-get", "indextargets", "--no-release-info", "--format", columns],
        env=environment,
        capture=True,
        timeout_seconds=60,
    ).stdout
    rows = (line.split("\t") for line in listing.splitlines())
    return [
        IndexFile(Path(file), uri, suite, name)
        for created_by, file, uri, suite, name in rows
        if created_by == "Packages" and Path(file).is_file()
    ]


def forget(root: Path) -> None:
    """Empty lists and package cache of the root, as in Debian's package apt: owned by root, since the number
    of apt's user differs between hosts."""
    for directory in (LISTS, ARCHIVES):
        shutil.rmtree(resolve(root, directory), ignore_errors=True)
        make_directory(root, f"{directory}/partial")
    for cache in ("pkgcache.bin", "srcpkgcache.bin"):
        (resolve(root, ARCHIVES).parent / cache).unlink(missing_ok=True)


_LARGEST_DIFFERENCE = 0.03
"""The largest difference in similarity to the best match."""


def similar_packages(environment: Environment, name: str) -> list[str]:
    """Packages in the lists with the names most similar to `name`: the best match, and others as good."""
    names = run(["apt-cache", "pkgnames"], env=environment, capture=True).stdout.split()
    found = difflib.get_close_matches(name, names, n=3, cutoff=0.75)
    alike = {each: difflib.SequenceMatcher(None, each, name).ratio() for each in found}
    return [each for each in found if alike[each] >= max(alike.values()) - _LARGEST_DIFFERENCE]


def _pins(never: Sequence[str]) -> str:
    return "\n".join(f"Package: {word(name)}\nPin: release *\nPin-Priority: -1\n" for name in never)


def _run_apt(
    argv: Sequence[str],
    environment: Environment,
    sources: Sequence[Source],
    on_line: OnLine | None,
) -> None:
    """Run apt with capabilities for files only, with retries after temporary download failures. Errors name
    the sources as they were written."""
    for tries, pause in enumerate((*BACK_OFF_SECONDS, None), 1):
        try:
            run(argv, env=environment, on_line=on_line, start=partial(keep_only, FILES))
            return
        except ToolFailed as error:
            output = as_written(error.output, sources)
            problem = fetch_problem(output)
            if problem is None:
                raise ToolFailed(error.argv, error.exit_status, output, None) from error
            if pause is None or not problem.transient:
                raise unreachable(replace(problem, tries=tries)) from error
        time.sleep(pause)
