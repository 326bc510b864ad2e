"""Path strings and `%{path}` references."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcd.manifest.doc import DataObjectCache, DataObjectDict, PathError, object_path
from dcd.manifest.objects import BootEntry, BootMods, Software
from dcd.manifest.schema import can_match
from statemachine.errors import NotFound


@pytest.fixture
def doc() -> DataObjectCache:
    cache = DataObjectCache()
    menu = BootMods(title="Live", timeout=5)
    menu.insert_children([BootEntry(title_suffix="one"), BootEntry(title_suffix="two")])
    cache.volatile.insert_children(
        [menu, Software(name="ba/init.d", type="CPIO"), DataObjectDict("iso", {"label": "X Y"})]
    )
    return cache


def test_a_slash_names_children_and_two_slashes_descendants(doc: DataObjectCache) -> None:
    assert doc.find_path("/volatile/boot_mods") == doc.find_path("//boot_mods")
    assert len(doc.find_path("//boot_mods/boot_entry")) == 2
    with pytest.raises(NotFound, match="nothing in the DOC matches '/boot_mods'"):
        doc.find_path("/boot_mods")


def test_bare_slashes_name_everything_and_a_slash_at_the_end_nothing_more(
    doc: DataObjectCache,
) -> None:
    assert doc.find_path("/") == doc.children
    assert doc.find_path("//") == doc.get_descendants()
    assert doc.find_path("/volatile/") == [doc.volatile]


def test_brackets_filter_by_class_count_and_depth(doc: DataObjectCache) -> None:
    assert doc.find_path("//[@Software]") == [doc.volatile.children[1]]
    assert doc.find_path("//[@dcd.manifest.objects.software.Software]") == doc.find_path(
        "//[@Software]"
    )
    assert doc.find_path("//boot_entry[#1].title_suffix") == ["one"]
    assert len(doc.find_path("//[?1]")) == 2
    assert len(doc.find_path("//[@BootEntry#1?3]")) == 1


def test_a_name_is_an_objects_name_or_its_tag(doc: DataObjectCache) -> None:
    assert doc.find_path("//software") == doc.find_path("//ba%2Finit%2Ed")
    assert doc.find_path("//data_dictionary.name") == ["iso"]


def test_an_attribute_that_is_not_set_is_not_found(doc: DataObjectCache) -> None:
    with pytest.raises(NotFound):
        doc.find_path("//boot_entry.kernel_args")
    doc.find_path("//boot_entry")[1].kernel_args = "quiet"  # type: ignore[attr-defined]
    assert doc.find_path("//boot_entry.kernel_args") == ["quiet"]


@pytest.mark.parametrize(
    ("path", "possible"),
    [
        ("//boot_mods", True),
        ("//distro.name", True),
        ("//[@Distro].http_proxy", True),
        ("/volatile/dc/distro/target//[@Zpool]", True),
        ("//distro/name", False),
        ("//distro.colour", False),
        ("//boot_mods/target", False),
        ("//execution//arg", True),
        ("/distro", False),
        ("//mystery", False),
    ],
)
def test_whether_a_path_can_find_anything_is_known_from_the_grammar(
    path: str, possible: bool
) -> None:
    assert can_match(path) == possible


def test_an_attribute_ends_a_path(doc: DataObjectCache) -> None:
    assert doc.find_path("//boot_entry.title_suffix") == ["one", "two"]
    assert doc.find_path("//iso.label") == ["X Y"]


@pytest.mark.parametrize(
    "path",
    [
        "",
        "boot_mods",
        "//boot_mods[",
        "//[what]",
        "//[@NoSuchClass]",
        "//[#0]",
        "//[?0]",
        "//boot_mods.title/x",
        "//boot_mods._name",
        "//boot_mods.delete",
        "//boot_mods.nothing",
    ],
)
def test_a_malformed_path_is_refused(doc: DataObjectCache, path: str) -> None:
    with pytest.raises(PathError):
        doc.find_path(path)


def test_references_are_replaced_by_values(doc: DataObjectCache) -> None:
    assert doc.substitute("t=%{//boot_mods.title};") == "t=Live;"
    assert doc.substitute("%{//boot_entry.title_suffix}") == "one,two"
    assert (
        doc.substitute("%{//boot_entry.title_suffix}", separator=" ", quoted=True) == "'one' 'two'"
    )
    assert doc.substitute("%{//boot_mods.timeout}%{//iso.label}") == "5X Y"
    assert doc.substitute("100% {//iso}") == "100% {//iso}"
    with pytest.raises(NotFound):
        doc.substitute("%{//nothing.name}")


@given(st.text(min_size=1))
def test_an_objects_own_path_finds_it_whatever_its_name(name: str) -> None:
    doc = DataObjectCache()
    found = DataObjectDict(name)
    doc.volatile.insert_children([DataObjectDict("other"), found])
    assert [match for match in doc.find_path(object_path(found)) if match is found]
