"""Workers of every layer back end work in their workspace, and see no other layer or workspace."""

import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from dcd.worker.messages import Completed
from dcd.worker.request import Grants
from store.layers.interface import LayerRecord
from tests.dcd.worker.conftest import bench_in
from tests.store.layers.conftest import BACK_ENDS, btrfs, xfs, zfs  # noqa: F401 - fixtures

pytestmark = [pytest.mark.root, pytest.mark.slow]

COMMAND = """
cat ROOT/pkg_image/made || true
echo once more >> ROOT/pkg_image/made
find LAYERS -name made
"""


RECORDS = """
cd WORKSPACE
for record in parent overlay-device sealed new layer/document.xml layer/layer.json scratch/new; do
    echo 4242 2>/dev/null > $record && echo wrote $record
    rm $record 2>/dev/null && echo removed $record
    ln -s /etc/passwd link 2>/dev/null && mv -T link $record 2>/dev/null && echo replaced $record
done
mv layer aside 2>/dev/null && echo moved the layer
echo made > ROOT/pkg_image/made
"""


@pytest.mark.parametrize("name", BACK_ENDS)
def test_what_the_layer_store_notes_of_a_workspace_cannot_be_written(
    name: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees, file_system = BACK_ENDS[name]
    directory = tmp_path
    if file_system:
        directory = request.getfixturevalue(file_system) / uuid.uuid4().hex
        directory.mkdir()
    with bench_in(directory, trees(), monkeypatch) as bench:
        attempt = bench.request("Runs", "", grants=Grants(hidden=(bench.directory / "layers",)))
        command = RECORDS.replace("WORKSPACE", str(attempt.workspace.directory))
        assert isinstance(bench.run(replace(attempt, args=(command,))), Completed)
        assert bench.output(attempt) == ""
        record = LayerRecord("1" * 64, None, "build", "probe", 1, 0.0)
        bench.store.commit(attempt.workspace, record)
        assert bench.store.file("1" * 64, "pkg_image/made").read_text() == "made\n"
        assert "distro" not in (bench.store.document("1" * 64) or "")
        bench.store.reconcile((), ())


@pytest.mark.parametrize("name", BACK_ENDS)
def test_a_worker_sees_its_own_workspace_alone(
    name: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees, file_system = BACK_ENDS[name]
    directory = tmp_path
    if file_system:
        directory = request.getfixturevalue(file_system) / uuid.uuid4().hex
        directory.mkdir()
    with bench_in(directory, trees(), monkeypatch) as bench:
        layers = bench.directory / "layers"
        other = bench.store.begin(None, "other")
        parent = None
        for key in ("1" * 64, "2" * 64):
            attempt = bench.request(
                "Runs",
                COMMAND.replace("LAYERS", str(layers)),
                parent=parent,
                grants=Grants(hidden=(layers,)),
            )
            assert isinstance(bench.run(attempt), Completed), bench.log(attempt).read_text()
            output = bench.output(attempt).splitlines()
            mine = (attempt.workspace.directory, attempt.workspace.root)
            seen = [Path(line) for line in output if line.startswith("/")]
            assert seen
            assert all(any(place in path.parents for place in mine) for path in seen), output
            assert output.count("once more") == (1 if parent else 0)
            bench.store.commit(
                attempt.workspace, LayerRecord(key, parent, "build", "probe", 1, 0.0)
            )
            parent = key
        assert bench.store.file(parent, "pkg_image/made").read_text() == "once more\n" * 2
        bench.store.discard(other)
        bench.store.reconcile((), ())
