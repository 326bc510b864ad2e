"""What is said about checkpoints: true to their code, complete, and committed as the reference."""

import importlib
import re
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

import pytest
from lxml import etree

from dcd.checkpoints.interface import Checkpoint, Context
from dcd.construction.checkpoint_types import (
    Argument,
    CheckpointType,
    described,
    registered,
    unavailable_originals,
)
from dcd.construction.constructors import construct, resolve
from dcd.construction.original_names import COUNTERPARTS
from dcd.manifest.doc import checkpoints_of
from dcd.manifest.schema import RNG
from dcd.planning.checkpoint_reference import _example, checkpoints_text
from dcd.planning.load import Settings, load
from dcd.planning.reference import CHECKPOINTS, GRAMMAR
from statemachine.events import InputFile
from store.host.tools import ELSEWHERE, TOOLS

SENTENCE = re.compile(r"[A-Z`].*\w.* .*\w.* .*\.")
"""From a capital letter, or a literal, to a full stop; at least three words."""


@dataclass(frozen=True)
class Above(Checkpoint):
    """Do something."""

    one: str
    """What it is, in a
    long sentence."""

    two: int = 2
    """Replaced below."""

    def execute(self, context: Context) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class Below(Above):
    """Do something else."""

    two: int = 3
    """It stands for another."""

    three: list[str] = field(default_factory=lambda: ["a", "b"])


def found(name: str, *allowed: str) -> CheckpointType:
    return next(each for each in registered(allowed)[0] if each.checkpoint_class == name)


def test_each_argument_is_told_as_a_manifest_writes_it(checkpoints: str) -> None:
    options = found("Options", checkpoints)
    assert options.mod_path == "sample_checkpoints"
    by_name = {argument.name: argument for argument in options.arguments}
    assert by_name["command"] == Argument("command", "text", True, None, (), False)
    assert by_name["verbose"].default == "false"
    assert by_name["kind"].choices == ("fast", "small")
    assert by_name["kind"].default == "fast"
    assert by_name["places"] == Argument(
        "places", "a list of values, each a path", False, None, (), True
    )
    assert by_name["memory_mb"].type == "a whole number"
    assert "name" not in by_name


def test_arguments_of_any_name_are_told_as_such(checkpoints: str) -> None:
    assert [argument.name for argument in found("Anything", checkpoints).arguments] == ["*"]


def test_a_factory_is_described_by_its_own_signature_and_the_classs_documentation(
    checkpoints: str,
) -> None:
    made = found("made", checkpoints)
    assert [(each.name, each.default) for each in made.arguments] == [("level", "1")]
    assert made.documentation == "Does nothing."


def test_only_what_a_manifest_may_name_is_listed(checkpoints: str) -> None:
    types, problems = registered([checkpoints])
    assert problems == []
    for each in types:
        assert described(resolve(each.mod_path, each.checkpoint_class, [checkpoints])) == each
    names = {each.checkpoint_class for each in types if each.mod_path == "sample_checkpoints"}
    assert names == {"Transfer", "Options", "Anything", "made", "broken"}
    assert registered()[0] == [each for each in types if each.mod_path != "sample_checkpoints"]


