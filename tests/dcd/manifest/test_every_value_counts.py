"""Every attribute and element of the grammar changes a key, or is documented to have no effect.

docs/reference/keys.md has the list; this test walks the declared data objects, so neither can forget one.
"""

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from dcd.construction.constructors import code_digest, construct, resolve
from dcd.manifest.data_object import DataObject, OneOf, fields_of
from dcd.manifest.doc import DataObjectCache, checkpoints_of
from dcd.manifest.fields import Field
from dcd.manifest.objects import BUILTIN, DC, BootMods, Distro, Execution
from dcd.manifest.registry import particles_of
from dcd.manifest.schema import classes_below
from dcd.manifest.values import BadValue, choices, optional_of
from dcd.planning.epoch import choose_epoch
from dcd.planning.ingredients import ingredients
from statemachine.keys import chain, with_epoch
from statemachine.plan import PlannedCheckpoint

KEYS = Path(__file__).parents[3] / "docs" / "reference" / "keys.md"

EXECUTION = """<execution stop_on_error="true">
<checkpoint name="main" desc="words" mod_path="dcd/checkpoints/image/configure"
 checkpoint_class="DebianPrePkgImgMod" log_level="debug"><kwargs><arg name="locale">C.UTF-8</arg>
<arglist name="enable_services"><argitem>ssh</argitem></arglist></kwargs></checkpoint>
<checkpoint name="script" mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript">
<args>true</args></checkpoint>
<checkpoint name="menu" mod_path="dcd/checkpoints/boot/menu" checkpoint_class="GrubBootMenu"/>
<checkpoint name="iso" mod_path="dcd/checkpoints/media/iso" checkpoint_class="CreateISO"/>
<checkpoint name="disk" mod_path="dcd/checkpoints/vm/create_disk" checkpoint_class="CreateDisk"/>
<checkpoint name="ova" mod_path="dcd/checkpoints/vm/ova" checkpoint_class="CreateOVA"/>
<checkpoint name="sbom" mod_path="dcd/checkpoints/sbom" checkpoint_class="WriteSBOM"/>
</execution>"""
"""A checkpoint that reads its software and configuration, and all that read something else."""

EXECUTION_FAMILY = classes_below(Execution)
OTHERS = [cls for cls in classes_below(DC) if cls not in (DC, *EXECUTION_FAMILY)]
TEXTS = (
    *("64mb", "65mb", "7", "8", "0600", "0644", "1980-01-02", "1980-01-03"),
    *("alpha", "beta", "/alpha", "/beta"),
    *("http://alpha/a", "http://beta/b", "http://alpha:1", "http://beta:2"),
    *(
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4e",
        "alpha alpha/question string a",
        "beta beta/question string b",
        "release n=alpha",
        "release n=beta",
        "path-exclude=/alpha/*",
        "path-exclude=/beta/*",
        "{TMP_DIR}/alpha",
        "{TMP_DIR}/beta",
        "192.0.2.1",
        "192.0.2.2",
        "192.0.2.1/24",
        "192.0.2.2/24",
    ),
    *("iqn.2026-01.alpha:a", "iqn.2026-01.beta:b", "{6a3c9f0e-3f0c-4c2e-9a55-0d5f0a1b2c3d}"),
    *("6a3c9f0e-3f0c-4c2e-9a55-0d5f0a1b2c3d", "6a3c9f0e-3f0c-4c2e-9a55-0d5f0a1b2c3e", "linux"),
)
"""Two of them have any form there is."""

NAMED = ("software", "configuration")
"""Elements that belong to a checkpoint by name."""


