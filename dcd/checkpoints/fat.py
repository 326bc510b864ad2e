"""The times of FAT: 1980 to 2107, without a time zone. mtools writes another century for all others, and
says nothing. Source: Microsoft's FAT specification, "Date and Time Formats"; mtools(1), SOURCE_DATE_EPOCH."""

_FIRST, _LAST = 315532800, 4354819198
"""1980 to the last even second of 2107, as Unix times."""


def fat_time(seconds: float) -> int:
    """The time in FAT that is nearest to this one, both Unix times."""
    return min(max(int(seconds), _FIRST), _LAST)


def fat_environment(epoch: float) -> dict[str, str]:
    """The environment for what mtools makes at the Unix time `epoch`, or at the nearest one that FAT has. The
    time zone is UTC, whatever the host's is."""
    return {"SOURCE_DATE_EPOCH": str(fat_time(epoch)), "TZ": "UTC"}
