"""What the grammar accepts and the reference documents is read by some checkpoint, or warned of."""

import ast
import inspect
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import pytest

import dcd
from dcd.checkpoints.interface import Checkpoint
from dcd.construction import constructors
from dcd.construction.arguments import parameters_of
from dcd.manifest.data_object import DataObject, fields_of
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.objects import (
    DC,
    Arg,
    ArgList,
    Args,
    BootMods,
    Disk,
    Distro,
    Execution,
    GptPartition,
    ImgParams,
    Iscsi,
    Kwargs,
    Logical,
    MaxSize,
    MediaIm,
    Parameter,
    Partition,
    Placement,
    Profile,
    RootfsIm,
    Slice,
    Target,
    VmIm,
)
from dcd.manifest.registry import particles_of
from dcd.manifest.schema import classes_below
from dcd.planning.load import load
from dcd.planning.readiness import examine
from dcd.planning.unused import UNREAD

ROOT = Path(dcd.__file__).parent
GENERIC = {"registry", "schema", "check", "reference", "data_object", "cross_checks", "parameters"}
"""Modules that treat all elements alike, or only compare them with each other."""

ANYWHERE = {BootMods, DC, ImgParams, Kwargs, Placement, Target, VmIm}
"""Elements that are found wherever they stand, or that only hold others."""

ELSEWHERE = {
    (Parameter, "description"),  # for people
    *((Profile, "name"), (Profile, "description")),  # by what selects, and for people
    *((Parameter, "name"), (Parameter, "default")),  # by what substitutes it in the text
    (Execution, "stop_on_error"),  # of which the cross checks say that it has no effect
    (RootfsIm, "type"),  # by what writes out the checkpoints
    (Distro, "sbom"),  # by what adds a checkpoint to the tree
    (MediaIm, "type"),  # by what adds the default checkpoints to the tree
    *((Arg, "text"), (Args, "text"), (ArgList, "argitems")),  # by their checkpoint element itself
}


class Module(NamedTuple):
    classes: frozenset[str]
    attributes: frozenset[str]


@cache
def modules() -> list[Module]:
    """What each module that acts upon a manifest names: classes, also by functions that return objects of
    these (`distro(doc)`), and attributes."""
    paths = [
        *(ROOT / "checkpoints").rglob("*.py"),
        *(ROOT / "engine").glob("*.py"),
        *(
            each
            for room in ("manifest", "planning")
            for each in (ROOT / room).glob("*.py")
            if each.stem not in GENERIC
        ),
    ]
    trees = [
        ast.parse(path.read_text()) for path in paths if path.stem not in ("unused", "__init__")
    ]
    returned: dict[str, set[str]] = {}
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.returns is not None:
                returned.setdefault(node.name, set()).update(_names(node.returns))
    found = []
    for tree in trees:
        names = _names(tree)
        names |= {cls for name in names for cls in returned.get(name, ())}
        attributes = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
        }
        found.append(Module(frozenset(names), frozenset(attributes)))
    return found


def _names(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} | {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)
    }


@cache
def below_unread() -> set[type[DataObject]]:
    """Classes that stand only in elements that nobody reads."""
    unread = {cls for cls, attribute in UNREAD if not attribute}
    while more := {
        cls
        for cls in classes_below(DC)
        if cls not in unread
        and (parents := [each for each in classes_below(DC) if holds(each, cls)])
        and unread.issuperset(parents)
    }:
        unread |= more
    return unread


@cache
def holds(parent: type[DataObject], cls: type[DataObject]) -> bool:
    return any(particle.of is cls for particle in particles_of(parent))


def unread_fields() -> set[tuple[type[DataObject], str]]:
    return {
        (cls, field.name)
        for cls in classes_below(DC)
        if cls not in below_unread()
        for field in fields_of(cls)
        if not any(
            cls.__name__ in each.classes and field.name in each.attributes for each in modules()
        )
    }


def test_every_attribute_is_read_or_listed_as_unread() -> None:
    listed = {(cls, attribute) for cls, attribute in UNREAD if attribute}
    assert unread_fields() - ELSEWHERE == listed


def test_every_element_is_read_where_it_stands_or_listed_as_unread() -> None:
    lost = [
        f"{cls.TAG} in {parent.TAG}"
        for parent in classes_below(DC)
        if parent not in below_unread() and not issubclass(parent, tuple(ANYWHERE - {VmIm}))
        for cls in (particle.of for particle in particles_of(parent))
        if cls not in below_unread() | ANYWHERE
        and not any({cls.__name__, parent.__name__} <= each.classes for each in modules())
        and len([each for each in classes_below(DC) if holds(each, cls)]) > 1
    ]
    assert lost == []
    nowhere = [
        cls.TAG
        for cls in classes_below(DC)
        if cls not in below_unread() | ANYWHERE
        and not any(cls.__name__ in each.classes for each in modules())
    ]
    # Substituted in the text, those which only hold others, and what chooses the checkpoints.
    assert nowhere == ["parameter", "distro_spec", "rootfs_im", "execution"]


def test_the_largest_size_of_media_is_read() -> None:
    """The case that a walk over names can miss: the same element elsewhere is read too."""
    assert any({MaxSize.__name__, MediaIm.__name__} <= each.classes for each in modules())


SAMPLES = {
    Logical: '<target><logical><zpool name="rpool"/></logical></target>',
    Iscsi: '<target><disk><iscsi target_ip="192.0.2.1" target_lun="0" chap_name="a" '
    'chap_password_file="/etc/dcd/secrets/x"/></disk></target>',
}
FILE = '<target><disk{}><disk_image name="d" size="1gb"/>{}</disk></target>'


