"""From the names and texts of a manifest to a checkpoint."""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcd.checkpoints.interface import Checkpoint
from dcd.construction.arguments import BadArguments, match_arguments
from dcd.construction.constructors import (
    Unresolved,
    code_digest,
    construct,
    factories,
    learn_imports,
    own_modules,
    resolve,
)
from dcd.construction.original_names import COUNTERPARTS
from dcd.manifest.diagnostics import ManifestError


def unresolved(*names: str, allowed: tuple[str, ...] = ()) -> Unresolved:
    with pytest.raises(Unresolved) as caught:
        resolve(*names, allowed=allowed)
    return caught.value


def test_a_module_is_named_with_slashes_or_dots(checkpoints: str) -> None:
    found = resolve(checkpoints, "Options", [checkpoints])
    assert found is sys.modules[checkpoints].Options
    assert own_modules()
    dotted = own_modules()[0]
    for name, factory in factories(importlib.import_module(dotted)).items():
        assert resolve(dotted, name) is factory
        assert resolve(dotted.replace(".", "/"), name) is factory


def test_the_projects_checkpoints_need_no_extra() -> None:
    absent = [
        "debian",
        "debsbom",
        "cyclonedx",
        "license_expression",
        "packageurl",
        "securesystemslib",
    ]
    code = f"import sys; sys.modules |= dict.fromkeys({absent}); " + (
        "from dcd.construction.constructors import checkpoint_modules; print(len(checkpoint_modules()))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert int(found.stdout or 0) > 10, found.stderr


@pytest.mark.parametrize("module", ["os", "subprocess", "dcd.main", "dcd", "dcd.checkpointsx.y"])
def test_other_modules_are_refused_without_being_imported(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(name: str, *rest: object) -> None:
        assert name != module

    monkeypatch.setattr("dcd.construction.constructors.import_module", never)
    failure = unresolved(module, "system")
    assert failure.message.startswith(f"module {module!r} may not be used")
    assert failure.attribute == "mod_path"


def test_a_configured_module_is_allowed_exactly_and_a_package_with_a_star(checkpoints: str) -> None:
    assert resolve(checkpoints, "Transfer", [checkpoints])
    assert resolve(checkpoints, "Transfer", [f"{checkpoints}.*"])
    assert "may not be used" in unresolved(checkpoints, "Transfer", allowed=("sample",)).message
    assert "may not be used" in unresolved(checkpoints, "Transfer", allowed=("sample.*",)).message


@pytest.mark.parametrize("mod_path", ["../x", "dcd/checkpoints/../main", "a b", "/", "x;y"])
def test_what_is_no_name_of_a_module_is_refused(mod_path: str) -> None:
    assert "does not name a module" in unresolved(mod_path, "X").message


@pytest.mark.parametrize(
    "name",
    ["system", "os", "run", "Unfinished", "_Hidden", "Checkpoint", "Path", "nothing", "__name__"],
)
def test_only_checkpoints_that_the_module_itself_defines_can_be_named(
    checkpoints: str, name: str
) -> None:
    failure = unresolved(checkpoints, name, allowed=(checkpoints,))
    assert failure.attribute == "checkpoint_class"
    assert failure.why == "It has Anything, Options, Transfer, broken and made."


def test_a_mistyped_class_or_module_is_recognised(checkpoints: str) -> None:
    failure = unresolved(checkpoints, "Transfr", allowed=(checkpoints,))
    assert (
        failure.message
        == "sample_checkpoints has no checkpoint 'Transfr'; did you mean 'Transfer'?"
    )
    assert failure.suggestion == 'checkpoint_class="Transfer"'
    failure = unresolved("dcd/checkpoints/media/isos", "X")
    assert failure.message.endswith("did you mean 'dcd/checkpoints/media/iso'?")


@pytest.mark.parametrize("module", ["media/create_iso", "custom_script"])
def test_a_class_in_another_module_names_that_module(module: str) -> None:
    failure = unresolved(f"dcd/checkpoints/{module}", "CreateIso")
    assert failure.suggestion == 'mod_path="dcd/checkpoints/media/iso"'


def test_a_module_like_no_other_gets_no_guess() -> None:
    failure = unresolved("dcd/checkpoints/no/such", "X")
    assert failure.message == "there is no module 'dcd/checkpoints/no/such'"
    assert failure.suggestion == "dcctl checkpoint-types lists all"


def test_names_of_the_original_lead_to_their_counterparts() -> None:
    for (module, name), (ours, our_name) in COUNTERPARTS.items():
        assert resolve(module.replace(".", "/"), name) is resolve(ours, our_name)


@pytest.mark.parametrize(
    ("module", "name", "message"),
    [
        (
            "solaris_install/target/instantiation",
            "TargetInstantiation",
            "dcd has no checkpoint TargetInstantiation of solaris_install/target/instantiation",
        ),
        (
            "solaris_install/boot/boot",
            "SystemBootMenu",
            "dcd has no checkpoint SystemBootMenu of solaris_install/boot/boot",
        ),
    ],
)
def test_a_name_of_the_original_without_implementation_names_no_package_to_install(
    module: str, name: str, message: str
) -> None:
    failure = unresolved(module, name)
    assert failure.known
    assert failure.message == message
    assert "no implementation" in failure.why
    assert "install" not in failure.suggestion
    assert "--pause-before" in failure.suggestion


def test_a_misspelt_name_of_the_original_is_corrected() -> None:
    failure = unresolved("solaris_install/boot/boot", "TextISOImageBotMenu")
    assert not failure.known
    assert failure.suggestion == 'checkpoint_class="TextISOImageBootMenu"'
    failure = unresolved("solaris_install/transfer/cpioo", "TransferCPIO")
    assert failure.suggestion == 'mod_path="solaris_install/transfer/cpio"'


def test_an_installed_plug_in_is_allowed(checkpoints: str, tmp_path: Path) -> None:
    metadata = tmp_path / "modules/sample-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: sample\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(
        f"[dcd.checkpoints]\nsample = {checkpoints}:Transfer\n"
    )
    assert resolve(checkpoints, "Transfer").__name__ == "Transfer"


def options(module: str, *args: str, **kwargs: Any) -> dict[str, Any]:
    made = construct(module, "Options", "x", args, kwargs, [module])
    return made.values  # type: ignore[attr-defined,no-any-return]


def test_arguments_have_the_types_of_their_annotations(checkpoints: str) -> None:
    values = options(
        checkpoints,
        "echo 'a b' > c",
        verbose="false",
        level="9",
        ratio="0.5",
        method="lzma",
        kind="small",
        places=["/a", "/b c"],
        sizes="1 2",
        memory_mb="1024",
        script="go.sh",
    )
    assert values == {
        "command": "echo 'a b' > c",
        "verbose": False,
        "level": 9,
        "ratio": 0.5,
        "method": "lzma",
        "kind": sys.modules[checkpoints].Kind.SMALL,
        "places": [Path("/a"), Path("/b c")],
        "sizes": (1, 2),
        "memory_mb": 1024,
        "script": "go.sh",
    }


def problems(module: str, *args: str, **kwargs: Any) -> list[tuple[str | None, str]]:
    factory = resolve(module, "Options", [module])
    with pytest.raises(BadArguments) as caught:
        match_arguments(factory, args, kwargs)
    return [(found.argument, found.message) for found in caught.value.problems]


def test_everything_wrong_with_arguments_is_said_at_once(checkpoints: str) -> None:
    assert problems(
        checkpoints, levle="9", verbose="FALSE", method="lzm", places="'x", level=["1"], ratio="x"
    ) == [
        ("levle", "there is no argument 'levle'; did you mean 'level'?"),
        (None, "argument 'command' is missing: text"),
        (
            "verbose",
            "argument 'verbose' is 'FALSE', not true or false; did you mean 'false'?",
        ),
        ("method", "argument 'method' is 'lzm', not gzip or lzma; did you mean 'lzma'?"),
        ("places", "argument 'places' is \"'x\", not a list of words with balanced quotes"),
        ("level", "argument 'level' is ['1'], not a single value, a whole number"),
        ("ratio", "argument 'ratio' is 'x', not a number"),
    ]


def test_an_argument_is_given_once(checkpoints: str) -> None:
    assert problems(checkpoints, "one", command="two") == [
        ("command", "argument 'command' is given by <args> already")
    ]


def test_positional_arguments_need_a_place(checkpoints: str) -> None:
    transfer = resolve(checkpoints, "Transfer", [checkpoints])
    with pytest.raises(BadArguments, match="it takes no positional argument"):
        match_arguments(transfer, ["x"], {})


def test_open_keywords_take_any_argument(checkpoints: str) -> None:
    made = construct(checkpoints, "Anything", "x", [], {"a": "1"}, [checkpoints])
    assert made.values == {"a": "1"}  # type: ignore[attr-defined]


def test_a_function_may_make_the_checkpoint(checkpoints: str) -> None:
    made = construct(checkpoints, "made", "x", [], {"level": "3"}, [checkpoints])
    assert made.values["level"] == 3  # type: ignore[attr-defined]
    with pytest.raises(ManifestError, match="makes no checkpoint"):
        construct(checkpoints, "broken", "x", [], {}, [checkpoints])


def test_a_failed_construction_names_the_checkpoint(checkpoints: str) -> None:
    with pytest.raises(ManifestError, match=r"^ba-arch: argument 'command' is missing"):
        construct(checkpoints, "Options", "ba-arch", [], {}, [checkpoints])
    with pytest.raises(ManifestError, match=r"^ba-arch: module 'os' may not be used"):
        construct("os", "system", "ba-arch", [], {})


@given(st.lists(st.text(), max_size=2), st.dictionaries(st.text(), st.text() | st.lists(st.text())))
def test_no_argument_whatsoever_breaks_the_matching(
    args: list[str], kwargs: dict[str, str | list[str]]
) -> None:
    class Any(Checkpoint):
        def __init__(self, name: str, a: int, *, b: list[bool] | None = None) -> None:
            super().__init__(name)

        def execute(self, context: object) -> None:
            pass

    try:
        match_arguments(Any, args, kwargs)
    except BadArguments as bad:
        assert bad.problems


def package(where: Path, **modules: str) -> None:
    where.mkdir(exist_ok=True)
    (where / "__init__.py").touch()
    for name, code in modules.items():
        (where / f"{name}.py").write_text(code)


def test_the_codes_digest_covers_the_module_and_what_it_imports_of_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = (
        "from dcd.checkpoints.interface import Checkpoint\nfrom . import aside\n"
        "from outer_package import far\n"
        "class C(Checkpoint):\n    def execute(self, context): ...\n"
    )
    package(tmp_path / "outer_package", far="")
    package(
        tmp_path / "digested_package",
        first=checkpoint,
        aside="from digested_package.deep import x",
        deep="x = 1",
        unrelated="",
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    factory = resolve("digested_package/first", "C", ["digested_package.*"])
    before = code_digest(factory)
    assert code_digest(factory) == before
    for outside in ("outer_package/far.py", "digested_package/unrelated.py"):
        (tmp_path / outside).write_text("y = 2")
        assert code_digest(factory) == before
    seen = {before}
    for inside in ("first", "aside", "deep"):
        path = tmp_path / f"digested_package/{inside}.py"
        path.write_text(path.read_text() + "\n")
        seen.add(code_digest(factory))
    assert len(seen) == 4
    for name in [name for name in sys.modules if name.startswith(("digested_", "outer_"))]:
        del sys.modules[name]


def test_learned_modules_are_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    factory = resolve("dcd/checkpoints/custom_script", "CustomScript")
    before = code_digest(factory)
    learn_imports()
    monkeypatch.delattr("ast.parse")
    for module in own_modules():
        for each in factories(importlib.import_module(module)).values():
            assert code_digest(each)
    assert code_digest(factory) == before
