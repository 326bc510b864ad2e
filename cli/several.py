"""Commands for several builds: each is tried, and the exit code is that of the first error."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from cli.client import ClientError, Json
from cli.exit_codes import ExitCode
from cli.groups import expanded
from cli.text import headline, print_error, print_json, print_json_error

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def for_each(
    args: Any,
    builds: Iterable[str],
    act: Callable[[str], Json],
    of_group: Sequence[str] = (),
) -> int:
    """Act on each build, and on those of a group in the states `of_group` (none: all), and print its state or
    the error. Returns the exit code."""
    code = ExitCode.OK
    for build in expanded(args.socket, builds, of_group):
        try:
            view = act(build)
        except ClientError as error:
            (print_json_error if args.json else print_error)(error)
            code = code or error.exit_code
            continue
        if args.json:
            print_json(view)
        else:
            print(headline(view), flush=True)
    return code


def seconds_of(text: str) -> float:
    """The seconds of a duration such as `90s`, `12h`, `7d` or `2w`. Raises ValueError."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhdw])", text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a duration such as 12h, 7d or 2w")
    return float(found[1]) * _SECONDS[found[2]]
