"""The one time from which an image's times come, so that the same layer gives the same bytes.

Source: the SOURCE_DATE_EPOCH specification of reproducible-builds.org.
"""

from pathlib import Path

from dcd.checkpoints.interface import Context
from statemachine.errors import CheckpointError

VARIABLE = "SOURCE_DATE_EPOCH"


def source_date_epoch(context: Context) -> int | None:
    """The Unix time that the build's environment gives, or None. Raises `CheckpointError` for what is
    no time."""
    given = context.environment.get(VARIABLE)
    if given is None:
        return None
    if not given.isdecimal():
        raise CheckpointError(
            f"{VARIABLE} {given!r} is not a time",
            "it is seconds since 1970, in the environment of this build's tools",
            "correct it where it is set",
        )
    return int(given)


def epoch_of(context: Context, made_from: Path) -> int:
    """The Unix time that the build's environment gives, else when `made_from` was changed. Raises as
    `source_date_epoch`."""
    given = source_date_epoch(context)
    return int(made_from.stat().st_mtime) if given is None else given
