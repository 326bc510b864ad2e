"""Reading and planning take steps in proportion to the manifest, whose size is limited."""

import sys
from collections.abc import Callable
from dataclasses import replace
from types import FrameType

import pytest

from dcd.manifest.diagnostics import ManifestError
from dcd.manifest.doc import DataObjectCache, software_for
from dcd.manifest.includes import CapturedFile
from dcd.manifest.objects import Software
from dcd.manifest.source import LIMITS, Limits
from dcd.planning.load import Settings, load
from dcd.planning.plan import make_plan
from dcd.planning.readiness import constructed

pytestmark = pytest.mark.slow

CHECKPOINT = (
    '<checkpoint name="c{0}" mod_path="dcd/checkpoints/custom_script" '
    'checkpoint_class="CustomScript"><args>true</args><kwargs><arg name="chroot">true</arg></kwargs>'
    "</checkpoint>"
)


def manifest(checkpoints: int, more: str = "") -> str:
    steps = "".join(CHECKPOINT.format(number) for number in range(checkpoints))
    return f'<dc>{more}<distro name="many"><execution>{steps}</execution></distro></dc>'


def software(count: int) -> str:
    steps = "".join(
        f'<checkpoint name="c{n}" mod_path="dcd/checkpoints/transfer/deb"'
        ' checkpoint_class="TransferDEB"/>'
        for n in range(count)
    )
    named = "".join(
        f'<software name="c{n}" type="DEB"><software_data action="install"><name>p</name>'
        "</software_data></software>"
        for n in range(count)
    )
    return f'<dc><distro name="many">{named}<execution>{steps}</execution></distro></dc>'


def declared(count: int) -> str:
    return manifest(1, "".join(f'<parameter name="p{n}" default="x"/>' for n in range(count * 40)))


def misnamed(count: int) -> str:
    return manifest(count).replace("CustomScript", "CustomScrip")


def lines_run(work: Callable[[], None]) -> int:
    """How many lines of Python it runs, each turn of a loop counted, whatever else the machine does."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Callable[..., object]:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("shape", [manifest, software, declared, misnamed])
def test_planning_takes_steps_in_proportion_to_the_manifest(shape: Callable[[int], str]) -> None:
    def plan(count: int) -> None:
        try:
            loaded = load(shape(count), "/m.xml")
        except ManifestError:
            return
        if shape is manifest:
            make_plan(loaded, constructed(loaded.doc, ()), ())
        else:
            for number in range(count):
                software_for(loaded.doc, f"c{number}")

    plan(10)  # what is imported and compiled once
    # In proportion: five times as many. By the square: 25 times.
    assert lines_run(lambda: plan(100)) < 8 * lines_run(lambda: plan(20))


def test_a_manifest_with_too_many_checkpoints_is_refused_at_the_first_that_is_one_too_many() -> (
    None
):
    with pytest.raises(ManifestError) as refused:
        load(manifest(LIMITS.max_checkpoints + 2).replace("<checkpoint", "\n<checkpoint"), "/m.xml")
    (found,) = refused.value.diagnostics
    assert found.message == "the manifest has 502 checkpoints; at most 500 are planned"
    assert found.line == 502
    assert "checkpoints_limit" in found.suggestion


def test_the_limits_are_settings() -> None:
    settings = Settings(limits=replace(LIMITS, max_checkpoints=3, max_elements=50))
    assert load(manifest(3), "/m.xml", settings=settings).doc.volatile.children
    with pytest.raises(ManifestError, match="4 checkpoints; at most 3"):
        load(manifest(4), "/m.xml", settings=settings)
    with pytest.raises(ManifestError, match="more than 50 elements") as refused:
        load(manifest(20), "/m.xml", settings=settings)
    assert "elements_limit" in refused.value.diagnostics[0].suggestion


def test_elements_of_included_files_count() -> None:
    part = CapturedFile("0" * 64, read=lambda: b"<dc>" + b"<a/>" * 30 + b"</dc>")
    include = '<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="{}.xml"/>'
    text = f"<dc>{include.format(1)}{include.format(2)}</dc>"
    with pytest.raises(ManifestError, match="more than 50 elements"):
        load(
            text,
            "/m.xml",
            files={"/1.xml": part, "/2.xml": part},
            settings=Settings(limits=Limits(max_elements=50)),
        )


def test_what_is_found_by_name_follows_every_change_of_the_tree() -> None:
    doc = DataObjectCache()
    first, second = Software(name="a"), Software(name="b")
    assert software_for(doc, "a") is None
    doc.volatile.insert_children([first, second])
    assert software_for(doc, "a") is first
    first.name = "c"
    assert software_for(doc, "a") is None
    assert software_for(doc, "c") is first
    doc.volatile.delete_children(second)
    assert software_for(doc, "b") is None
    assert doc.get_descendants(class_type=Software) == [first]
