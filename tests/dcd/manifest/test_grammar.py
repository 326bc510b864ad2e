"""One declaration, four readers: import, export, our checker and the RELAX NG grammar agree."""

import copy
from functools import cache, partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree

from dcd.manifest.canonical import canonical_text, restore
from dcd.manifest.check import check_structure
from dcd.manifest.data_object import DataObject, OneOf, Particle, fields_of
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.fields import Field
from dcd.manifest.objects import BUILTIN, DC, Distro, Parameter
from dcd.manifest.registry import write, write_text
from dcd.manifest.schema import classes_below, documentation
from dcd.manifest.source import LIMITS, read
from dcd.manifest.values import BadValue, Form, choices, optional_of
from dcd.planning.reference import GRAMMAR, REFERENCE, editor_grammar, reference_text

RELAX_NG = etree.RelaxNG(etree.parse(str(GRAMMAR)))
words = st.text("abcXYZ019é _-./:{}$%&<>\"'", min_size=1, max_size=8).map(
    lambda text: " ".join(text.split()) or "x"
)


def values(field: Field) -> st.SearchStrategy[Any]:
    plain, _ = optional_of(field.annotation)
    if choices(plain):
        return st.sampled_from(choices(plain)).map(lambda text: field.parse(text))
    if plain is int:
        return st.integers(field.declared.minimum or 0, field.declared.maximum or 10**6)
    return words if field.form is None or field.form.why else texts(field.form)


@cache
def texts(form: Form) -> st.SearchStrategy[str]:
    """Texts of a form, as XML keeps them."""
    if form.also is not None:
        example = form.fitting("") if form.fitting else form.example.split(",")[0]
        return st.just(example)  # Nothing made at random has what a pattern cannot say.
    characters = st.characters(min_codepoint=32, max_codepoint=126)
    made = st.from_regex(form.pattern, fullmatch=True, alphabet=characters)
    return made.map(lambda text: " ".join(text.split())).filter(partial(has, form))


def has(form: Form, text: str) -> bool:
    """Whether the text has the form, and is something."""
    try:
        form.check(text)
    except BadValue:
        return False
    return bool(text)


@st.composite
def bare(draw: st.DrawFn, cls: type[DataObject]) -> DataObject:
    """An object of the class, with nothing in it."""
    given_values: dict[str, Any] = {}
    for field in fields_of(cls):
        if field.declared.kind == "children":
            given_values[field.name] = tuple(draw(st.lists(values(field), max_size=2)))
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
    assert GRAMMAR.read_text() == editor_grammar(), "run python -m dcd.planning.reference"


def test_the_reference_is_current() -> None:
    present = REFERENCE.read_text()
    assert present == reference_text(present), "run python -m dcd.planning.reference"


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


ORIGINAL: dict[tuple[str, str], tuple[tuple[str, ...], str | None]] = {
    ("boot_entry", "default_entry"): (("true", "false"), "false"),
    ("boot_entry", "insert_at"): (("start", "end"), "end"),
    ("configuration", "type"): (("network", "sysconf", "user", "zone"), None),
    ("disk", "whole_disk"): (("true", "false"), "false"),
    ("disk_name", "name_type"): (
        ("ctd", "volid", "devpath", "devid", "receptacle", "wwn"),
        "ctd",
    ),
    ("execution", "stop_on_error"): (("true", "false"), "true"),
    ("facet", "set"): (("true", "false"), "true"),
    ("filesystem", "action"): (("create", "delete", "preserve"), "create"),
    ("filesystem", "in_be"): (("true", "false"), "false"),
    ("gpt_partition", "action"): (("create", "delete", "preserve"), "create"),
    ("gpt_partition", "part_type"): ((), "solaris"),
    ("image", "action"): (("create", "use_existing"), "create"),
    ("image", "index"): (("true", "false"), "false"),
    ("img_type", "zone"): (("true", "false"), "false"),
    ("iscsi", "source"): (("manifest", "dhcp"), "manifest"),
    ("logical", "nodump"): (("true", "false"), "false"),
    ("logical", "noswap"): (("true", "false"), "false"),
    ("partition", "action"): (
        ("create", "delete", "preserve", "use_existing_solaris2"),
        "create",
    ),
    ("partition", "part_type"): ((), "191"),
    ("slice", "action"): (("create", "delete", "preserve"), "create"),
    ("slice", "is_swap"): (("true", "false"), "false"),
    ("software", "type"): (
        ("IPS", "SVR4", "CPIO", "ARCHIVE", "IMAGE", "P5I", "DU", "P5P"),
        "IPS",
    ),
    ("software_data", "action"): (
        ("install", "uninstall", "unpack", "avoid", "unavoid"),
        "install",
    ),
    ("validation", "on_error"): ((), "stop"),
    ("vdev", "redundancy"): (
        ("mirror", "raidz", "raidz1", "raidz2", "raidz3", "spare", "log", "cache", "logmirror",
         "none"),
        "mirror",
    ),
    ("zpool", "action"): (("create", "delete", "preserve", "use_existing"), "create"),
    ("zpool", "is_root"): (("true", "false"), "false"),
    ("zvol", "action"): (("create", "delete", "preserve", "use_existing"), "create"),
    ("zvol", "use"): (("none", "swap", "dump"), "none"),
}  # fmt: skip
"""Attributes of the original's elements: the values that it allows, and its default."""


@pytest.mark.parametrize(("tag", "name"), ORIGINAL)
def test_an_attribute_of_the_original_takes_its_values_and_has_its_default(
    tag: str, name: str
) -> None:
    values, default = ORIGINAL[tag, name]
    (cls,) = (one for one in classes_below() if tag == one.TAG)
    (field,) = (one for one in fields_of(cls) if one.tag == name)
    for value in values:
        field.parse(value)
    if default is not None:
        assert field.parse(default) == field.default


ATTRIBUTES = {
    "boot_mods": "title timeout",
    "checkpoint": "name checkpoint_class log_level mod_path desc",
    "configuration": "source name type dest",
    "dir": "path",
    "disk": "in_zpool whole_disk in_vdev",
    "disk_keyword": "key",
    "disk_prop": "dev_type dev_size dev_chassis dev_vendor",
    "gpt_partition": "name in_vdev in_zpool force",
    "image": "img_root ssl_cert ssl_key",
    "iscsi": "chap_password chap_name initiator_name target_ip target_port target_lun target_name",
    "img_type": "completeness",
    "mirror": "name",
    "option": "name value",
    "origin": "name",
    "property": "val",
    "publisher": "name",
    "size": "val start_sector",
    "slice": "name in_vdev in_zpool force",
    "software": "name",
    "software_data": "size",
    "target": "name",
    "validation": "path args",
    "zpool": "name mountpoint",
    "zvol": "name",
}
"""Attributes of the original's elements that have neither a list of values nor a default."""


@pytest.mark.parametrize("tag", ATTRIBUTES)
def test_an_element_of_the_original_has_its_attributes(tag: str) -> None:
    (cls,) = (one for one in classes_below() if tag == one.TAG)
    assert set(ATTRIBUTES[tag].split()) <= {field.tag for field in fields_of(cls)}
