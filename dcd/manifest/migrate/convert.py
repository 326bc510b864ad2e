"""From a `distribution` manifest to one in the vocabulary of the Caiman Unified Design.

The result is a valid manifest with the same names of checkpoints. Parts without a counterpart are listed,
each with its place in the old manifest, and become comments of the result. Pure: from the texts of the
manifest and of its defaults file to a text.
"""

from dataclasses import dataclass
from pathlib import PurePosixPath

from lxml import etree

from dcd.manifest.data_object import Element
from dcd.manifest.diagnostics import Diagnostic, in_order
from dcd.manifest.forms import fitting_name
from dcd.manifest.migrate import image, machine, software
from dcd.manifest.migrate.elements import Arguments, add, comment
from dcd.manifest.migrate.reader import Reader, read_old
from dcd.manifest.migrate.scripts import (
    ROLES,
    Script,
    command,
    kind_of,
    scripts_of,
    unknown_arguments,
)

_POST_INSTALL = "set-ips-attributes"
_CUSTOM = ("dcd/checkpoints/custom_script", "CustomScript")


@dataclass(frozen=True, slots=True)
class Migrated:
    """The new manifest as XML text, and the parts of the old one without a counterpart."""

    text: str
    left: tuple[Diagnostic, ...]


def migrate(text: str, path: str, defaults: str | None = None) -> Migrated:
    """Convert a manifest. `path` names it in places; `defaults` is the text of its defaults file. Raises
    ManifestError for a text that is no such file."""
    reader = read_old(text, path, defaults)
    root = etree.Element("dc")
    name = reader.attribute_of(reader.root, "name") or ""
    fitting = fitting_name(name)
    if fitting != name:
        reader.note(reader.root, f"the name {name!r} cannot name a volume; it is now {fitting!r}")
    distro = add(root, "distro", name=fitting)
    scripts = scripts_of(reader)
    virtual = reader.find("vmimg_params")
    if virtual is None:
        image.media(reader, distro)
    else:
        reader.carried(virtual)
        machine.virtual_machine(reader, distro, scripts)
    image.target(reader, distro)
    _execution(reader, distro, scripts)
    left = tuple(in_order([*reader.left, *reader.unasked()]))
    for line in _remarks(path, left):
        distro.addprevious(comment(line))
    etree.indent(root, "  ")
    body = etree.tostring(root, encoding="unicode")
    return Migrated(f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n', left)


def _execution(reader: Reader, distro: Element, scripts: list[Script]) -> None:
    """The checkpoints with their software before them and their configurations after them."""
    kind = kind_of(reader, scripts)
    execution = etree.Element("execution")
    execution.set("stop_on_error", _flags(reader))
    after: list[str] = []
    for script in scripts:
        if script.role is None:
            _custom(reader, execution, script)
        elif not script.main:
            _part(reader, script, scripts, kind)
        else:
            _checkpoint(reader, distro, execution, script, scripts, kind)
            after += [script.name] if script.role == "configure" else []
    distro.append(execution)
    for checkpoint in after:
        image.profiles(reader, distro, checkpoint)
        image.users(reader, distro, checkpoint)


def _flags(reader: Reader) -> str:
    flags = "distro_constr_params/distro_constr_flags"
    enabled = reader.find(f"{flags}/checkpoint_enable")
    if enabled is not None and reader.text_of(enabled).lower() in ("false", "0"):
        reader.note(enabled, "checkpoints cannot be switched off; each makes a layer")
    stop = (reader.text(f"{flags}/stop_on_error") or "true").lower()
    return "false" if stop in ("false", "0") else "true"


def _checkpoint(
    reader: Reader,
    distro: Element,
    execution: Element,
    script: Script,
    scripts: list[Script],
    kind: str,
) -> None:
    assert script.role is not None
    arguments: Arguments = {}
    match script.role:
        case "transfer":
            software.transfer(reader, distro, script.name)
        case "configure":
            arguments = {
                "root_password": reader.text("img_params/rootpass"),
                "is_plaintext": reader.attribute("img_params/rootpass", "is_plaintext"),
                "hostname": reader.text("img_params/hostname"),
            }
        case "archive-init":
            software.boot_archive(reader, distro, script.name)
            # The script also copied everything below etc and var that is no regular file.
            arguments = {"skeleton": "true"}
        case "archive":
            arguments = software.archive_arguments(reader)
        case "compress":
            arguments = _compression(reader, script)
        case "vm-install":
            arguments = machine.installation(reader, scripts)
    _add_checkpoint(
        execution, script.name, script.message, *_constructor(script.role, kind), arguments
    )
    _unknown(reader, script)
    if script.role == "transfer" and software.post_install(reader, distro, _POST_INSTALL):
        message = "Set the publishers of the installed system"
        _add_checkpoint(execution, _POST_INSTALL, message, *_constructor("transfer", kind), {})


def _compression(reader: Reader, script: Script) -> Arguments:
    given = [each.partition("=")[2] for each in script.arguments if each.startswith("usr_zlib")]
    live = reader.attribute("img_params/live_img_compression", "type")
    explicit = reader.find("img_params/live_img_compression")
    if given and explicit is not None and given[0] != live:
        reader.note(
            explicit, f"{live} compressed only a part of the image; all of it is now {given[0]}"
        )
    sort = None
    for pair in reader.each("key_value_pairs/pair"):
        if pair.get("key") == "iso_sort":
            reader.carried(pair)
            sort = reader.attribute_of(pair, "value")
    return {"compression_type": given[0] if given else live, "dist_iso_sort": sort}


def _custom(reader: Reader, execution: Element, script: Script) -> None:
    element = _add_checkpoint(execution, script.name, script.message, *_CUSTOM, {})
    add(element, "args", command(script))
    reader.note(
        script.element,
        f"{script.name} still runs {script.path}, which can no longer query values of the manifest: its "
        "first argument is empty",
        "pass the values as arguments of the script",
    )


def _part(reader: Reader, script: Script, scripts: list[Script], kind: str) -> None:
    assert script.role is not None
    chief = next(each for each in scripts if each.main and each.role == script.role)
    reader.note(
        script.element,
        f"{script.name} ({script.path}) is now a part of {chief.name}: {_constructor(script.role, kind)[1]}",
        "move your changes of the script into a CustomScript",
    )
    _unknown(reader, script)


def _unknown(reader: Reader, script: Script) -> None:
    for argument in unknown_arguments(script):
        reader.note(script.element, f"the argument {argument!r} of {script.path}")


def _constructor(role: str, kind: str) -> tuple[str, str]:
    mod_path, checkpoint_class = ROLES[role]
    return mod_path, checkpoint_class.format(kind=kind)


def _add_checkpoint(
    execution: Element,
    name: str,
    message: str,
    mod_path: str,
    checkpoint_class: str,
    arguments: Arguments,
) -> Element:
    element = add(
        execution,
        "checkpoint",
        name=name,
        desc=message or None,
        mod_path=mod_path,
        checkpoint_class=checkpoint_class,
    )
    given = {key: value for key, value in arguments.items() if value}
    if given:
        kwargs = add(element, "kwargs")
        for key, value in given.items():
            if isinstance(value, str):
                add(kwargs, "arg", value, name=key)
                continue
            listed = add(kwargs, "arglist", name=key)
            for item in value:
                add(listed, "argitem", item)
    return element


def _remarks(path: str, left: tuple[Diagnostic, ...]) -> list[str]:
    lines = [f"Converted by dcctl migrate from {PurePosixPath(path).name}."]
    if left:
        lines[0] += " These parts have no exact counterpart:"
    for found in left:
        where = f"line {found.line}: " if found.line else ""
        lines.append(
            f"{where}{found.message}" + (f" ({found.suggestion})" if found.suggestion else "")
        )
    return lines
