"""DataObjectDict: key/value pairs that checkpoints pass to later ones in the DOC's persistent part.

Keys are strings, values are JSON values. Code reads `found["key"]`, a path string the attribute
(`%{//iso.label}`). XML holds a string as text; other values, and strings that XML does not allow, as JSON.
"""

import json
from collections.abc import Mapping
from dataclasses import field
from typing import Self

from lxml import etree

from dcd.manifest.characters import is_xml_text
from dcd.manifest.data_object import DataObject, Element
from dcd.manifest.values import BadValue
from statemachine.plan import Json


class DataObjectDict(DataObject, tag="data_dictionary"):
    """A named dictionary in the DOC."""

    data_dict: dict[str, Json] = field(default_factory=dict)

    def __init__(self, name: str, data_dict: Mapping[str, Json] | None = None) -> None:
        super().__init__(name=name)
        self.data_dict = dict(data_dict or {})

    def __getitem__(self, key: str) -> Json:
        return self.data_dict[key]

    def __setitem__(self, key: str, value: Json) -> None:
        self.data_dict[key] = value

    def __contains__(self, key: object) -> bool:
        return key in self.data_dict

    def get(self, key: str, default: Json = None) -> Json:
        """The value of the key, or the default."""
        return self.data_dict.get(key, default)

    def __getattr__(self, name: str) -> Json:
        try:
            return self.__dict__["data_dict"][name]
        except KeyError:
            raise AttributeError(name) from None

    @classmethod
    def from_xml(cls, element: Element) -> Self:
        values: dict[str, Json] = {}
        for data in element.iterchildren("data"):
            key, content = data.get("name"), data.text or ""
            if key is None:
                raise BadValue("", "given: <data> needs name")
            values[key] = _from_json(content) if data.get("type") == "json" else content
        return cls(element.get("name") or cls.TAG, values)

    def to_xml(self) -> Element:
        element = etree.Element(self.TAG, name=self.name)
        for key in sorted(self.data_dict):
            value = self.data_dict[key]
            data = etree.SubElement(element, "data", name=key)
            if isinstance(value, str) and is_xml_text(value):
                data.text = value
            else:
                data.set("type", "json")
                data.text = json.dumps(value, sort_keys=True)
        return element

    @classmethod
    def consumes(cls, element: Element) -> bool:
        return bool(element.tag == "data")


def _from_json(content: str) -> Json:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise BadValue(content, "JSON") from None
