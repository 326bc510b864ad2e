"""Times in a manifest: seconds since 1970, or a date in UTC.

From 1980 to 2106, the range that FAT, squashfs and cpio share. Pure.
Source: the SOURCE_DATE_EPOCH specification of reproducible-builds.org; ISO 8601.
"""

from datetime import UTC, datetime

from dcd.manifest.values import Form

EARLIEST, LATEST = 315532800, 0xFFFFFFFF

_SECONDS = (
    # From EARLIEST on.
    r"31553(2[89]|[3-9][0-9])[0-9]{2}|3155[4-9][0-9]{4}|315[6-9][0-9]{5}|31[6-9][0-9]{6}"
    r"|3[2-9][0-9]{7}|[4-9][0-9]{8}"
    # Up to LATEST.
    r"|[1-3][0-9]{9}|4[01][0-9]{8}|42[0-8][0-9]{7}|429[0-3][0-9]{6}|4294[0-8][0-9]{5}"
    r"|42949[0-5][0-9]{4}|429496[0-6][0-9]{3}|4294967[01][0-9]{2}|42949672[0-8][0-9]|429496729[0-5]"
)
_YEAR = r"(19[89][0-9]|20[0-9]{2}|210[0-5])"
_LEAP_YEAR = r"(19(8[048]|9[26])|20([02468][048]|[13579][26])|2104)"
_DAYS = (
    rf"{_YEAR}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    rf"|02-(0[1-9]|1[0-9]|2[0-8]))|{_LEAP_YEAR}-02-29"
    r"|2106-(01-(0[1-9]|[12][0-9]|3[01])|02-0[1-6])"
)
_CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
_LAST_DAY = (
    r"2106-02-07(T(0[0-5]:[0-5][0-9]:[0-5][0-9]|06:([01][0-9]|2[0-7]):[0-5][0-9]"
    r"|06:28:(0[0-9]|1[0-5]))Z)?"
)

TIME = Form(
    rf"{_SECONDS}|({_DAYS})(T{_CLOCK}Z)?|{_LAST_DAY}",
    "a time from 1980 to 2106, in seconds since 1970 or as a date in UTC",
    "2026-10-03T12:00:00Z",
)
"""Exact, so that editors, which have only the grammar, refuse the same texts as this program."""


def unix_time(text: str) -> int:
    """The seconds since 1970 of a time in the manifest. Raises BadValue."""
    TIME.check(text)
    if text.isdecimal():
        return int(text)
    return int(datetime.fromisoformat(text.removesuffix("Z")).replace(tzinfo=UTC).timestamp())
