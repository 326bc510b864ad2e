"""Questions about repositories, answered in confined processes.

The caller's privileges are never used to process a manifest's text about repositories, or the answers of
their servers: each question goes to a separate process (`dcd.platform.sandbox`) that runs without privileges,
sees only the files of the host that the question needs, and has limits on time, memory and output. `main`
runs in the confined process. In a planner, directories of the host have to be shown first
(`dcd.platform.sight`).
"""

import os
import pwd
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from dcd.platform import apt_offers, apt_release, ips
from dcd.platform.apt import HostApt, Source
from dcd.platform.apt_offers import Offer, Wanted
from dcd.platform.ips import Repository
from dcd.platform.sandbox import (
    MODULE,
    NOBODY,
    Allowed,
    code_places,
    has_own_root,
    is_apart,
    printed,
    run_confined,
)
from dcd.platform.sight import is_limited, require_shown
from statemachine.errors import DcdError, InvalidManifest, Unprepared
from store.host.process import ToolFailed
from store.host.regular import is_open_to_all

SECONDS = 300.0
"""Time limit of one question, including retries."""

_FILE_BYTES = 4 << 20
_PREFIX = "dcd-asking-"
_SCRATCH = "scratch"
"""Directory for the process's files; with its own root, it uses /tmp there instead."""


class _Releases(msgspec.Struct, frozen=True, tag="releases"):
    """The question about the digests of repositories' Release files."""

    sources: tuple[Source, ...]
    settings: str
    logins: str
    http_proxy: str
    pauses: tuple[float, ...]


class _Catalogs(msgspec.Struct, frozen=True, tag="catalogs"):
    """The question about the state of repositories' catalogs. `logins` are the contents of the key and the
    certificate of each repository that has them."""

    repositories: tuple[Repository, ...]
    logins: tuple[tuple[bytes, bytes] | None, ...]
    http_proxy: str
    pauses: tuple[float, ...]


class _Offers(msgspec.Struct, frozen=True, tag="offers"):
    """The question about what repositories offer in place of known packages."""

    sources: tuple[Source, ...]
    settings: str
    logins: str
    wanted: tuple[Wanted, ...]
    architecture: str
    http_proxy: str


_Question = _Releases | _Catalogs | _Offers


class _Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer, or the error: the name of its class and its texts."""

    digests: dict[str, str] | None = None
    offers: tuple[Offer, ...] = ()
    error: tuple[str, str, str, str] | None = None


def ask_releases(
    sources: Sequence[Source], host: HostApt, http_proxy: str = "", *, patient: bool = True
) -> dict[str, str]:
    """The present state of each source's repository; see `apt_release.release_digests`. With `patient`, with
    retries."""
    places = readable_paths(source.uri for source in sources)
    pauses = apt_release.BACK_OFF_SECONDS if patient else ()
    question = _Releases(tuple(sources), host.settings, host.logins, http_proxy, pauses)
    return _digests(question, places, "_apt")


def ask_catalogs(
    repositories: Sequence[Repository], http_proxy: str = "", *, patient: bool = True
) -> dict[str, str]:
    """The present state of each repository's catalogs; see `ips.catalog_digests`. With `patient`, with
    retries."""
    logins: list[tuple[bytes, bytes] | None] = []
    for repository in repositories:
        if repository.key is None or repository.certificate is None:
            logins.append(None)
        else:
            logins.append((repository.key.read_bytes(), repository.certificate.read_bytes()))
    places = readable_paths(repository.origin for repository in repositories)
    pauses = ips.BACK_OFF_SECONDS if patient else ()
    question = _Catalogs(tuple(repositories), tuple(logins), http_proxy, pauses)
    # The host's tools, including pkg(7), use these proxies too.
    proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    return _digests(question, places, NOBODY, proxies)


def ask_offers(
    sources: Sequence[Source],
    host: HostApt,
    wanted: Sequence[Wanted],
    architecture: str,
    http_proxy: str = "",
) -> tuple[Offer, ...]:
    """What the repositories offer in place of known packages; see `apt_offers.offers`."""
    places = readable_paths(source.uri for source in sources)
    question = _Offers(
        tuple(sources), host.settings, host.logins, tuple(wanted), architecture, http_proxy
    )
    return _asked(question, places, "_apt", file_bytes=apt_offers.MOST_BYTES).offers


def local_path(origin: str) -> Path | None:
    """The path of the host that an origin of packages names, as a path or a URI, or None."""
    if origin.startswith("/"):
        return Path(origin)
    parts = urlsplit(origin)
    return Path(unquote(parts.path)) if parts.scheme in ("file", "copy") else None


def readable_paths(origins: Iterable[str]) -> list[str]:
    """The paths of this host that the origins name. Raises `Unprepared` for a path that is not
    world-readable: dcd must not read a file for the author of a manifest who may not read it."""
    paths = [path for origin in origins if (path := local_path(origin)) is not None]
    require_shown(paths)
    for path in paths:
        if (is_apart() or is_limited()) and not is_open_to_all(path):
            raise Unprepared(
                f"the package repository {path} cannot be read by everybody on this host",
                f"{path} does not exist, or it or a parent directory is closed to others",
                "open it to others, or serve it over http",
            )
    return list(map(str, paths))


def _digests(
    question: _Question,
    places: Sequence[str],
    user: str,
    environment: Mapping[str, str] | None = None,
) -> dict[str, str]:
    digests = _asked(question, places, user, environment).digests
    assert digests is not None
    return digests


def _asked(
    question: _Question,
    places: Sequence[str],
    user: str,
    environment: Mapping[str, str] | None = None,
    file_bytes: int = _FILE_BYTES,
) -> _Answer:
    try:
        pwd.getpwnam(user)
    except KeyError:
        user = NOBODY
    allowed = Allowed(
        network=True,
        file_bytes=file_bytes,
        seen=(*code_places(), *places),
        user=user,
        environment=environment or {},
    )
    return _ask(question, allowed, SECONDS)


def _ask(question: _Question, allowed: Allowed, seconds: float) -> _Answer:
    _remove_stale()
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        # Closed to other users; a process with its own root reaches its contents nevertheless.
        Path(name).chmod(0o700 if is_apart() else 0o711)
        place = Path(name) / "place"
        place.mkdir()
        place.chmod(0o755)  # independent of the daemon's umask
        if not has_own_root():
            scratch = place / _SCRATCH
            scratch.mkdir(0o700)
            if os.geteuid() == 0:
                shutil.chown(scratch, allowed.user)
        asked = msgspec.json.encode(question, enc_hook=str)
        try:
            # On standard input: on a disk, a kill would leave the logins behind.
            text = run_confined([MODULE, __name__], place, seconds, allowed, asked)
            answer = msgspec.json.decode(text, type=_Answer)
        except ToolFailed as failure:
            raise _unanswered(failure, seconds, printed(place)) from failure
    if answer.error is not None:
        kind, *texts = answer.error
        raise (InvalidManifest if kind == InvalidManifest.__name__ else Unprepared)(*texts)
    return answer


def _remove_stale() -> None:
    """Remove the directories of questions from killed processes: those older than any question takes."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            found = left.lstat()
        except OSError:
            continue
        own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
        if own and time.time() - found.st_mtime > 2 * SECONDS:
            shutil.rmtree(left, ignore_errors=True)