@pytest.fixture(scope="module", autouse=True)
def code_is_read_once() -> Iterator[None]:
    """The code does not change while the manifest is walked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dcd.planning.ingredients.code_digest", functools.cache(code_digest))
        yield


def keys(doc: DataObjectCache) -> list[str]:
    """The keys of all checkpoints, without the state of the world."""
    planned = []
    for spec in checkpoints_of(doc):
        names = (spec.mod_path, spec.checkpoint_class)
        instance = construct(*names, spec.name, spec.args, spec.kwargs)
        found = ingredients(doc, spec, resolve(*names), instance, ())
        planned.append(PlannedCheckpoint(spec.name, "", *names, "", found))
    plan = with_epoch(chain(planned), choose_epoch(doc, None, ()).seconds)
    return [checkpoint.key for checkpoint in plan.checkpoints]


def path_to(wanted: type[DataObject]) -> list[type[DataObject]]:
    """The classes from DC down to one, by the shortest way."""
    ways: list[list[type[DataObject]]] = [[DC]]
    while ways:
        way = ways.pop(0)
        if way[-1] is wanted:
            return way
        ways += [
            [*way, particle.of] for particle in particles_of(way[-1]) if particle.of not in way
        ]
    raise AssertionError(f"{wanted} stands nowhere")


def samples(field: Field) -> tuple[Any, Any]:
    """Two different values of a field."""
    plain, _ = optional_of(field.annotation)
    if field.declared.kind == "children":
        return ("one",), ("two",)
    if listed := choices(plain):
        # One that is not the default is needed to show; of a single choice there is no other.
        first, second = (field.parse(text) for text in (*listed, *listed)[:2])
        return first, second
    if plain is int:
        return 7, 8
    fitting = [text for text in TEXTS if has_form(field, text)]
    return fitting[0], fitting[1]


def has_form(field: Field, text: str) -> bool:
    """Whether the text is a value of the field."""
    try:
        field.parse(text)
    except BadValue:
        return False
    return True


def sample(cls: type[DataObject]) -> DataObject:
    """An object of the class with every field given."""
    made = cls(**{field.name: samples(field)[0] for field in fields_of(cls)})
    if cls.TAG in NAMED:
        made.name = "main"
    return made


def document(way: list[type[DataObject]], leaf: DataObject | None) -> DataObjectCache:
    """A manifest in which the way leads to the leaf, and the execution section."""
    outer = root = sample(way[0])
    objects = [*(sample(cls) for cls in way[1:-1]), *([leaf] if leaf else [])]
    for inner in objects:
        outer.insert_children(inner)
        outer = inner
    (distro,) = root.get_children() or [None]
    if distro is None or distro.TAG != "distro":
        distro = BUILTIN.read(etree.fromstring('<distro name="alpha"/>'))
        root.insert_children(distro)
    distro.insert_children(BUILTIN.read(etree.fromstring(EXECUTION)))
    doc = DataObjectCache()
    doc.volatile.insert_children(root)
    return doc


def without_effect() -> set[str]:
    """What docs/reference/keys.md lists: `element`, `element@attribute`."""
    table = KEYS.read_text().partition("## Elements without effect on the result")[2]
    by_tag = {cls.TAG: cls for cls in classes_below(DC)}
    found: set[str] = set()
    for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE):
        for name in re.findall(r"`([\w@/*]+)`", row):
            if name.endswith("/**"):
                # Boot menus are read wherever they are.
                menus = classes_below(BootMods)
                below = [c for c in classes_below(by_tag[name[:-3]]) if c not in menus]
                found |= {cls.TAG for cls in below}
                found |= {place(cls, field) for cls in below for field in fields_of(cls)}
            else:
                found.add(name)
    return found


def place(cls: type[DataObject], field: Field) -> str:
    """How the documentation names a field."""
    return f"{cls.TAG}@{field.tag}"


WITHOUT_EFFECT = without_effect()


@pytest.mark.parametrize(
    ("cls", "field"),
    # Of disk_keyword's key there is one value only.
    [(c, field) for c in OTHERS for field in fields_of(c) if len(set(samples(field))) == 2],
    ids=lambda value: value.TAG if isinstance(value, type) else value.name,
)
def test_every_value_changes_a_key_or_is_listed(cls: type[DataObject], field: Field) -> None:
    way = path_to(cls)
    _, second = samples(field)
    one, other = sample(cls), sample(cls)
    setattr(other, field.name, second)
    if cls.TAG in NAMED and field.name == "name":
        one.name, other.name = "main", "somebody-else"
    changed = keys(document(way, one)) != keys(document(way, other))
    assert changed == (place(cls, field) not in WITHOUT_EFFECT)


@pytest.mark.parametrize("cls", [c for c in OTHERS if c is not Distro], ids=lambda cls: cls.TAG)
def test_every_element_that_may_be_left_out_changes_a_key_or_is_listed(
    cls: type[DataObject],
) -> None:
    way = path_to(cls)
    changed = keys(document(way, sample(cls))) != keys(document(way, None))
    assert changed == (cls.TAG not in WITHOUT_EFFECT)


EXECUTION_CHANGES = [
    ("execution@stop_on_error", '"true"', '"false"'),
    ("checkpoint@name", 'name="menu"', 'name="renamed"'),
    ("checkpoint@desc", "words", "other words"),
    ("checkpoint@log_level", '"debug"', '"info"'),
    ("checkpoint@type", '<checkpoint name="iso"', '<checkpoint type="CreateUSB" name="iso"'),
    ("checkpoint@mod_path", "media/iso", "media/usb"),
    ("checkpoint@checkpoint_class", "CreateISO", "CreateUSB"),
    ("args@text", "<args>true</args>", "<args>false</args>"),
    ("args", "<args>true</args>", "<kwargs><arg name='text'>true</arg></kwargs>"),
    ("arg@name", 'name="locale">C.UTF-8', 'name="serial_console">ttyS0'),
    ("arg@text", "C.UTF-8", "en_US.UTF-8"),
    ("arg", '<arg name="locale">C.UTF-8</arg>', ""),
    ("arglist@name", "enable_services", "disable_services"),
    ("arglist@argitem", "<argitem>ssh", "<argitem>cron"),
    ("arglist@argitem", "</argitem>", "</argitem><argitem>cron</argitem>"),
    ("arglist", '<arglist name="enable_services"><argitem>ssh</argitem></arglist>', ""),
    ("kwargs", '<checkpoint name="iso"', '<checkpoint desc="x" name="iso"'),
]


@pytest.mark.parametrize(("what", "old", "new"), EXECUTION_CHANGES, ids=lambda value: value[:24])
def test_every_part_of_the_execution_changes_a_key_or_is_listed(
    what: str, old: str, new: str
) -> None:
    def of(text: str) -> list[str]:
        doc = DataObjectCache()
        doc.volatile.insert_children(
            BUILTIN.read(etree.fromstring(f'<dc><distro name="a">{text}</distro></dc>'))
        )
        return keys(doc)

    assert EXECUTION.count(old) == 1
    changed = EXECUTION.replace(old, new)
    if what in ("checkpoint@mod_path", "checkpoint@checkpoint_class"):
        # A class is found by both; only together do they lead to another one.
        changed = EXECUTION.replace("media/iso", "media/usb").replace("CreateISO", "CreateUSB")
    assert (of(changed) != of(EXECUTION)) == (what not in WITHOUT_EFFECT)


def parts(classes: list[type[DataObject]]) -> Iterator[str]:
    for cls in classes:
        yield from (place(cls, field) for field in fields_of(cls))


def test_the_execution_is_walked_whole() -> None:
    assert set(parts(EXECUTION_FAMILY)) == {what for what, _, _ in EXECUTION_CHANGES if "@" in what}


def test_the_list_names_only_what_there_is() -> None:
    assert {*parts(classes_below(DC)), *(c.TAG for c in classes_below(DC))} >= WITHOUT_EFFECT


def test_content_of_the_grammar_is_reached() -> None:
    """Every class stands somewhere below the root, those of alternatives too."""
    reached = {particle.of for cls in classes_below(DC) for particle in particles_of(cls)}
    assert reached == {cls for cls in classes_below(DC) if cls is not DC}
    assert any(isinstance(content, OneOf) for cls in reached for content in cls.CONTENT)
