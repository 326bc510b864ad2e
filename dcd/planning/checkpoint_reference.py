"""The reference of checkpoints as Markdown, from what `dcd.construction.checkpoint_types` describes.

`python -m dcd.planning.reference` writes it into docs/reference/checkpoints.md; a test compares the committed
file. It contains only the project's own checkpoints, without installed plug-ins.
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

The checkpoints for `<checkpoint type="...">`, or with both `mod_path` and `checkpoint_class`. The check of a
manifest refuses unknown arguments and values of a wrong type. `dcctl checkpoint-types` prints the same list,
with installed plug-ins and the modules of the daemon's configuration.
[How to write a checkpoint](../how-to/write-a-checkpoint.md).
"""

_ORIGINALS = """
## Names of the original

Manifests of the Caiman Unified Design use the original's names, which mean the checkpoints above. Any other
name of the original (`solaris_install/...`) is an error: dcd has no implementation of it.

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


_EXAMPLES = {
    "reference": "registry.example.org/team/app:1.0",
    "endpoint": "https://s3.example.org",
    "bucket": "images",
    "credentials": "/etc/dcd/secrets/s3",
    "destination": "/srv/images/web",
}
"""Values of required arguments that name no file."""


def _example(each: CheckpointType) -> list[str]:
    """Its element in a manifest, with the required arguments and those with a default value."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", each.checkpoint_class).lower()
    kind = each.checkpoint_class
    if kind == "VerifyBoot":  # the name of two
        kind = f"{each.mod_path.split('/')[2]}.{kind}"
    place = f'type="{kind}"'
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
    value = argument.default
    value = escape(_EXAMPLES.get(argument.name, "FILE") if value is None else value)
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
