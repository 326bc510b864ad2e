"""apt at work on a root directory in which there is no system yet.

`apt_root` puts what apt needs into the root (sources, logins, proxies, pins) and takes it out again
at the end, whatever happens: none of it is left in the image. Inside it, `update` and `download` fill
apt's lists and package cache below the root, trying again when a mirror stumbles, so that mmdebstrap
then finds everything in place. The host's own apt state is neither used nor changed.
"""

import difflib
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from dcd.platform.apt import (
    HostApt,
    Source,
    auth_file,
    configured_paths,
    source_list,
    transfer_settings,
)
from dcd.platform.apt_release import BACK_OFF_SECONDS, fetch_problem, unreachable
from dcd.platform.capabilities import FILES, keep_only
from dcd.platform.process import ToolFailed, run
from statemachine.errors import CheckpointError

SOURCES_NAME = "0000dcd.sources"
"""The file that mmdebstrap itself would write for a mirror file `dcd.sources`; it keeps one that is there."""

Environment = Mapping[str, str]
OnLine = Callable[[str], None]


@contextmanager
def apt_root(
    root: Path,
    scratch: Path,
    *,
    sources: Sequence[Source],
    host: HostApt,
    architecture: str,
    never: Sequence[str] = (),
    http_proxy: str = "",
) -> Iterator[Environment]:
    """Prepare `root` for apt; yields the environment to run apt in. Packages named in `never` have no
    candidate in it. `scratch` is a directory outside the root."""
    etc = root / "etc/apt"
    files = {
        etc / "apt.conf.d/00dcd": transfer_settings(host.settings, http_proxy)
        + 'APT::Install-Recommends "false";\nAcquire::Languages "none";\n',
        etc / "auth.conf.d/00dcd.conf": auth_file(host.logins, sources),
        etc / "preferences.d/00dcd": "\n".join(
            f"Package: {name}\nPin: release *\nPin-Priority: -1\n" for name in never
        ),
        etc / "sources.list.d" / SOURCES_NAME: source_list(sources),
    }
    for directory in ("var/lib/apt/lists/partial", "var/cache/apt/archives/partial"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    status = root / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True, exist_ok=True)
    status.touch()
    trusted, trusted_parts = configured_paths("Dir::Etc::Trusted/f", "Dir::Etc::TrustedParts/d")
    settings = scratch / "apt.conf"
    settings.write_text(
        f'APT::Architecture "{architecture}";\nAPT::Architectures "{architecture}";\n'
        f'Dir "{root}";\nDir::State::Status "{status}";\n'
        f'Dir::Etc::Trusted "{trusted}";\nDir::Etc::TrustedParts "{trusted_parts}";\n'
    )
    try:
        for file, text in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            secret = file.parent.name in ("apt.conf.d", "auth.conf.d")
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600 if secret else 0o644)
            with open(descriptor, "w") as stream:  # noqa: PTH123
                stream.write(text)
        yield {"APT_CONFIG": str(settings)}
    finally:
        for file in files:
            file.unlink(missing_ok=True)


def update(environment: Environment, on_line: OnLine | None = None) -> None:
    """Fetch the package lists. Raises `Unprepared` when a mirror does not serve them in the end, and
    `CheckpointError` when apt does not trust them."""
    try:
        _persist(["apt-get", "update", "--error-on=any"], environment, on_line)
    except ToolFailed as error:
        if untrusted := re.findall(
            r"^(?:E|W): (.*(?:GPG error|not signed).*)$", error.output, re.M
        ):
            raise CheckpointError(
                "apt does not trust a repository of this image",
                "\n".join(untrusted),
                'name the keyring that it is signed with: <repository signed_by="/path/keyring.gpg">',
            ) from error
        raise


def list_digests(root: Path) -> set[str]:
    """The sha256 of each InRelease (or Release) that the lists below the root came with."""
    lists = root / "var/lib/apt/lists"
    digests = set()
    for pattern in ("*InRelease", "*_Release", "Release"):
        for file in lists.glob(pattern):
            with file.open("rb") as content:
                digests.add(hashlib.file_digest(content, "sha256").hexdigest())
    return digests


def download(
    environment: Environment, packages: Sequence[str], on_line: OnLine | None = None
) -> None:
    """Fetch packages and all they depend on into the cache below the root. Raises `ToolFailed` when
    apt finds no solution, `Unprepared` when a mirror does not serve a package in the end."""
    _persist(["apt-get", "--yes", "--download-only", "install", *packages], environment, on_line)


def similar_packages(environment: Environment, name: str) -> list[str]:
    """Packages in the lists whose names look like `name`, best first."""
    names = run(["apt-cache", "pkgnames"], env=environment, capture=True).stdout.split()
    return difflib.get_close_matches(name, names, n=3, cutoff=0.75)


def _persist(argv: Sequence[str], environment: Environment, on_line: OnLine | None) -> None:
    """Run apt, with rights over files only, and again while its only complaint is a download that may work
    the next time."""
    for tries, pause in enumerate((*BACK_OFF_SECONDS, None), 1):
        try:
            run(argv, env=environment, on_line=on_line, start=partial(keep_only, FILES))
            return
        except ToolFailed as error:
            problem = fetch_problem(error.output)
            if problem is None:
                raise
            if pause is None or not problem.transient:
                raise unreachable(replace(problem, tries=tries)) from error
        time.sleep(pause)
