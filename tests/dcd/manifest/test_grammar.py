"""One declaration, four readers: import, export, our checker and the RELAX NG grammar agree."""

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree

from dcd.manifest.check import check_structure
from dcd.manifest.data_object import DataObject, Field, OneOf, Particle, fields_of
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.objects import BUILTIN, DC, Distro, Parameter
from dcd.manifest.parse import canonical_text, restore
from dcd.manifest.reference import GRAMMAR, REFERENCE, reference_text
from dcd.manifest.registry import write, write_text
from dcd.manifest.schema import classes_below, documentation, grammar_text
from dcd.manifest.source import LIMITS, read
from dcd.manifest.values import choices, optional_of

RELAX_NG = etree.RelaxNG(etree.parse(str(GRAMMAR)))
words = st.text("abcXYZ019é _-./:{}$%&<>\"'", min_size=1, max_size=8).map(
    lambda text: " ".join(text.split()) or "x"
)


def values(field: Field) -> st.SearchStrategy[Any]:
    plain, _ = optional_of(field.annotation)
    if choices(plain):
        return st.sampled_from(choices(plain)).map(lambda text: field.parse(text))
    if plain is int:
        return st.integers(field.declared.minimum or 0, 10**6)
    if field.declared.form is not None:
        return st.from_regex(field.declared.form.pattern, fullmatch=True).filter(str.isascii)
    return words


@st.composite
def bare(draw: st.DrawFn, cls: type[DataObject]) -> DataObject:
    """An object of the class, with nothing in it."""
    given_values: dict[str, Any] = {}
    for field in fields_of(cls):
        if field.declared.kind == "children":
            given_values[field.name] = tuple(draw(st.lists(words, max_size=2)))
        elif field.required or draw(st.booleans()):
            given_values[field.name] = draw(values(field))
    return cls(**given_values)


@st.composite
def objects(draw: st.DrawFn, cls: type[DataObject]) -> DataObject:
    """An object of the class, with whatever may be in it."""
    made = draw(bare(cls))
    for content in cls.CONTENT:
        made.insert_children(draw(contents(content)))
    return made


def contents(content: Particle | OneOf) -> st.SearchStrategy[list[DataObject]]:
    if isinstance(content, OneOf):
        needed = st.sampled_from(content.options).flatmap(contents)
        return needed if content.required else needed | st.just([])
    most = content.maximum or max(1, content.minimum)
    return st.lists(objects(content.of), min_size=content.minimum, max_size=most)


quick = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.parametrize("cls", classes_below(), ids=lambda cls: cls.TAG)
def test_every_element_survives_xml(cls: type[DataObject]) -> None:
    @settings(quick, max_examples=10)
    @given(objects(cls))
    def survives(made: DataObject) -> None:
        text = write_text(made)
        assert BUILTIN.read(etree.fromstring(text)) == made

    survives()


EVERY_FIELD = [(cls, field) for cls in classes_below() for field in fields_of(cls)]


@pytest.mark.parametrize(
    ("cls", "field"), EVERY_FIELD, ids=[f"{cls.TAG}.{field.name}" for cls, field in EVERY_FIELD]
)
def test_every_value_shows_in_the_xml_and_so_in_keys(cls: type[DataObject], field: Field) -> None:
    @settings(quick, max_examples=3)
    @given(bare(cls), values(field))
    def shows(made: DataObject, other: Any) -> None:
        before, given_value = write_text(made), getattr(made, field.name)
        value = (*given_value, other) if field.declared.kind == "children" else other
        setattr(made, field.name, value)
        assert (write_text(made) == before) == (value == given_value)

    shows()


manifests = objects(DC)


@quick
@given(manifests)
def test_a_valid_manifest_is_valid_for_both(made: DataObject) -> None:
    source = read(write_text(made), "m.xml", LIMITS)
    assert list(check_structure(source, BUILTIN)) == []
    assert RELAX_NG.validate(source.root), RELAX_NG.error_log


