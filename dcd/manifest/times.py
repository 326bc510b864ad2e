"""Times that a manifest gives: the seconds since 1970, or a date, in UTC.

From 1980 to 2106: what FAT, squashfs and cpio can all hold. Pure.
Source: the SOURCE_DATE_EPOCH specification of reproducible-builds.org; ISO 8601.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from dcd.manifest.values import BadValue, Form

EARLIEST, LATEST = 315532800, 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class _TimeForm(Form):
    def check(self, text: str) -> None:
        """Raise BadValue unless the text is a time."""
        unix_time(text)


TIME = _TimeForm(
    r"[0-9]{9,10}|[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)?",
    "a time from 1980 to 2106, in seconds since 1970 or as a date in UTC",
    "2026-10-03T12:00:00Z",
)


def unix_time(text: str) -> int:
    """The seconds since 1970 of a time in the manifest. Raises BadValue."""
    Form.check(TIME, text)
    try:
        seconds = int(text) if text.isdecimal() else _of_date(text)
    except ValueError:
        raise BadValue(text, TIME.expected) from None
    if not EARLIEST <= seconds <= LATEST:
        raise BadValue(text, TIME.expected)
    return seconds


def _of_date(text: str) -> int:
    return int(datetime.fromisoformat(text.removesuffix("Z")).replace(tzinfo=UTC).timestamp())