def _unanswered(failure: ToolFailed, seconds: float, output: str) -> Unprepared:
    if failure.timed_out:
        return Unprepared(
            "the repositories did not answer in time",
            f"the limit for all of them together is {seconds:.0f} seconds",
            "check that this host reaches them, then try again",
        )
    return Unprepared(
        "the repositories cannot be queried",
        output[-2000:] or failure.details,
        "run dcctl doctor; then try again",
    )


def main() -> None:
    """Answer the question on standard input: JSON on standard output, or a traceback after a defect."""
    output = os.dup(1)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    try:
        question = msgspec.json.decode(
            sys.stdin.buffer.read(), type=_Question, dec_hook=lambda kind, value: kind(value)
        )
        os.chdir(_SCRATCH if Path(_SCRATCH).is_dir() else "/tmp")
        try:
            answer = _answer(question)
        except DcdError as error:
            kind = type(error).__name__
            answer = _Answer(error=(kind, error.brief, error.details, error.resolution))
        os.write(output, msgspec.json.encode(answer))
    except BaseException:
        os.dup2(output, 2)
        raise


def _answer(question: _Question) -> _Answer:
    match question:
        case _Releases(sources, settings, logins, http_proxy, pauses):
            return _Answer(
                digests=apt_release.release_digests(sources, settings, logins, http_proxy, pauses)
            )
        case _Offers(sources, settings, logins, wanted, architecture, http_proxy):
            return _Answer(
                offers=apt_offers.offers(
                    sources, settings, logins, wanted, architecture, http_proxy
                )
            )
        case _Catalogs(repositories, logins, http_proxy, pauses):
            pairs = zip(repositories, logins, strict=True)
            ready = [_with_login(number, *pair) for number, pair in enumerate(pairs)]
            return _Answer(digests=ips.catalog_digests(ready, http_proxy, pauses))


def _with_login(
    number: int, repository: Repository, login: tuple[bytes, bytes] | None
) -> Repository:
    if login is None:
        return repository
    files = []
    for kind, content in zip(("key", "certificate"), login, strict=True):
        file = Path(f"{kind}-{number}").absolute()
        file.touch(0o600)
        file.write_bytes(content)
        files.append(file)
    return replace(repository, key=files[0], certificate=files[1])


if __name__ == "__main__":
    main()