@quick
@given(manifests, st.data())
def test_a_damaged_manifest_is_invalid_for_both_or_neither(
    made: DataObject, data: st.DataObject
) -> None:
    tree = write(made)
    assert tree is not None
    damaged = data.draw(st.sampled_from(list(tree.iter())))
    match data.draw(
        st.sampled_from(["drop", "attribute", "value", "move", "text", "double", "rename"])
    ):
        case "drop" if damaged is not tree:
            parent = damaged.getparent()
            assert parent is not None
            parent.remove(damaged)
        case "attribute":
            damaged.set("colour", "red")
        case "value" if damaged.attrib:
            name = data.draw(st.sampled_from(sorted(map(str, damaged.attrib))))
            if data.draw(st.booleans()):
                del damaged.attrib[name]
            else:
                damaged.set(name, "strange !")
        case "move":
            other = copy.deepcopy(data.draw(st.sampled_from(list(tree.iter()))))
            damaged.append(other)
        case "double" if damaged is not tree:
            damaged.addnext(copy.deepcopy(damaged))
        case "text":
            damaged.text = "stray"
        case "rename" if damaged is not tree:
            damaged.tag = "mystery"
    source = read(etree.tostring(tree, encoding="unicode"), "m.xml", LIMITS)
    assert (list(check_structure(source, BUILTIN)) == []) == RELAX_NG.validate(source.root)


@quick
@given(manifests)
def test_a_canonical_manifest_restores_equal(made: DataObject) -> None:
    made.delete_children(class_type=Parameter)
    doc = DataObjectCache()
    doc.volatile.insert_children(made)
    canonical = canonical_text(doc)
    again = restore(canonical)
    assert again == doc
    assert canonical_text(again) == canonical


@quick
@given(manifests)
def test_a_whole_document_survives_as_text(made: DataObject) -> None:
    doc = DataObjectCache()
    doc.volatile.insert_children(made)
    assert DataObjectCache.from_text(doc.to_text()) == doc


def test_an_element_of_a_plug_in_may_stand_where_it_says() -> None:
    class Extra(DataObject, tag="extra", extends=("distro",)):
        """An element of a plug-in."""

    text = (
        '<dc><distro name="x"><extra/><execution>'
        '<checkpoint name="a" mod_path="b" checkpoint_class="C"/></execution></distro></dc>'
    )
    source = read(text, "m.xml", LIMITS)
    assert list(check_structure(source, BUILTIN.adding(Extra))) == []
    (found,) = check_structure(source, BUILTIN)
    assert found.message == "there is no element <extra>"
    misplaced = read("<dc><extra/>" + text[4:].replace("<extra/>", ""), "m.xml", LIMITS)
    (found,) = check_structure(misplaced, BUILTIN.adding(Extra))
    assert found.message == "<extra> does not belong in <dc>"


def test_the_grammar_is_current() -> None:
    assert GRAMMAR.read_text() == grammar_text(), "run python -m dcd.manifest.reference"


def test_the_reference_is_current() -> None:
    present = REFERENCE.read_text()
    assert present == reference_text(present), "run python -m dcd.manifest.reference"


def test_everything_is_documented() -> None:
    for cls in classes_below():
        assert documentation(cls).endswith("."), cls
        for field in fields_of(cls):
            assert field.declared.doc.endswith("."), (cls, field.name)


def test_everything_declared_is_registered() -> None:
    assert set(classes_below()) < set(BUILTIN.classes)
    assert Distro in classes_below()
    tags = [cls.TAG for cls in BUILTIN.classes]
    assert len(tags) == len(set(tags))


def test_the_original_dtds_elements_and_defaults_are_all_there() -> None:
    """The DTD is only looked at: names, allowed values and defaults must be ours too."""
    directory = Path(__file__).resolve().parents[4] / "shared/data/cud/dtd"
    if not directory.is_dir():
        pytest.skip("the original's DTDs are not at ../shared/data/cud/dtd")
    ours = {cls.TAG: cls for cls in classes_below()}
    text_children = {
        field.tag
        for cls in classes_below()
        for field in fields_of(cls)
        if field.declared.kind in ("child", "children")
    }
    seen = 0
    for path in directory.glob("*.dtd.*"):
        if path.name.startswith(("ai.", "media-transfer.", "dc.")):
            continue
        for declared in etree.DTD(str(path)).iterelements():
            if declared.name in text_children:
                continue
            fields = {field.tag: field for field in fields_of(ours[declared.name])}
            for attribute in declared.iterattributes():
                field = fields[attribute.name]
                allowed = choices(field.annotation)
                assert set(attribute.values()) <= set(allowed) | {"true", "false"}
                if attribute.default_value is not None:
                    assert field.parse(attribute.default_value) == field.default
                    seen += 1
    assert seen > 25
