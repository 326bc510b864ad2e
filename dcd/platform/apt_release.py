"""The state of repositories of Debian packages: the digests of their InRelease files, as served now.

`apt-helper` fetches with apt's own transports, proxies and logins, up to a size limit. The daemon calls
`release_digests` through `dcd.platform.asking`, in a confined process. Blocking; uses the network.
"""

import contextlib
import hashlib
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path

from dcd.platform.apt import (
    Source,
    as_written,
    auth_file,
    settings_text,
    split_login,
    transfer_settings,
)
from statemachine.errors import Unprepared
from store.host.process import ToolFailed, run
from store.host.tools import TOOLS

BACK_OFF_SECONDS = (1.0, 3.0, 7.0)
"""The pauses between tries of a download that failed for a temporary reason."""

TIMEOUT_SECONDS, IMPATIENT_SECONDS = 120.0, 10.0
"""Time limits of one download; the second applies without retries."""

MOST_BYTES = 4 << 20
"""Size limit of a Release file; Debian's have some 200 KiB. The caller has to limit files to it."""

_HEAD_BYTES = 1 << 16
"""The fields of a Release file come before its lists of digests."""


@dataclass(frozen=True, slots=True)
class FetchProblem:
    """A failed download, with apt's own reason ("503  Service Unavailable")."""

    uri: str
    reason: str
    tries: int = 1

    @property
    def transient(self) -> bool:
        """Whether another try may help: always, unless the server gave a definite answer."""
        return re.match(r"4(?!08|29)\d\d\b|it is larger than ", self.reason) is None


def fetch_problem(output: str) -> FetchProblem | None:
    """The first failed download that apt's output reports, or None."""
    found = re.search(r"Failed to fetch (\S+)\s+(.*?)(?: \[IP: [^]]*\])?\s*$", output, re.MULTILINE)
    return FetchProblem(split_login(found[1])[0], found[2]) if found else None


def unreachable(problem: FetchProblem, source: Source | None = None) -> Unprepared:
    """The error for a download that failed finally."""
    uri = as_written(problem.uri, [source] if source else [])
    times = f" (tried {problem.tries} times)" if problem.tries > 1 else ""
    return Unprepared(
        f"the mirror does not serve {source.name if source else uri}: {problem.reason}",
        f"{uri}: {problem.reason}{times}",
        "check the address and the suite in the manifest or in this host's apt sources, and that "
        "this host reaches the mirror (apt's configuration has the proxies); then try again",
    )


def release_digests(
    sources: Sequence[Source],
    settings: str,
    logins: str,
    http_proxy: str = "",
    pauses: Sequence[float] = BACK_OFF_SECONDS,
) -> dict[str, str]:
    """The sha256 of each source's present InRelease (or Release), by the source's name, followed by its
    date (" 2026-01-01T00:00:00Z"), if it has one. It changes with every change of the repository. `settings`
    and `logins` are those of the host (`HostApt`); `pauses` are between tries. Raises `Unprepared` for a
    mirror that does not answer."""
    if not sources:
        return {}
    with fetching(sources, settings, logins, http_proxy) as (directory, environment):
        targets = [directory / f"{number}" for number in range(len(sources))]
        for target in targets:
            target.mkdir()
        ask = partial(_release_digest, environment, tuple(pauses))
        with ThreadPoolExecutor(max_workers=8) as pool:
            digests = pool.map(ask, sources, targets)
            return dict(zip((source.name for source in sources), digests, strict=True))


@contextlib.contextmanager
def fetching(
    sources: Sequence[Source], settings: str, logins: str, http_proxy: str
) -> Iterator[tuple[Path, Mapping[str, str]]]:
    """A temporary directory, and the environment of apt-helper for downloads from the sources, with the
    `settings` and `logins` of the host (`HostApt`)."""
    with tempfile.TemporaryDirectory(prefix="dcd-apt-", dir=".") as name:
        directory = Path(name).absolute()
        auth = directory / "auth.conf"
        auth.touch(0o600)
        auth.write_text(auth_file(logins, sources))
        configuration = directory / "apt.conf"
        configuration.write_text(
            transfer_settings(settings, http_proxy)
            + settings_text([("Dir::Etc::netrc", f"{auth}"), ("Dir::Etc::netrcparts", "/dev/null")])
        )
        yield directory, {"APT_CONFIG": str(configuration)}


def _release_digest(
    environment: Mapping[str, str], pauses: tuple[float, ...], source: Source, directory: Path
) -> str:
    target = directory / "InRelease"
    problem = fetch(source.release_uri + "InRelease", target, environment, pauses)
    if problem is not None and re.match(r"404|File not found|Failed to stat", problem.reason):
        problem = fetch(source.release_uri + "Release", target, environment, pauses)
    if problem is not None:
        raise unreachable(problem, source)
    with target.open("rb") as content:
        head = content.read(_HEAD_BYTES)
        content.seek(0)
        return f"{hashlib.file_digest(content, 'sha256').hexdigest()} {date_of(head)}".strip()


def date_of(head: bytes) -> str:
    """The date of a repository, or "". Source: deb-repository, "Date"."""
    found = re.search(rb"^Date: *(.+)$", head, re.MULTILINE)
    with contextlib.suppress(ValueError, OverflowError):
        if found is not None:
            date = parsedate_to_datetime(found[1].decode("ascii", "replace").strip())
            # RFC 5322 has no zone "UTC"; a date without zone is in UTC, as all dates of repositories.
            date = date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)
            return f"{date:%Y-%m-%dT%H:%M:%SZ}"
    return ""


def fetch(
    uri: str, target: Path, environment: Mapping[str, str], pauses: tuple[float, ...]
) -> FetchProblem | None:
    """Download, with retries while they may help. Returns the last problem, or None."""
    helper = TOOLS["apt-helper"].executable
    seconds = TIMEOUT_SECONDS if pauses else IMPATIENT_SECONDS
    for tries, pause in enumerate((*pauses, None), 1):
        try:
            run(
                [helper, "download-file", uri, target],
                env=environment,
                capture=True,
                merge=True,
                timeout_seconds=seconds,
            )
            return None
        except ToolFailed as error:
            problem = _problem(uri, target, error, tries, seconds)
        if pause is None or not problem.transient:
            return problem
        time.sleep(pause)
    raise AssertionError("the last pause is None")


def _problem(uri: str, target: Path, error: ToolFailed, tries: int, seconds: float) -> FetchProblem:
    if any(file.stat().st_size >= MOST_BYTES for file in target.parent.iterdir()):
        return FetchProblem(uri, f"it is larger than {MOST_BYTES >> 20} MiB", tries)
    if error.timed_out:
        return FetchProblem(uri, f"no answer within {seconds:.0f} seconds", tries)
    return replace(fetch_problem(error.output) or FetchProblem(uri, error.output), tries=tries)