def sample(cls: type[DataObject], attribute: str) -> str:
    """A target with what nobody reads."""
    if cls in SAMPLES:
        return SAMPLES[cls]
    value = "true" if attribute in ("force", "whole_disk") else "v"
    pool = '<logical><zpool name="v"><vdev name="v"/></zpool></logical>'
    if cls is Disk:
        return FILE.format(f' {attribute}="{value}"', "").replace("</target>", f"{pool}</target>")
    if cls in (GptPartition, Partition, Slice):
        extra = f' {attribute}="{value}"' if attribute else ""
        inner = FILE.format("", f'<{cls.TAG} name="1"{extra}/>')
        return inner.replace("</target>", f"{pool}</target>")
    values = {"disk_name": 'name="x"', "disk_keyword": 'key="boot_disk"'}
    return f"<target><disk><{cls.TAG} {values.get(cls.TAG, '')}/></disk></target>"


@pytest.mark.parametrize(
    ("cls", "attribute"), UNREAD, ids=[f"{cls.TAG} {attribute}" for cls, attribute in UNREAD]
)
def test_what_nobody_reads_is_warned_of_at_its_place(cls: type[DataObject], attribute: str) -> None:
    level = ' log_level="debug"' if cls.TAG == "checkpoint" else ""
    target = "" if level else sample(cls, attribute)
    found = warnings(target, f'<checkpoint{level} name="s" {SCRIPT}</checkpoint>')
    (said,) = [
        each for each in found if f"<{cls.TAG}>" in each.message and attribute in each.message
    ]
    assert said.message.endswith("has no effect here")
    assert said.line == (2 if level else 1)
    assert said.why


SCRIPT = (
    'mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript"><args>true</args>'
)


def warnings(sections: str, checkpoints: str) -> list[Diagnostic]:
    text = f'<dc><distro name="x">{sections}<execution>\n{checkpoints}</execution></distro></dc>'
    found = load(text, "/m.xml", examine=partial(examine, allowed=())).diagnostics
    assert {each.severity for each in found} <= {"warning"}
    return list(found)


def test_what_no_checkpoint_of_the_manifest_reads_is_warned_of() -> None:
    media = """<distro_spec><img_params><media_im><boot_mods timeout="3"/>
        <max_size><size val="1gb"/></max_size></media_im></img_params></distro_spec>
        <software name="s" type="CPIO"><software_data><name>etc</name>
        </software_data></software>"""
    found = warnings(media, f'<checkpoint name="s" {SCRIPT}</checkpoint>')
    assert [each.message for each in found] == [
        "no checkpoint of this manifest reads this boot menu",
        "no checkpoint of this manifest reads this largest size",
        "checkpoint 's' reads no <software>",
    ]


CONVERT = (
    '<checkpoint name="d" mod_path="dcd/checkpoints/vm/create_disk" checkpoint_class="CreateDisk"/>'
    '<checkpoint name="c" mod_path="dcd/checkpoints/vm/convert" checkpoint_class="Convert">{}</checkpoint>'
)
DISK = """<distro_spec><img_params><vm_im><vm_format type="raw"/>
    <vm_format type="vmdk" subformat="monolithicSparse"/>
    <vm_format type="ova"/></vm_im></img_params></distro_spec>
    <target><disk><disk_image name="d.raw" size="2gb"/></disk></target>"""


def test_formats_that_no_checkpoint_makes_are_warned_of_at_their_place() -> None:
    one = '<kwargs><arglist name="formats"><argitem>raw</argitem></arglist></kwargs>'
    found = warnings(DISK, CONVERT.format(one))
    assert [(each.line, each.message) for each in found] == [
        (2, "no checkpoint of this manifest makes the format vmdk-monolithicSparse"),
        (3, "no checkpoint of this manifest makes the format ova"),
    ]
    ova = '<checkpoint name="o" mod_path="dcd/checkpoints/vm/ova" checkpoint_class="CreateOVA"/>'
    assert warnings(DISK, CONVERT.format("") + ova) == []


def test_what_the_boot_menu_of_illumos_reads_is_not_warned_of() -> None:
    reader = (
        '<checkpoint name="s" mod_path="dcd/checkpoints/custom_script" '
        'checkpoint_class="CustomScript"><args>true</args></checkpoint>'
        '<checkpoint name="o" mod_path="solaris_install/boot/boot" '
        'checkpoint_class="TextISOImageBootMenu"/>'
    )
    menu = """<distro_spec><img_params><media_im><boot_mods timeout="3"/></media_im></img_params>
        </distro_spec>"""
    assert not any("boot menu" in each.message for each in warnings(menu, reader))


def every_argument() -> Iterator[tuple[type[Checkpoint], str]]:
    for module in constructors.own_modules():
        for found in constructors.factories(constructors.import_module(module, module)).values():
            if isinstance(found, type):
                yield from ((found, parameter.name) for parameter in parameters_of(found))


@pytest.mark.parametrize(
    ("cls", "argument"),
    list(every_argument()),
    ids=lambda value: value if isinstance(value, str) else value.__module__,
)
def test_every_argument_of_a_checkpoint_is_used(cls: type[Checkpoint], argument: str) -> None:
    """It is not only kept: something reads what was kept, or the constructor makes something of it."""
    tree = ast.parse(inspect.getsource(inspect.getmodule(cls) or cls))
    kept = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Name)
        and node.value.id == argument
    ]
    reads = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr == argument
        and isinstance(node.ctx, ast.Load)
    ]
    texts = [
        node for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value == argument
    ]
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == argument]
    assert reads or texts or len(uses) > len(kept)
