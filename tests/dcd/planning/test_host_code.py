"""Which checkpoints run code on the host: found once, when they are constructed, and recorded in the plan."""

import importlib
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from dcd.construction.constructors import runs_host_code
from dcd.manifest.diagnostics import ManifestError
from dcd.planner.rules import Rules
from dcd.planner.tasks import CHECK, PLAN, Manifest
from statemachine.plan import Plan, PlannedCheckpoint

COUNTING = """
from pathlib import Path

from dcd.checkpoints.interface import Checkpoint

made = []


class Counted(Checkpoint):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        made.append(name)

    def execute(self, context):
        pass
"""


def manifest(mod_path: str, checkpoint_class: str, given: str, *modules: str) -> Manifest:
    step = f'<checkpoint name="x" mod_path="{mod_path}" checkpoint_class="{checkpoint_class}">'
    text = f'<dc><distro name="d"><execution>{step}{given}</checkpoint></execution></distro></dc>'
    return Manifest(text, "/m.xml", Rules(modules=modules), host_code=True)


def planned(asking: Manifest) -> PlannedCheckpoint:
    (checkpoint,) = PLAN.work(asking, lambda: None).plan.checkpoints
    return checkpoint


def keywords(**values: str) -> str:
    given = "".join(f'<arg name="{name}">{value}</arg>' for name, value in values.items())
    return f"<kwargs>{given}</kwargs>"


SCRIPT = "dcd/checkpoints/custom_script"
TRUE = "<args>true</args>"


@pytest.mark.parametrize(
    ("mod_path", "checkpoint_class", "given"),
    [
        (SCRIPT, "CustomScript", TRUE),
        ("dcd.checkpoints.custom_script.py", "CustomScript", TRUE),
        (SCRIPT, "CustomScript", keywords(command="true", chroot="false")),
        ("solaris_install/distro_const/checkpoints/custom_script", "CustomScript", TRUE),
        ("sample_checkpoints", "Transfer", ""),
    ],
)
def test_scripts_and_foreign_modules_need_the_right_to_run_host_code(
    mod_path: str, checkpoint_class: str, given: str, checkpoints: str
) -> None:
    assert planned(manifest(mod_path, checkpoint_class, given, checkpoints)).host_code


@pytest.mark.parametrize(
    ("mod_path", "checkpoint_class", "given"),
    [
        ("dcd/checkpoints/image/installer", "DebianInstaller", ""),
        (SCRIPT, "CustomScript", TRUE + keywords(chroot="true")),
        (SCRIPT, "CustomScript", keywords(text="true", chroot="true")),
    ],
)
def test_what_runs_inside_the_image_needs_no_more_than_packages_do(
    mod_path: str, checkpoint_class: str, given: str
) -> None:
    asking = manifest(mod_path, checkpoint_class, given)
    first = f'<checkpoint name="first" mod_path="{SCRIPT}" checkpoint_class="CustomScript">'
    text = asking.text.replace(
        "<execution>", f"<execution>{first}<args>touch {{PKG_IMAGE_PATH}}/x</args></checkpoint>"
    )
    before, inside = PLAN.work(replace(asking, text=text), lambda: None).plan.checkpoints
    assert (before.host_code, inside.host_code) == (True, False)


@pytest.mark.parametrize("module", ["dcd/checkpoints_of_others", "dcd/checkpoints", "acme/dcd"])
def test_a_name_that_only_resembles_the_projects_is_somebody_elses(module: str) -> None:
    assert runs_host_code(module, "X", None)


def test_a_checkpoint_is_constructed_once_for_a_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sample_counting.py").write_text(COUNTING)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    counting = importlib.import_module("sample_counting")
    planned(manifest("sample_counting", "Counted", "", "sample_counting"))
    assert counting.made == ["x"]


def test_a_function_that_makes_no_checkpoint_is_an_error_of_the_manifest(checkpoints: str) -> None:
    asking = manifest(checkpoints, "broken", "", checkpoints)
    for task in (CHECK, PLAN):
        with pytest.raises(ManifestError) as refused:
            task.work(asking, lambda: None)  # type: ignore[attr-defined]
        (found,) = refused.value.diagnostics
        assert found.message == "x: broken of sample_checkpoints makes no checkpoint"
        assert found.line == 1


def test_a_plan_of_version_0_1_0_does_not_say_it() -> None:
    old = b'{"checkpoints":[{"name":"x","description":"","mod_path":"m","checkpoint_class":"C","key":"k",'
    old += b'"ingredients":[]}]}'
    (checkpoint,) = msgspec.json.decode(old, type=Plan).checkpoints
    assert not checkpoint.host_code
