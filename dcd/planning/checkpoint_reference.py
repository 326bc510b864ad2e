"""The reference of checkpoints as Markdown, from what `dcd.construction.checkpoint_types` describes.

Written into docs/reference/checkpoints.md by `python -m dcd.planning.reference`; a test holds the
committed file to it. Only the project's own checkpoints are in it, whatever is installed beside it.
"""

import re
from collections.abc import Sequence
from xml.sax.saxutils import escape

from dcd.construction.checkpoint_types import (
    Argument,
    CheckpointType,
    registered,
    unavailable_originals,
)
from dcd.construction.constructors import OWN

_HEAD = """\
# Checkpoints

<!-- Made from the code: python -m dcd.planning.reference -->

What `<checkpoint mod_path="..." checkpoint_class="...">` may name. A manifest that gives an argument a wrong
type, or one that does not exist, is refused when it is checked. `dcctl checkpoint-types` prints the same, and
adds installed plug-ins and the modules of the daemon's configuration.
[How to write a checkpoint](../how-to/write-a-checkpoint.md).
"""

_ORIGINALS = """
## Names of the original

Manifests of the Caiman Unified Design name checkpoints as the original did; these lead to the ones above.
Names marked *not available* are known, and no counterpart is in this version: such a manifest validates
with a warning and can be planned, but not built.

| mod_path | checkpoint_class | here |
|---|---|---|
"""


def own_types() -> list[CheckpointType]:
    """The project's own checkpoints."""
    return [each for each in registered()[0] if each.mod_path.startswith(OWN.replace(".", "/"))]


def checkpoints_text() -> str:
    """The whole reference."""
    types = own_types()
    return _HEAD + "".join(map(_section, types)) + _ORIGINALS + _originals(types)


def _section(each: CheckpointType) -> str:
    lines = ["", f"## {each.checkpoint_class}", "", f"`{each.mod_path}` · {each.description}.", ""]
    lines.append(each.documentation)
    if each.arguments:
        lines += ["", "| argument | takes | default | meaning |", "|---|---|---|---|"]
        lines += [_row(argument) for argument in each.arguments]
    lines += ["", "```xml", *_example(each), "```"]
    if each.tools:
        lines += ["", f"Tools: {', '.join(f'`{tool}`' for tool in each.tools)}."]
    return "\n".join(lines) + "\n"


def _row(argument: Argument) -> str:
    takes = ", ".join(f"`{choice}`" for choice in argument.choices) or argument.type
    if argument.listing and argument.choices:
        takes = f"a list of {takes}"
    default = "" if argument.default is None else f"`{argument.default}`"
    default = "**required**" if argument.required else default
    return f"| `{argument.name}` | {takes} | {default} | {argument.meaning} |"


def _example(each: CheckpointType) -> list[str]:
    """How a manifest names it, with the arguments that it must have and those that have a default value."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", each.checkpoint_class).lower()
    place = f'mod_path="{each.mod_path}" checkpoint_class="{each.checkpoint_class}"'
    written = [line for argument in each.arguments for line in _argument_example(argument)]
    if not written:
        return [f'<checkpoint name="{name}" {place}/>']
    opening = f'<checkpoint name="{name}" {place}>'
    return [opening, "  <kwargs>", *written, "  </kwargs>", "</checkpoint>"]


def _argument_example(argument: Argument) -> list[str]:
    if argument.default is None and not argument.required:
        return []
    if argument.listing:
        items = (argument.default or "").split()
        values = "".join(f"<argitem>{escape(item)}</argitem>" for item in items)
        return [f'    <arglist name="{argument.name}">{values}</arglist>']
    value = escape(argument.default if argument.default is not None else "FILE")
    return [f'    <arg name="{argument.name}">{value}</arg>'] if value.strip() else []


def _originals(types: Sequence[CheckpointType]) -> str:
    here = {name: each.checkpoint_class for each in types for name in each.originals}
    rows = {name: f"[`{cls}`](#{cls.lower()})" for name, cls in here.items()}
    rows |= dict.fromkeys(unavailable_originals(types), "*not available*")
    lines = []
    for name in sorted(rows):
        mod_path, _, cls = name.partition(":")
        lines.append(f"| `{mod_path}` | `{cls}` | {rows[name]} |\n")
    return "".join(lines)
