"""Writes the grammar for editors and the references of manifests and checkpoints:
`python -m dcd.planning.reference`.

They derive from the declarations of the data objects and from the checkpoints' code; tests compare the
committed files. The prose at the beginning of the manifests' reference is not generated.
"""

from pathlib import Path

from dcd.manifest.data_object import DataObject, OneOf, Particle, fields_of
from dcd.manifest.fields import Field
from dcd.manifest.objects import Arg, ArgList, CheckpointSpec
from dcd.manifest.registry import particles_of
from dcd.manifest.schema import classes_below, documentation, grammar_text
from dcd.manifest.values import choices, optional_of, written
from dcd.planning.checkpoint_reference import checkpoints_text, own_types
from dcd.planning.element_examples import examples
from dcd.planning.unused import UNREAD

ROOT = Path(__file__).resolve().parents[2]
GRAMMAR = ROOT / "dcd/manifest/grammar/dc.rng"
REFERENCE = ROOT / "docs/reference/manifest.md"
CHECKPOINTS = ROOT / "docs/reference/checkpoints.md"

_GENERATED = "## Elements\n"


def editor_grammar() -> str:
    """The grammar for editors, with the arguments of the project's checkpoints and their meanings."""
    of_arg: dict[str, list[str]] = {}
    of_arglist: dict[str, list[str]] = {}
    of_type: dict[str, list[str]] = {}
    for each in own_types():
        of_type.setdefault(each.checkpoint_class, []).append(each.description)
        for argument in each.arguments:
            text = f"{each.checkpoint_class} of {each.mod_path}: {argument.meaning}"
            of_arg.setdefault(argument.name, []).append(text)
            if argument.listing:
                of_arglist.setdefault(argument.name, []).append(text)
    return grammar_text(
        {
            Arg: dict(sorted(of_arg.items())),
            ArgList: dict(sorted(of_arglist.items())),
            CheckpointSpec: dict(sorted(of_type.items())),
        }
    )


def reference_text(present: str) -> str:
    """The reference as Markdown: the present text up to the heading of the elements, then the elements."""
    prose, heading, _ = present.partition(_GENERATED)
    classes = classes_below()
    parents: dict[type[DataObject], list[str]] = {cls: [] for cls in classes}
    for cls in classes:
        for particle in particles_of(cls):
            parents[particle.of].append(cls.TAG)
    return prose + heading + "".join(_section(cls, parents[cls]) for cls in classes)


def _section(cls: type[DataObject], parents: list[str]) -> str:
    lines = ["", f"### {cls.TAG}", "", documentation(cls)]
    if parents:
        lines[-1] += f" In {', '.join(_link(parent) for parent in parents)}."
    fields = fields_of(cls)
    lines += ["", *_table(fields)] if any(f.declared.kind != "text" for f in fields) else []
    text = next((field for field in fields if field.declared.kind == "text"), None)
    if text is not None:
        lines += ["", f"Text{'' if text.required else ' (may be empty)'}: {text.declared.doc}"]
    if cls.CONTENT:
        lines += ["", f"Holds {'; '.join(_held(content) for content in cls.CONTENT)}."]
    if why := UNREAD.get((cls, "")):
        lines += ["", f"Accepted for manifests of the original, without effect here. {why}"]
    if example := examples().get(cls.TAG):
        lines += ["", "~~~xml", *example.splitlines(), "~~~"]
    return "\n".join(lines) + "\n"


def _table(fields: tuple[Field, ...]) -> list[str]:
    rows = ["| | values | default | |", "|---|---|---|---|"]
    for field in fields:
        match field.declared.kind:
            case "attribute":
                name = f"`{field.tag}`"
            case "child":
                name = f"`<{field.tag}>`"
            case "children":
                name = f"`<{field.tag}>`, any number"
            case _:
                continue
        rows.append(f"| {name} | {_values(field)} | {_default(field)} | {field.declared.doc} |")
    return rows


def _values(field: Field) -> str:
    plain, _ = optional_of(field.annotation)
    form = field.form
    if form is not None and not form.why:
        return f"{form.expected}: `{form.example}`" if form.example else form.expected
    if plain is int:
        least, most = field.declared.minimum, field.declared.maximum
        return (
            "whole number"
            + ("" if least is None else f" from {least}")
            + ("" if most is None else f" to {most}")
        )
    return ", ".join(f"`{value}`" for value in choices(plain)) or "text"


def _default(field: Field) -> str:
    if field.required:
        return "**required**"
    if field.default in (None, "", ()):
        return ""
    return f"`{written(field.default)}`"


def _held(content: Particle | OneOf) -> str:
    if isinstance(content, Particle):
        return _counted(content)
    options = " or ".join(_counted(option).removeprefix("one ") for option in content.options)
    return f"{'one of' if content.required else 'at most one of'}: {options}"


def _counted(particle: Particle) -> str:
    count = {
        (0, 1): "at most one",
        (0, None): "any number of",
        (1, None): "at least one",
        (1, 1): "one",
    }[particle.minimum, particle.maximum]
    return f"{count} {_link(particle.of.TAG)}"


def _link(tag: str) -> str:
    return f"[`{tag}`](#{tag})"


def main() -> None:
    """Write the files."""
    GRAMMAR.write_text(editor_grammar())
    REFERENCE.write_text(reference_text(REFERENCE.read_text()))
    CHECKPOINTS.write_text(checkpoints_text())


if __name__ == "__main__":
    main()
