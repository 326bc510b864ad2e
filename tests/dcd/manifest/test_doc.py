"""The DOC: data objects, their tree, and what survives a trip through XML."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcd.manifest.data_object import DataObject, attribute
from dcd.manifest.doc import (
    DataObjectCache,
    DataObjectDict,
    configurations_for,
    distro,
    software_for,
)
from dcd.manifest.objects import (
    BUILTIN,
    DC,
    BootEntry,
    BootMods,
    Configuration,
    Distro,
    Software,
    SoftwareData,
)
from statemachine.errors import InvalidManifest


def tree(*children: DataObject, parent: DataObject) -> DataObject:
    parent.insert_children(children)
    return parent


@pytest.fixture
def doc() -> DataObjectCache:
    cache = DataObjectCache()
    image = tree(
        tree(SoftwareData(names=("a", "b")), parent=Software(name="transfer", type="DEB")),
        Software(name="ba-init", type="CPIO"),
        Configuration(name="transfer", source="one.xml"),
        Configuration(name="transfer", source="two.xml"),
        parent=Distro(name="live"),
    )
    cache.volatile.insert_children(tree(image, parent=DC()))
    return cache


def test_a_section_is_found_by_the_name_of_its_checkpoint(doc: DataObjectCache) -> None:
    transfer = software_for(doc, "transfer")
    assert transfer is not None
    assert transfer.type == "DEB"
    assert transfer.names() == ["a", "b"]
    assert software_for(doc, "missing") is None
    assert [found.source for found in configurations_for(doc, "transfer")] == ["one.xml", "two.xml"]
    assert distro(doc).name == "live"


def test_a_document_without_a_distribution_is_refused() -> None:
    with pytest.raises(InvalidManifest, match="no distribution"):
        distro(DataObjectCache())


def test_an_element_without_a_name_is_named_for_its_tag() -> None:
    assert BootMods().name == "boot_mods"
    assert Software(type="IPS").name == "software"


def test_descendants_are_limited_by_class_depth_and_count(doc: DataObjectCache) -> None:
    assert [o.name for o in doc.get_descendants(class_type=Software)] == ["transfer", "ba-init"]
    assert doc.get_descendants(class_type=Software, max_depth=3) == []
    assert len(doc.get_descendants(class_type=Software, max_depth=4)) == 2
    assert len(doc.get_descendants("transfer", max_count=2)) == 2
    with pytest.raises(ValueError, match="at least 1"):
        doc.get_descendants(max_count=0)
    with pytest.raises(ValueError, match="at least 1"):
        doc.get_descendants(max_depth=-1)


def test_children_can_be_inserted_before_and_after_and_deleted() -> None:
    parent = DC()
    first, second, third, twin = (DataObjectDict(n) for n in ("first", "second", "third", "first"))
    parent.insert_children([first, third])
    parent.insert_children(second, before=third)
    parent.insert_children(twin, after=third)
    assert [c.name for c in parent.children] == ["first", "second", "third", "first"]
    twin.delete()
    assert [c is first for c in parent.get_children("first")] == [True]
    parent.delete_children(name="second")
    parent.delete_children([third])
    assert parent.children == [first]
    parent.delete_children()
    assert parent.children == []
    assert first.parent is None


def test_an_object_stands_in_one_place_only() -> None:
    outer, inner = DC(), Distro(name="x")
    outer.insert_children(inner)
    with pytest.raises(ValueError, match="is already in"):
        DC().insert_children(inner)
    with pytest.raises(ValueError, match="cannot be inserted into itself"):
        inner.insert_children(outer)
    with pytest.raises(ValueError, match="only once"):
        software = Software(name="s")
        inner.insert_children([software, software])
    with pytest.raises(ValueError, match="is no child of"):
        inner.insert_children(Software(name="s"), before=outer)


def test_objects_are_equal_by_content_and_not_by_origin() -> None:
    xml = (
        '<boot_mods timeout="5"><boot_entry><title_suffix>x</title_suffix></boot_entry></boot_mods>'
    )
    from lxml import etree

    from dcd.manifest.data_object import Origin

    read = BUILTIN.read(etree.fromstring(xml), lambda element, attribute=None: Origin("a.xml", 1))
    same = tree(BootEntry(title_suffix="x"), parent=BootMods(timeout=5))
    assert read == same
    assert read.origin == Origin("a.xml", 1)
    assert read != tree(BootEntry(title_suffix="y"), parent=BootMods(timeout=5))
    assert read != BootMods(timeout=5)


def test_the_persistent_part_is_saved_and_restored(doc: DataObjectCache) -> None:
    doc.persistent.insert_children(DataObjectDict("iso", {"label": "LIVE", "size": 17}))
    other = DataObjectCache()
    other.restore_persistent(doc.persistent_text())
    assert other.persistent == doc.persistent
    assert other.volatile.children == []
    other.restore_persistent(None)
    assert other.persistent.children == []


def test_the_whole_document_survives_as_text(doc: DataObjectCache) -> None:
    doc.persistent.insert_children(DataObjectDict("iso", {"label": "LIVE"}))
    assert DataObjectCache.from_text(doc.to_text()) == doc


def test_a_stored_document_that_is_damaged_is_refused() -> None:
    with pytest.raises(InvalidManifest, match="cannot be read"):
        DataObjectCache().restore_persistent("<persistent><data_dict")
    with pytest.raises(InvalidManifest, match="cannot be read"):
        DataObjectCache().restore_persistent("<volatile/>")
    with pytest.raises(InvalidManifest, match="nothing handles the element <mystery>"):
        DataObjectCache().restore_persistent("<persistent><mystery/></persistent>")
    with pytest.raises(InvalidManifest, match=r"'\{' is not JSON"):
        DataObjectCache().restore_persistent(
            '<persistent><data_dictionary name="x"><data name="y" type="json">{</data>'
            "</data_dictionary></persistent>"
        )
    with pytest.raises(InvalidManifest, match="'colour' is not an attribute of <dc>"):
        DataObjectCache().restore_persistent('<persistent><dc colour="red"/></persistent>')


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)


@given(st.dictionaries(st.text(string.ascii_letters, min_size=1), json_values, max_size=3))
def test_a_dictionary_keeps_every_json_value(values: dict[str, object]) -> None:
    doc = DataObjectCache()
    doc.persistent.insert_children(DataObjectDict("handed/on.x", values))
    again = DataObjectCache()
    again.restore_persistent(doc.persistent_text())
    restored = again.persistent.get_first_child("handed/on.x", DataObjectDict)
    assert restored is not None
    assert restored.data_dict == values


class Special(DataObject, tag="configuration", priority=10):
    """Takes over one type of configuration."""

    name: str = attribute("the checkpoint")
    type: str = attribute("always special")

    @classmethod
    def can_handle(cls, element: object) -> bool:
        return super().can_handle(element) and element.get("type") == "special"  # type: ignore


def test_the_class_of_the_lowest_priority_that_can_handle_an_element_imports_it() -> None:
    from lxml import etree

    registry = BUILTIN.adding(Special)
    special = registry.read(etree.fromstring('<configuration name="x" type="special"/>'))
    plain = registry.read(etree.fromstring('<configuration name="x" type="user"/>'))
    assert type(special) is Special
    assert type(plain) is Configuration
    assert BUILTIN.handler(etree.fromstring('<configuration type="special"/>')) is Configuration


class Prefixed(DataObject, tag="acme", priority=10):
    """Imports a family of elements, whatever the rest of their tags."""

    @classmethod
    def can_handle(cls, element: object) -> bool:
        return element.tag.startswith("acme-")  # type: ignore


class Inheriting(Prefixed, tag="other", priority=5):
    """Decides as the class above it."""


def test_a_class_that_decides_by_its_own_code_is_asked_about_every_element() -> None:
    from lxml import etree

    for cls in (Prefixed, Inheriting):
        registry = BUILTIN.adding(cls)
        assert registry.handler(etree.fromstring("<acme-disk/>")) is cls
        assert registry.handler(etree.fromstring("<acme/>")) is None
    assert BUILTIN.adding() == BUILTIN


def test_a_priority_outside_0_to_100_is_refused() -> None:
    with pytest.raises(ValueError, match="not within 0"):

        class Wrong(DataObject, tag="wrong", priority=101):
            pass
