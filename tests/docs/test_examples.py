"""The manifests in examples/ are valid as they are, and there is one for each kind of image."""

from functools import partial

import pytest

from dcd.construction.checkpoint_types import registered
from dcd.manifest.doc import checkpoints_of
from dcd.manifest.includes import CapturedFile
from dcd.planning.load import Loaded, load
from dcd.planning.readiness import examine
from tests.docs.conftest import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.xml"))


def loaded(name: str) -> Loaded:
    text = (ROOT / "examples" / name).read_text()
    check = partial(load, text, f"/examples/{name}", examine=partial(examine, allowed=()))
    missing = check().missing
    for wanted in missing:
        assert (ROOT / wanted.path.lstrip("/")).exists(), "the example comes with its files"
    files = {wanted.path: CapturedFile("0" * 64, 0o644, lambda: b"") for wanted in missing}
    return check(files=files)


@pytest.mark.parametrize("name", [path.name for path in EXAMPLES])
def test_an_example_is_valid(name: str) -> None:
    found = loaded(name)
    assert [str(each) for each in found.diagnostics if each.severity == "error"] == []
    assert found.canonical


def test_each_checkpoint_that_packs_an_image_is_in_an_example() -> None:
    packing = {
        each.checkpoint_class
        for each in registered()[0]
        if each.mod_path.split("/")[2] in ("rootfs", "cloud")
    }
    used = {
        spec.checkpoint_class for path in EXAMPLES for spec in checkpoints_of(loaded(path.name).doc)
    }
    assert packing >= {"RootfsArchive", "OCIImage", "GCEImage"}
    assert packing - used == set()
