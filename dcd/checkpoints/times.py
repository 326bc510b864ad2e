"""The one time of an image's files, so that the same layer gives the same bytes; and the times of FAT.

Source: the SOURCE_DATE_EPOCH specification of reproducible-builds.org; Microsoft's FAT specification, "Date
and Time Formats"; mtools(1), SOURCE_DATE_EPOCH.
"""

from typing import TypeVar

from dcd.checkpoints.interface import Context
from statemachine.errors import CheckpointError

Otherwise = TypeVar("Otherwise")

VARIABLE = "SOURCE_DATE_EPOCH"

FIRST_FAT_TIME = 315532800
"""1980, as a Unix time. mtools silently writes another century for times that FAT does not have."""
_LAST_FAT_TIME = 4354819198
"""The last even second of 2107."""


def source_date_epoch(context: Context, otherwise: Otherwise) -> int | Otherwise:
    """The Unix time in the build's environment, or `otherwise`. Raises `CheckpointError` for another text."""
    given = context.environment.get(VARIABLE)
    if given is None:
        return otherwise
    if not given.isdecimal():
        raise CheckpointError(
            f"{VARIABLE} {given!r} is not a time",
            "it is seconds since 1970, in the environment of this build's tools",
            "correct it where it is set",
        )
    return int(given)


def fat_time(seconds: float) -> int:
    """The nearest time in FAT, both Unix times."""
    return min(max(int(seconds), FIRST_FAT_TIME), _LAST_FAT_TIME)


def fat_environment(epoch: float) -> dict[str, str]:
    """The environment for mtools at the Unix time `epoch`, or the nearest in FAT, in UTC."""
    return {VARIABLE: str(fat_time(epoch)), "TZ": "UTC"}
