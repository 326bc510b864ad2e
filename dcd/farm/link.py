"""The registry that build servers share: what is asked of it, what is sent to it in the background, and how
it goes.

A registry that does not answer is left alone for a while. What cannot be sent is dropped: everything that is
sent can be made again, or is still on the member that made it.
"""

import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import structlog

from dcd.engine.sharing import SharingState
from dcd.farm.shared_registry import reading_registry, said
from dcd.platform.publishing.http import Broken
from dcd.platform.publishing.registry import Registry
from statemachine.errors import DcdError, NotFound

logger = structlog.get_logger()

MOST_WAITING = 64
"""How many things of a kind may wait to be sent; further ones are dropped."""

QUIET_SECONDS, MOST_QUIET_SECONDS = 30.0, 600.0
"""How long nothing is asked of a registry that does not answer; each time twice as long as before."""

COUNTED = {"layers": ("sent", "come", "dropped", "refused"), "outputs": ("sent", "dropped")}
"""What is counted of each kind of things. Outputs are logs, files of attempts, and artifacts."""


class Link:
    """See the module. `writing` tries again, `reading` and `offering` do not; with `offering` somebody waits
    for what is sent."""

    def __init__(self, url: str, login: tuple[str, str] | None) -> None:
        self.url = url
        self.reading = reading_registry(url, login)
        server = replace(self.reading.server, pauses=(1.0, 2.0), say=self._retrying)
        self.writing = Registry(server, self.reading.name, login, "pull,push,delete")
        self.offering = replace(self.reading, actions="pull,push,delete")
        self.closed = False
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._quiet_until, self._quiet_seconds = 0.0, QUIET_SECONDS
        self._trouble = ""

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is asked of the registry now."""
        return time.monotonic() < self._quiet_until

    def state(self) -> SharingState:
        """How sharing goes, for people."""
        counts = "; ".join(
            f"{kind} {', '.join(f'{self._counts[kind, what]} {what}' for what in counted)}"
            for kind, counted in COUNTED.items()
        )
        return SharingState(f"{self.url}: {counts}", self._trouble, _remedy(self._trouble))

    def examine(self) -> SharingState:
        """The same, after a question to the registry. Blocking."""
        try:
            self.reading.check()
        except (DcdError, OSError) as error:
            remedy = error.resolution if isinstance(error, DcdError) else ""
            return replace(self.state(), trouble=said(error), remedy=remedy)
        return self.state()

    def count(self, kind: str, what: str) -> None:
        """Count one of the things in COUNTED."""
        with self._lock:
            self._counts[kind, what] += 1

    def succeeded(self, kind: str, what: str) -> None:
        """Count it; the registry works."""
        self.count(kind, what)
        self._trouble, self._quiet_seconds = "", QUIET_SECONDS

    def failed(self, what: str, key: str, error: Exception) -> None:
        """Leave the registry alone for a while if it does not answer, and say that something failed."""
        if isinstance(error, Broken):
            self._quiet_until = time.monotonic() + self._quiet_seconds
            self._quiet_seconds = min(2 * self._quiet_seconds, MOST_QUIET_SECONDS)
        self.report(f"{what}: {error}")
        logger.warning(what, key=key, error=str(error))

    def report(self, trouble: str) -> None:
        """Say what is wrong, until something succeeds."""
        self._trouble = trouble.replace("\n", "; ")

    def _retrying(self, what: str) -> None:
        logger.info("the registry for layers", news=what)


class Sender:
    """Sends things of a kind in the background, in a few threads."""

    def __init__(self, link: Link, kind: str, threads: int) -> None:
        self._link = link
        self._kind = kind
        self._pool = ThreadPoolExecutor(threads, f"{kind}-push")
        self._lock = threading.Lock()
        self._waiting = 0

    def send(self, send: Callable[[], None], what: str, key: str) -> None:
        """Call `send` some time; `what` names its failure, and `key` the thing."""
        if self._link.closed:
            return
        if self._waiting >= MOST_WAITING or self._link.is_quiet:
            self._link.count(self._kind, "dropped")
            logger.warning(what, key=key, reason="the registry lags behind")
            return
        with self._lock:
            self._waiting += 1
        self._pool.submit(self._quietly, send, what, key)

    def close(self) -> None:
        """Begin nothing any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _quietly(self, send: Callable[[], None], what: str, key: str) -> None:
        try:
            send()
        except NotFound:
            pass  # removed meanwhile
        except (DcdError, OSError) as error:
            if not self._link.closed:
                self._link.count(self._kind, "dropped")
                self._link.failed(what, key, error)
        finally:
            with self._lock:
                self._waiting -= 1


def _remedy(trouble: str) -> str:
    # Docker's registry answers 500 with the errno of its host, others 507 (RFC 4918).
    if re.search(r'"Err": ?28\b|answers 507|no space left', trouble, re.IGNORECASE):
        return "the disk of the registry is full: run dcctl gc and then its garbage collection, or enlarge it"
    return "builds make their layers themselves; look after the registry"
