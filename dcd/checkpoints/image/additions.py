"""Units of systemd and scripts that a configuration adds to an image.

A script runs in the image as root, without network, and leaves only what it changes there. An error names its
file, or its place in the manifest.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from dcd.checkpoints.areas import captured_file
from dcd.checkpoints.interface import Context, Report
from dcd.manifest.data_object import Object
from dcd.manifest.diagnostics import Diagnostic, did_you_mean, error
from dcd.manifest.forms import UNIT
from dcd.manifest.objects.configuration import Configuration, Script, Unit
from dcd.platform.chroot import Inside
from dcd.platform.inside import write
from statemachine.errors import CheckpointError
from store.host.process import ToolFailed

_UNITS = "etc/systemd/system"
_SCRIPT = "run/dcd-script"
"""While programs run in the image, /run is not part of it."""

_TYPES = (
    *("service", "socket", "timer", "mount", "automount", "path", "target", "swap", "slice"),
    "device",
)
"""systemd.unit(5)."""


@dataclass(frozen=True, slots=True)
class Units:
    """The names of units to enable and to disable."""

    enabled: tuple[str, ...]
    disabled: tuple[str, ...]


def name_of(unit: Unit) -> str:
    """The whole name of a unit: `ssh` means `ssh.service`; "" if it has none."""
    given = "" if unit.name == Unit.TAG else unit.name
    name = given or PurePosixPath(unit.source or "").name
    return name if "." in name or not name else f"{name}.service"


def check_additions(configuration: Configuration) -> Iterator[Diagnostic]:
    """Errors for units without a valid name, and for scripts given twice or not at all."""
    for unit in configuration.get_children(class_type=Unit):
        kind = name_of(unit).rpartition(".")[2]
        if not name_of(unit):
            yield error(
                unit.origin,
                "this unit has neither a file nor a name",
                "A unit is a file beside the manifest, or one that the image has.",
                '<unit source="hello.service"/>',
            )
        elif not re.fullmatch(UNIT.pattern, name_of(unit)):
            # systemctl would take a name that begins with a minus as an option.
            yield error(
                unit.place_of("source" if unit.source else "name"),
                f"{name_of(unit)!r} is not the name of a unit",
                "A unit's name has letters, digits and :_.@\\-, and does not begin with a minus.",
                "rename the file, or give the unit a name",
            )
        elif kind not in _TYPES:
            meant = did_you_mean(kind, _TYPES) or "service"
            stem = PurePosixPath(name_of(unit)).stem
            yield error(
                unit.place_of("source" if unit.source else "name"),
                f"{name_of(unit)!r} is not the name of a unit",
                f"A unit's name ends in its type: .{', .'.join(_TYPES)}.",
                f'name="{stem}.{meant}"',
            )
    for script in configuration.get_children(class_type=Script):
        if bool(script.source) == bool(script.text):
            yield error(
                script.origin,
                f"this script is {'given twice' if script.source else 'empty'}",
                "A script is given by its text or by a file.",
                '<script source="setup.sh"/>',
            )


def add_units(context: Context, configurations: Sequence[Configuration]) -> Units:
    """Add the files of units. Returns the units to enable and to disable, those with a file that is not to be
    enabled in neither."""
    enabled: list[str] = []
    disabled: list[str] = []
    for unit in _of(configurations, Unit):
        if unit.source:
            content = captured_file(context.inputs, unit.source).read_bytes()
            write(context.pkg_image, f"{_UNITS}/{name_of(unit)}", content)
        if unit.enable:
            enabled.append(name_of(unit))
        elif not unit.source:
            disabled.append(name_of(unit))
    return Units(tuple(enabled), tuple(disabled))


def run_scripts(inside: Inside, context: Context, configurations: Sequence[Configuration]) -> None:
    """Run the scripts in the image, in order. Raises `CheckpointError` when one fails."""
    for script in _of(configurations, Script):
        name = script.source or f"the script at {script.place_of('text') or 'no place'}"
        context.report(Report(message=f"running {name}"))
        if script.source:
            content = captured_file(context.inputs, script.source).read_bytes()
        else:
            content = f"{script.text}\n".encode()
        place = write(context.pkg_image, _SCRIPT, content, mode=0o700)
        own = content.startswith(b"#!")
        try:
            inside.run([f"/{_SCRIPT}"] if own else ["/bin/sh", f"/{_SCRIPT}"])
        except ToolFailed as failure:
            raise _failed(script, name, failure) from failure
        finally:
            place.unlink(missing_ok=True)


def _failed(script: Script, name: str, failure: ToolFailed) -> CheckpointError:
    origin = script.place_of("text")
    file = script.source or (origin.file if origin else "script")
    before = 0 if script.source or origin is None else origin.line - 1
    output = re.sub(
        rf"/{_SCRIPT}: (line )?(\d+)(?=:)",
        lambda found: f"{file} line {int(found[2]) + before}",
        failure.output,
    )
    where = f"{script.origin}\n" if script.source and script.origin else ""
    return CheckpointError(
        f"{name} failed with exit status {failure.exit_status}",
        f"{where}its last lines:\n{output}" if output else f"{where}it printed nothing",
        "correct the script, then resume the build with the manifest",
    )


def _of(configurations: Sequence[Configuration], kind: type[Object]) -> Iterator[Object]:
    for configuration in configurations:
        yield from configuration.get_children(class_type=kind)
