"""A command of the manifest that failed, said in terms of what its author wrote.

The author knows a script by its file's name, or a text in the manifest; not where it was put to be run, nor
what started it. Source: the shells' forms of an error's place, `PATH: LINE: ...` and `PATH: line LINE: ...`.
"""

import re
import signal
from collections.abc import Collection

from statemachine.errors import CheckpointError
from store.host.process import ToolFailed

_STATUS = {
    126: "a program could not be executed",
    127: "a command was not found",
}
"""Exit statuses of shells that say more than that a command failed (POSIX, Shell Command Language, 2.8.2)."""


def script_failed(
    failure: ToolFailed, name: str, file: str, places: Collection[str], first_line: int = 1
) -> CheckpointError:
    """The error of a command. `name` is what its author calls it, `file` where its lines are, from
    `first_line` on, `places` the paths at which the host or the image saw it."""

    def as_written(found: re.Match[str]) -> str:
        return f"{file} line {int(found[2]) + first_line - 1}"

    status = failure.exit_status
    if failure.timed_out:
        brief = f"{name} {failure.brief.partition(' ')[2]}"
    elif status < 0:
        brief = f"{name} was killed by {signal.Signals(-status).name}"
    else:
        meaning = f": {_STATUS[status]}" if status in _STATUS else ""
        brief = f"{name} failed with exit status {status}{meaning}"
    output = failure.output
    for place in sorted(places, key=len, reverse=True):
        output = re.sub(rf"{re.escape(place)}: (line )?(\d+)(?=:)", as_written, output)
        output = output.replace(place, file)
    return CheckpointError(brief, f"its last lines:\n{output}" if output else "it printed nothing")
