"""The state of repositories of IPS packages: digests of their catalogs, for keys.

The attributes of a publisher's catalog, a few kilobytes, contain a signature of each part of the catalog,
which changes exactly when its packages change; reading them does not need pkg(7). A package archive (p5p) is
identified by its content. Blocking. The daemon calls it through `dcd.platform.asking`, in a confined process.

Source: pkg(7), the catalog's attributes.
"""

import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from statemachine.errors import Unprepared
from statemachine.keys import digest
from store.host.regular import digest_regular, read_regular

BACK_OFF_SECONDS = (1.0, 4.0, 15.0)
"""Pauses between tries while a repository is unreachable."""

TIMEOUT_SECONDS = 60.0
IMPATIENT_SECONDS = 10.0
"""Time limits of one answer; the second applies without retries."""

MOST_BYTES = 4 << 20
"""Size limit of an answer. The attributes of a catalog are a few KiB."""

MOST_ARCHIVE_BYTES = 64 << 30
"""Size limit of a package archive."""

_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Repository:
    """An origin of packages: a URI, or the path of a repository or archive on this host. Without
    `publisher` it means all its publishers. `key` and `certificate` are the files for its login."""

    origin: str
    publisher: str = ""
    key: Path | None = None
    certificate: Path | None = None

    @property
    def is_remote(self) -> bool:
        """Whether it is reached over the network."""
        return self.origin.lower().startswith(("http://", "https://"))


def catalog_digests(
    repositories: Iterable[Repository],
    http_proxy: str = "",
    pauses: Sequence[float] = BACK_OFF_SECONDS,
) -> dict[str, str]:
    """The state of the catalog of each publisher in the repositories (a digest, followed by the time of the
    last change), by `ORIGIN PUBLISHER` (by `ORIGIN` for an archive). `pauses` are between tries. Raises
    Unprepared for a repository that cannot be read."""
    found: dict[str, str] = {}
    for each in repositories:
        found.update(_remote(each, http_proxy, pauses) if each.is_remote else _local(each))
    return found


def _remote(
    repository: Repository, http_proxy: str, pauses: Sequence[float]
) -> Iterator[tuple[str, str]]:
    get = _getter(repository, http_proxy, pauses)
    base = repository.origin.rstrip("/")
    names = [repository.publisher]
    if not repository.publisher:
        names = _publishers(get(f"{base}/publisher/0/"), repository.origin)
    for name in names:
        attributes = get(f"{base}/{quote(name, safe='')}/catalog/1/catalog.attrs")
        yield f"{repository.origin} {name}", _state(attributes, repository.origin)


def _local(repository: Repository) -> Iterator[tuple[str, str]]:
    parts = urlsplit(repository.origin)
    path = Path(unquote(parts.path) if parts.scheme == "file" else repository.origin)
    try:
        if not path.is_dir():
            yield repository.origin, digest_regular(path, MOST_ARCHIVE_BYTES, follow=True)
            return
        names = [repository.publisher]
        if not repository.publisher:
            names = sorted(entry.name for entry in (path / "publisher").iterdir())
        for name in names:
            file = path / "publisher" / name / "catalog/catalog.attrs"
            attributes = read_regular(file, MOST_BYTES, follow=True)
            yield f"{repository.origin} {name}", _state(attributes, repository.origin)
    except OSError as error:
        raise Unprepared(
            f"the package repository {repository.origin} cannot be read",
            f"{error.filename}: {error.strerror}",
            "correct the path of the origin; the publisher must be one that the repository has",
        ) from None


def _getter(
    repository: Repository, http_proxy: str, pauses: Sequence[float]
) -> Callable[[str], bytes]:
    context = ssl.create_default_context()
    if repository.certificate is not None:
        try:
            context.load_cert_chain(repository.certificate, repository.key)
        except OSError as error:  # ssl.SSLError is one
            raise Unprepared(
                f"the key and certificate for {repository.origin} cannot be used", str(error)
            ) from None
    handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=context)]
    if http_proxy:
        proxies = {"http": http_proxy, "https": http_proxy}
        handlers.append(urllib.request.ProxyHandler(proxies))
    opener = urllib.request.build_opener(*handlers)

    seconds = TIMEOUT_SECONDS if pauses else IMPATIENT_SECONDS

    def get(uri: str) -> bytes:
        for pause in (*pauses, None):
            try:
                with opener.open(uri, timeout=seconds) as answer:
                    content: bytes = answer.read(MOST_BYTES + 1)
                if len(content) > MOST_BYTES:
                    raise _unreachable(repository, uri, f"it answers more than {MOST_BYTES} bytes")
                return content
            except urllib.error.HTTPError as error:
                problem, transient = f"{error.code} {error.reason}", error.code in _TRANSIENT
            except OSError as error:  # refused, timed out, no such host
                problem, transient = str(getattr(error, "reason", error)), True
            if pause is None or not transient:
                raise _unreachable(repository, uri, problem)
            time.sleep(pause)
        raise AssertionError("the last pause is None")

    return get


def _unreachable(repository: Repository, uri: str, problem: str) -> Unprepared:
    return Unprepared(
        f"the package repository {repository.origin} cannot be reached",
        f"{uri}: {problem}",
        "check the origin and the publisher's name in the manifest, and that this host reaches it "
        "(the distribution's http_proxy is used); then try again",
    )


def _publishers(content: bytes, origin: str) -> list[str]:
    try:
        return sorted(str(each["name"]) for each in json.loads(content)["publishers"])
    except (ValueError, KeyError, TypeError):
        raise _not_a_repository(origin) from None


def _state(attributes: bytes, origin: str) -> str:
    try:
        catalog = json.loads(attributes)
        signatures = {name: part["signature-sha-1"] for name, part in catalog["parts"].items()}
        return f"{digest(signatures)} {_date(catalog.get('last-modified'))}".strip()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _not_a_repository(origin) from None


def _date(stamp: object) -> str:
    """A catalog's time in ISO 8601, or "" when it has none. Source: pkg(7), `20260101T000000.123Z`."""
    try:
        date = datetime.strptime(str(stamp).partition(".")[0].rstrip("Z"), "%Y%m%dT%H%M%S")
    except ValueError:
        return ""
    return f"{date:%Y-%m-%dT%H:%M:%SZ}"


def _not_a_repository(origin: str) -> Unprepared:
    return Unprepared(
        f"{origin} answers, but not as a repository of packages",
        "its answer is not the attributes of a catalog",
        "check the origin in the manifest",
    )
