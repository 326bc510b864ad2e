"""The service's SMF manifest: `dcd.xml` with the paths of an installation and every setting.

The property group `config` and its templates are made from `dcd.configuration.SETTINGS`, so no setting
is without property, type, default, description and constraint. Pure: reads only the package's file.
"""

import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from lxml import etree

from dcd.configuration import SETTINGS, Setting
from dcd.configuration.settings import ILLUMOS_RUN_DIRECTORY

_COUNT_MAX = 2**63 - 1
"""What the daemon takes; a count of SMF goes to 2^64 - 1."""


def smf_manifest(command: Path, script: Path, manual: Path) -> str:
    """The manifest as XML text.

    `command` is the installed `dcd` (with `dcctl` beside it), `script` the method script, `manual` the
    directory of the manual pages. All absolute.
    """
    parser = etree.XMLParser(
        remove_blank_text=True, load_dtd=False, no_network=True, resolve_entities=False
    )
    tree = etree.ElementTree(
        etree.fromstring(files("smf").joinpath("dcd.xml").read_bytes(), parser)
    )
    _set(tree, "//property_group[@name='method']/propval[@name='command']", "value", str(command))
    _set(tree, "//property_group[@name='method']/propval[@name='script']", "value", str(script))
    _set(tree, "//manpage", "manpath", str(manual))
    (group,) = _find(tree, "//property_group[@name='config']")
    (pattern,) = _find(tree, "//pg_pattern[@name='config']")
    for setting in SETTINGS.values():
        group.append(_property(setting))
        pattern.append(_template(setting))
    etree.indent(tree, "  ")
    text: str = etree.tostring(tree, encoding="unicode")
    # lxml puts no line end between the comment and the root.
    return '<?xml version="1.0"?>\n' + text.replace("--><", "-->\n<", 1) + "\n"


def installed_manifest() -> str:
    """The manifest for the installation that runs now: what `dcd smf-manifest` prints."""
    prefix = Path(sys.prefix)
    return smf_manifest(
        prefix / "bin" / "dcd", Path(str(files("smf"))) / "svc-dcd.sh", prefix / "share" / "man"
    )


def _find(tree: Any, path: str) -> list[Any]:
    found: list[Any] = tree.xpath(path)
    return found


def _set(tree: Any, path: str, attribute: str, value: str) -> None:
    for element in _find(tree, path):
        element.set(attribute, value)


def smf_type(setting: Setting) -> str:
    """The SMF type of a setting: numbers are counts, all else strings."""
    return "count" if setting.kind in (int, float) else "astring"


def _property(setting: Setting) -> Any:
    kind = smf_type(setting)
    if _is_list(setting):
        element = etree.Element("property", name=setting.name, type=kind)
        values = _values(setting)
        if values:
            container = etree.SubElement(element, f"{kind}_list")
            for value in values:
                etree.SubElement(container, "value_node", value=value)
        return element
    (value,) = _values(setting)
    return etree.Element("propval", name=setting.name, type=kind, value=value)


def _template(setting: Setting) -> Any:
    """The prop_pattern of a setting; the DTD prescribes the order of its children."""
    pattern = etree.Element(
        "prop_pattern", name=setting.name, type=smf_type(setting), required="true"
    )
    _text(pattern, "common_name", setting.name.replace("_", " "))
    when = "" if setting.reloads else " Takes effect at the next restart."
    _text(pattern, "description", setting.description + when)
    if setting.unit:
        _text(pattern, "units", setting.unit)
    etree.SubElement(pattern, "visibility", value="readwrite")
    if not _is_list(setting):
        etree.SubElement(pattern, "cardinality", min="1", max="1")
    if setting.choices:
        constraints = etree.SubElement(pattern, "constraints")
        for choice in setting.choices:
            etree.SubElement(constraints, "value", name=choice)
    elif smf_type(setting) == "count":
        constraints = etree.SubElement(pattern, "constraints")
        etree.SubElement(constraints, "range", min=str(setting.minimum), max=str(_COUNT_MAX))
    return pattern


def _text(parent: Any, name: str, text: str) -> None:
    text_element = etree.SubElement(etree.SubElement(parent, name), "loctext")
    text_element.set("{http://www.w3.org/XML/1998/namespace}lang", "C")
    text_element.text = text


def _is_list(setting: Setting) -> bool:
    return setting.kind in (tuple[str, ...], tuple[Path, ...], Mapping[str, Path])


def _values(setting: Setting) -> list[str]:
    if setting.kind == Mapping[str, Path]:
        return [f"{prefix}={directory}" for prefix, directory in setting.default.items()]
    if _is_list(setting):
        return [str(value) for value in setting.default]
    if setting.name == "socket":  # wherever the manifest is printed
        return [str(ILLUMOS_RUN_DIRECTORY / "dcd.sock")]
    return [str(int(setting.default)) if setting.kind is float else str(setting.default)]
