"""Runs the `<validation>` commands of a manifest's configurations on their files.

The original ran them as the user who read the manifest. A planner reads manifests for everybody who may
submit: so a command runs confined (`dcd.platform.sandbox`), and only if it is one of `KNOWN` or the sender
may run code on the host; other commands see the planner's part of the host. A command gets a copy of the
captured file under the file's own name. Files of the image do not exist yet, and are not checked. The output
of a failed command becomes a diagnostic at its place in the manifest: an error, or with on_error="continue" a
warning.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from dcd.manifest.diagnostics import Diagnostic, error, warning
from dcd.manifest.inputs import is_in_image
from dcd.manifest.objects import Configuration, Validation
from dcd.planning.load import Loaded
from dcd.platform.sandbox import Allowed, printed, run_confined
from store.host.process import ToolFailed
from store.host.tools import TOOL_PATH

KNOWN: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "svccfg": (("apply", "-n"), ("validate",)),
    "xmllint": (("--noout",), ("--noout", "--nonet")),
}
"""Allowed commands with their arguments: they only parse the file."""

SECONDS = 30.0
"""The maximum time of one command."""

ALL_SECONDS = 120.0
"""The maximum time of all commands of a manifest."""

_LONGEST = 2000


def validate(
    loaded: Loaded,
    path_of: Callable[[str], Path],
    host_code: bool | None,
    waiting: Callable[[], None] = lambda: None,
) -> list[Diagnostic]:
    """The diagnostics of the commands. `path_of` returns the path of a captured file by its sha256;
    `host_code`: the sender may run code on the host (None: not known, so no such code is run); `waiting` is
    called before each command."""
    files = {file.path: file.sha256 for file in loaded.inputs}
    until = time.monotonic() + ALL_SECONDS
    found: list[Diagnostic] = []
    for configuration in loaded.doc.volatile.get_descendants(class_type=Configuration):
        validation = configuration.get_first_child(class_type=Validation)
        sha256 = files.get(configuration.source or "")
        if validation is None or validation.path is None or is_in_image(configuration):
            continue
        if sha256 is None:
            found.append(
                warning(
                    validation.origin,
                    "this validation has no file to check",
                    "A validation gets the configuration's source.",
                    'add source="FILE" to the configuration, or remove the validation',
                )
            )
        else:
            file = path_of(sha256)
            waiting()
            name = PurePosixPath(configuration.source or "").name
            found += _checked(validation, file, name, host_code, until - time.monotonic())
    return found


def _checked(
    validation: Validation, file: Path, name: str, host_code: bool | None, seconds: float
) -> Iterator[Diagnostic]:
    assert validation.path is not None
    arguments = (validation.args or "").split()
    words = " ".join([validation.path, *arguments])
    severe = warning if validation.on_error == "continue" else error
    program, known = _program(validation.path, tuple(arguments))
    if not known and host_code is None:
        yield warning(
            validation.origin,
            f"{name} was not checked: {words!r} is run by the daemon only",
            "It is code on the host, for which submitting needs the right host_code.",
        )
    elif not known and not host_code:
        yield severe(
            validation.origin,
            f"{words!r} may not be run",
            "Running other commands needs the right host_code. Without it, these are allowed: "
            + ", ".join(
                sorted(f"{each} {' '.join(a)}" for each, all_ in KNOWN.items() for a in all_)
            ),
            "use one of these, or ask an administrator for the right host_code",
        )
    elif program is None:
        yield warning(
            validation.origin,
            f"{name} was not checked: this host has no {validation.path}",
            "",
            "install it on the daemon's host, or remove the validation",
        )
    elif seconds <= 0:
        yield severe(
            validation.origin,
            f"{name} was not checked: all validations together took too long",
            f"They have {ALL_SECONDS:.0f} seconds.",
        )
    elif said := _said([program, *arguments], file, name, min(seconds, SECONDS), known):
        yield severe(validation.origin, f"{words} refuses {name}", said, f"correct {name}")


def _program(path: str, arguments: tuple[str, ...]) -> tuple[str | None, bool]:
    """The path of the command on this host, if it exists, and whether it is a known one. A known one is the
    host's own, for any directory in the manifest."""
    name = PurePosixPath(path).name
    if arguments in KNOWN.get(name, ()) and path in (name, f"/usr/sbin/{name}", f"/usr/bin/{name}"):
        return shutil.which(name, path=TOOL_PATH), True
    return shutil.which(path, path=TOOL_PATH), False


def _said(command: list[str], file: Path, name: str, seconds: float, known: bool) -> str:
    """The reason for the command's refusal of the file, or "". A command of `KNOWN` sees only the system's
    software of the host, since the parsed file may name other files."""
    with tempfile.TemporaryDirectory(prefix="dcd-validation-") as place:
        directory = Path(place)
        directory.chmod(0o755)
        # The command's output is in a file named `output`.
        copied = directory / (name if name != "output" else "source")
        shutil.copyfile(file, copied)
        copied.chmod(0o444)
        try:
            run_confined(
                [*command, copied], directory, seconds, Allowed(seen=() if known else None)
            )
        except ToolFailed as failure:
            if failure.timed_out:
                return f"It took longer than {seconds:.0f} seconds."
            last = printed(directory) or failure.output
            last = last.strip().replace(str(copied), name)[-_LONGEST:]
            return last or f"It ended with exit status {failure.exit_status}."
    return ""
