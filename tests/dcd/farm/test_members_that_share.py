"""Members of a farm with a registry: a build that moves finds its layers and its captured files there."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from dcd.farm.shared_layers import key_of_tag
from store.eventlog.postgresql.members import members
from tests.dcd.farm.registries import RunningRegistry, registry
from tests.dcd.farm.test_members import LOST_SECONDS, Farm, Network, tracebacks
from tests.postgresql import Cluster

pytestmark = [pytest.mark.faults, pytest.mark.root, pytest.mark.daemon]

MANIFEST = """<dc><distro name="x"><execution>
<checkpoint name="first" mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript">
<args>sleep 1.5; echo made first; echo {0} > $PKG_IMAGE_PATH/first</args></checkpoint>
<checkpoint name="second" mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript">
<kwargs><arg name="script">script</arg></kwargs></checkpoint></execution></distro></dc>"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Farm, RunningRegistry]]:
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("DCD_SECRET_LAYERS", "me:word")
    cluster, network, made = Cluster(), Network(), []
    try:
        with registry(tmp_path_factory.mktemp("registry")) as running:
            more = f'registry = "{running.url}"\nregistry_login = "DCD_SECRET_LAYERS"\n'
            made.append(Farm(cluster, network, tmp_path_factory.mktemp("farm"), more))
            yield made[0], running
    finally:
        for member in made[0].members.values() if made else ():
            with suppress(ProcessLookupError):
                member.kill()
        cluster.remove()
        network.remove()
        monkeypatch.undo()


def submit(farm: Farm, directory: Path, script: str, through: str = "a") -> str:
    (directory / "script").write_text(f"#!/bin/sh\n{script}\n")
    (directory / "m.xml").write_text(MANIFEST.format(script))
    return farm.members[through].submit(directory / "m.xml")


def test_a_build_of_a_killed_member_goes_on_elsewhere_with_its_layers_and_files(
    shared: tuple[Farm, RunningRegistry], tmp_path: Path
) -> None:
    farm, running = shared
    farm.until(lambda: min(each.unbroken_seconds for each in members(farm.dsn)) > LOST_SECONDS)
    build = submit(farm, tmp_path, "sleep 5")
    host = farm.owner(build)
    farm.until(lambda: farm.kinds(build).count("CheckpointStarted") == 2)
    farm.until(lambda: any(key_of_tag(tag) for tag in running.tags()))
    assert any(tag.startswith("inputs-") for tag in running.tags())
    farm.members[host].kill()
    farm.until(lambda: farm.state(build) == "completed")
    assert farm.causes(build) == ["host-lost"]
    kinds = farm.kinds(build)
    assert kinds.count("CheckpointCompleted") == 2, "the first checkpoint did not run again"
    assert "BuildRewound" not in kinds
    assert "layer came from the registry" in farm.other(host).log.read_text()
    assert "made first" in farm.other(host).ctl("logs", build, "first")
    farm.members[host].start()


def test_people_find_logs_and_artifacts_on_every_member_until_the_build_is_removed(
    shared: tuple[Farm, RunningRegistry], tmp_path: Path
) -> None:
    farm, running = shared
    build = submit(farm, tmp_path, "echo made second")
    farm.until(lambda: farm.state(build) == "completed")
    ((host,),) = farm.rows("SELECT host FROM placements WHERE build = %s", build)
    here, there = farm.members[host], farm.other(host)
    artifacts = here.json("artifacts", build)

    def sent() -> list[str]:
        return [tag for tag in running.tags() if tag.startswith(f"build.{build}.")]

    farm.until(lambda: len(sent()) == 2 + len(artifacts))
    assert "made second" in there.ctl("logs", build, "second")
    there.ctl("download", build, "-o", str(tmp_path / "got"))
    kept = here.state_dir / "artifacts" / build
    for artifact in artifacts:
        name = artifact["name"]
        assert (tmp_path / "got" / name).read_bytes() == (kept / name).read_bytes()
    sums = next(each for each in artifacts if each["name"] == "SHA256SUMS")
    blob = next(path for path in running.blobs() if path.parent.name == sums["sha256"])
    blob.write_bytes(blob.read_bytes()[::-1])
    told = there.run("download", build, "-o", tmp_path / "bad")
    assert told.returncode != 0
    assert "a response breaks off" in there.log.read_text()
    assert "SHA256SUMS of build" in told.stderr
    assert f"is on {host}" in told.stderr
    (check,) = (
        each
        for each in there.json("doctor", status=None)["checks"]
        if each["name"] == "shared layers"
    )
    assert "does not send the blob" in check["value"]
    assert not (tmp_path / "bad" / "SHA256SUMS").exists()
    assert tracebacks(there) == []
    there.ctl("rm", build)
    there.ctl("gc")
    assert sent() == []


def test_without_the_registry_a_build_with_captured_files_stays(
    shared: tuple[Farm, RunningRegistry], tmp_path: Path
) -> None:
    farm, running = shared
    running.kill()
    build = submit(farm, tmp_path, "exit 0", through="b")
    farm.until(lambda: farm.state(build) == "completed")
    assert farm.rows("SELECT host FROM placements WHERE build = %s", build) == [("b",)]
    assert farm.members["b"].json("doctor", status=None)["checks"]
    for command, there in (
        (("logs", build, "first"), f"ssh b dcctl logs {build} first --attempt 1"),
        (("download", build, "-o", tmp_path / "got"), f"ssh b dcctl download {build}"),
    ):
        told = farm.members["a"].run(*command)
        assert told.returncode == 7
        assert "is on b" in told.stderr
        assert there in told.stderr
    running.start()
