"""Links that download a file once.

A browser saves a file from an address, without the page's token. So the page asks for an address that is a
secret of its own, works once, and only for a minute.
"""

import secrets
import time

SECONDS = 60.0
MOST = 1000
"""The number of unused links; the oldest gives way."""


class Downloads:
    """The unused links: what each leads to, and until when."""

    def __init__(self) -> None:
        self._unused: dict[str, tuple[str, float]] = {}

    def offer(self, target: str) -> str:
        """The name of a new link to `target`."""
        name = secrets.token_urlsafe(32)
        self._unused[name] = (target, time.monotonic() + SECONDS)
        while len(self._unused) > MOST:
            del self._unused[next(iter(self._unused))]
        return name

    def take(self, name: str) -> str | None:
        """What the link leads to; None when it is used, too old, or no link."""
        target, until = self._unused.pop(name, ("", 0.0))
        return target if time.monotonic() < until else None
