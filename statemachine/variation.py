"""Varied surroundings: what is different for the workers of a build that repeats another one.

A build may be repeated to show that its result does not depend on where it is made (`dcctl reproduce`). The
variation is recorded in its first event. It is no ingredient of keys: such a build has keys of its own
(`statemachine.keys.with_salt`), so nobody reuses its layers. Pure.
"""

import re
from dataclasses import dataclass

from statemachine.errors import UsageError

_TIME_ZONE = re.compile(r"<[+-]?[0-9A-Za-z]{1,8}>[+-]?[0-9]{1,2}")
_HOST_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
_LANGUAGE = re.compile(r"[A-Za-z_]{1,16}(\.[A-Za-z0-9-]{1,16})?")
_HOME = re.compile(r"(/[a-z0-9-]{1,32}){1,4}")
_PLACE = re.compile(r"[a-z0-9-]{0,40}")
_MOST_PROCESSORS = 4096
_MOST_SECONDS = 10 * 366 * 86400


@dataclass(frozen=True, slots=True)
class Variation:
    """Surroundings of workers. `time_zone` has the form of TZ without a database (POSIX: `<+14>-14`);
    `host_name` is that of their UTS namespace; `language` and `home` are LANG and HOME of the worker itself;
    `processors` is the number that they may use at once (0: all); `place` is a suffix of the directories of
    workspaces, ELSEWHERE for another place of layers; `later_seconds` moves the clocks: those that count from
    the start of the host, and that of the host's tools where libfaketime is installed."""

    time_zone: str = ""
    host_name: str = ""
    language: str = ""
    home: str = ""
    processors: int = 0
    place: str = ""
    later_seconds: int = 0


ELSEWHERE = "in-a-varied-place"
"""The `place` of a build that keeps its layers apart from those of other builds (`store.layers.several`)."""


def check_variation(variation: Variation) -> None:
    """Raise UsageError for a variation that no build has."""
    texts = (
        ("time_zone", variation.time_zone, _TIME_ZONE),
        ("host_name", variation.host_name, _HOST_NAME),
        ("language", variation.language, _LANGUAGE),
        ("home", variation.home, _HOME),
        ("place", variation.place, _PLACE),
    )
    for name, text, form in texts:
        if text and not form.fullmatch(text):
            raise UsageError(f"{text[:100]!r} is no {name} of a variation")
    if not 0 <= variation.processors <= _MOST_PROCESSORS:
        raise UsageError(f"{variation.processors} is no processors of a variation")
    if not 0 <= variation.later_seconds <= _MOST_SECONDS:
        raise UsageError(f"{variation.later_seconds} is no later_seconds of a variation")


def described(variation: Variation) -> tuple[str, ...]:
    """What a variation varies, for people."""
    varied = (
        (variation.time_zone, f"the time zone (TZ={variation.time_zone})"),
        (variation.host_name, f"the host name ({variation.host_name})"),
        (variation.language, f"the worker's language (LANG={variation.language})"),
        (variation.home, f"the worker's home (HOME={variation.home})"),
        (variation.processors, f"the number of processors ({variation.processors})"),
        (variation.place, "the directory of the workspace"),
        (variation.later_seconds, f"the clocks ({variation.later_seconds} s later)"),
    )
    return tuple(text for value, text in varied if value)


REPEATED = Variation(
    time_zone="<+14>-14",
    host_name="varied-host-name",
    language="tr_TR.UTF-8",
    home="/nonexistent",
    processors=1,
    place=ELSEWHERE,
    later_seconds=30 * 3600,
)
"""The surroundings of a build that repeats another one."""