def test_a_module_that_cannot_be_imported_is_reported_and_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "sample_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "good.py").write_text(
        "from dcd.checkpoints.interface import Checkpoint\n"
        "class Good(Checkpoint):\n    def execute(self, context): pass\n"
    )
    (package / "bad.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    types, problems = registered(["sample_package.*", "sample_absent"])
    assert any(each.checkpoint_class == "Good" for each in types)
    assert len(problems) == 2
    assert "ZeroDivisionError" in problems[1]
    assert "no module 'sample_absent'" in problems[0]


def test_names_of_the_original_are_told_with_what_they_lead_to() -> None:
    types, _ = registered()
    assert "solaris_install/transfer/cpio:TransferCPIO" in found("TransferCPIO").originals
    told = [name for each in types for name in each.originals] + unavailable_originals(types)
    assert len(told) == len(set(told)) == len(COUNTERPARTS)


@pytest.mark.parametrize("each", registered()[0], ids=lambda each: each.checkpoint_class)
def test_each_checkpoint_of_the_project_documents_itself(each: CheckpointType) -> None:
    assert each.description
    assert each.documentation
    assert set(each.tools) <= {*TOOLS, *ELSEWHERE}  # so that a remedy can be told


@pytest.mark.parametrize(
    ("each", "argument"),
    [(each, argument) for each in registered()[0] for argument in each.arguments],
    ids=lambda value: getattr(value, "checkpoint_class", None) or value.name,
)
def test_each_argument_has_a_description_that_the_reference_and_editors_show(
    each: CheckpointType, argument: Argument
) -> None:
    assert SENTENCE.fullmatch(argument.meaning), f"{argument.name}: {argument.meaning!r}"
    section = CHECKPOINTS.read_text().partition(f"`{each.mod_path}` · ")[2].partition("\n## ")[0]
    (row,) = re.findall(rf"^\| `{argument.name}` \|.*$", section, re.MULTILINE)
    assert row.endswith(f"| {argument.meaning} |")
    grammar = etree.parse(GRAMMAR)
    text = f"{each.checkpoint_class} of {each.mod_path}: {argument.meaning}"
    for tag in ("arg", "arglist") if argument.listing else ("arg",):
        (value,) = grammar.xpath(
            "//r:element[@name=$tag]/r:attribute[@name='name']//r:value[.=$name]",
            tag=tag,
            name=argument.name,
            namespaces={"r": RNG},
        )
        following = takewhile(lambda one: one.tag.endswith("}documentation"), value.itersiblings())
        assert text in [one.text for one in following]


def test_the_string_below_a_field_is_its_meaning_also_of_an_inherited_one() -> None:
    made = described(Below)
    assert {each.name: each.meaning for each in made.arguments} == {
        "one": "What it is, in a long sentence.",
        "two": "It stands for another.",
        "three": "",
    }
    assert made.documentation == "Do something else."


def test_a_field_with_a_default_factory_is_optional_and_has_what_that_makes() -> None:
    (three,) = [each for each in described(Below).arguments if each.name == "three"]
    assert (three.required, three.default, three.listing) == (False, "a b", True)


def test_a_constructor_of_its_own_gives_arguments_without_descriptions(checkpoints: str) -> None:
    options = found("Options", checkpoints)
    assert options.arguments
    assert {argument.meaning for argument in options.arguments} == {""}
    made = construct(
        "sample_checkpoints", "Options", "o", ["run"], {"verbose": "true"}, [checkpoints]
    )
    assert (made.name, made.values["command"], made.values["verbose"]) == ("o", "run", True)


@pytest.mark.parametrize("each", registered()[0], ids=lambda each: each.checkpoint_class)
def test_the_example_in_the_reference_is_one_that_a_manifest_may_have(each: CheckpointType) -> None:
    example = "\n".join(_example(each))
    name = re.search('name="(.*?)"', example)[1]
    text = f'<dc><distro name="d"><execution>{example}</execution></distro></dc>'
    sent = {"/FILE": InputFile("/FILE", "0" * 64)}
    loaded = load(text, "/m.xml", files=sent, settings=Settings())
    spec, *_ = checkpoints_of(loaded.doc)
    made = construct(spec.mod_path, spec.checkpoint_class, name, (), spec.kwargs, [])
    assert type(made).__name__ == each.checkpoint_class


def test_the_reference_is_current() -> None:
    assert CHECKPOINTS.read_text() == checkpoints_text(), "run: python -m dcd.planning.reference"


def test_an_argument_that_hides_a_method_is_refused_where_its_class_is_defined() -> None:
    with pytest.raises(TypeError, match="the argument 'check' hides"):

        class Hiding(Checkpoint):
            check: str = ""  # type: ignore[assignment]
