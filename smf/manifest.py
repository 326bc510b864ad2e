"""The service's SMF manifest: `dcd.xml` with the paths of an installation and every setting.

The property group `config` and its templates are generated from the daemon's settings, passed as data,
so every setting has a property with type, default, description and constraint. Pure: reads only the
package's file.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from lxml import etree

_COUNT_MAX = 2**63 - 1
"""The daemon's limit; a count in SMF can be up to 2^64 - 1."""


@dataclass(frozen=True, slots=True)
class Property:
    """A setting as a property of the service. `values` is its default, a single value unless it
    `is_list`; `choices` limits the text, `minimum` the count."""

    name: str
    type: Literal["count", "astring"]
    values: tuple[str, ...]
    is_list: bool
    description: str
    unit: str = ""
    choices: tuple[str, ...] = ()
    minimum: int = 0


def smf_manifest(command: Path, script: Path, manual: Path, properties: Iterable[Property]) -> str:
    """The manifest as XML text, with the `properties` of the group `config`.

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
    for each in properties:
        group.append(_property(each))
        pattern.append(_template(each))
    etree.indent(tree, "  ")
    text: str = etree.tostring(tree, encoding="unicode")
    # lxml writes no line end between the comment and the root.
    return '<?xml version="1.0"?>\n' + text.replace("--><", "-->\n<", 1) + "\n"


def installed_manifest(properties: Iterable[Property]) -> str:
    """The manifest for the running installation, for `dcd smf-manifest`."""
    prefix = Path(sys.prefix)
    script = Path(str(files("smf"))) / "svc-dcd.sh"
    return smf_manifest(prefix / "bin" / "dcd", script, prefix / "share" / "man", properties)


def packaged_manifest(prefix: Path, properties: Iterable[Property]) -> str:
    """The manifest for a package that installs below `prefix`."""
    script, manual = prefix / "lib" / "svc-dcd", prefix / "share" / "man"
    return smf_manifest(prefix / "bin" / "dcd", script, manual, properties)


def _find(tree: Any, path: str) -> list[Any]:
    found: list[Any] = tree.xpath(path)
    return found


def _set(tree: Any, path: str, attribute: str, value: str) -> None:
    for element in _find(tree, path):
        element.set(attribute, value)


def _property(each: Property) -> Any:
    if each.is_list:
        element = etree.Element("property", name=each.name, type=each.type)
        if each.values:
            container = etree.SubElement(element, f"{each.type}_list")
            for value in each.values:
                etree.SubElement(container, "value_node", value=value)
        return element
    (value,) = each.values
    return etree.Element("propval", name=each.name, type=each.type, value=value)


def _template(each: Property) -> Any:
    """The prop_pattern of a property; the DTD prescribes the order of its children."""
    pattern = etree.Element("prop_pattern", name=each.name, type=each.type, required="true")
    _text(pattern, "common_name", each.name.replace("_", " "))
    _text(pattern, "description", each.description)
    if each.unit:
        _text(pattern, "units", each.unit)
    etree.SubElement(pattern, "visibility", value="readwrite")
    if not each.is_list:
        etree.SubElement(pattern, "cardinality", min="1", max="1")
    if each.choices:
        constraints = etree.SubElement(pattern, "constraints")
        for choice in each.choices:
            etree.SubElement(constraints, "value", name=choice)
    elif each.type == "count":
        constraints = etree.SubElement(pattern, "constraints")
        etree.SubElement(constraints, "range", min=str(each.minimum), max=str(_COUNT_MAX))
    return pattern


def _text(parent: Any, name: str, text: str) -> None:
    text_element = etree.SubElement(etree.SubElement(parent, name), "loctext")
    text_element.set("{http://www.w3.org/XML/1998/namespace}lang", "C")
    text_element.text = text
