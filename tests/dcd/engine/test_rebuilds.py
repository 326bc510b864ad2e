"""A completed build is built again without network; the verdict is GOOD for the same bytes, else BAD."""

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from dcd.signing.new import new_key

pytestmark = [pytest.mark.root, pytest.mark.daemon]

BAD = 26

SCRIPT = """<dc><distro name="small" source_date_epoch="1700000000"><execution>
<checkpoint name="tree" mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript">
<args>echo a &gt; {PKG_IMAGE_PATH}/file</args></checkpoint>
<checkpoint name="pack" mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript">
<args>COMMAND</args><kwargs><arglist name="deliver"><argitem>{MEDIA_DIR}/root.tar</argitem></arglist>
MORE</kwargs></checkpoint></execution></distro></dc>"""


def manifest(directory: Path, command: str, more: str = "") -> Path:
    path = directory / "small.xml"
    path.write_text(SCRIPT.replace("COMMAND", command).replace("MORE", more))
    return path


@pytest.fixture
def signing(cold_daemon: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    key = tmp_path_factory.mktemp("keys") / "key.pem"
    new_key(key)
    cold_daemon.settings |= {
        "signing_key": str(key),
        "builder_id": "https://rebuilder.example.org/",
        "host_code": ["root"],
    }
    yield cold_daemon.start()
    assert cold_daemon.stop() == 0


def test_same_bytes_are_good_and_the_rebuilder_signs_that(signing: Any, tmp_path: Path) -> None:
    build = signing.submit(
        manifest(tmp_path, "cat {PKG_IMAGE_PATH}/file &gt; {MEDIA_DIR}/root.tar")
    )
    signing.wait(build, "completed")
    found = signing.json("rebuild", build)
    assert (found["good"], found["build"], found["checkpoint"]) == (True, build, "")
    assert [each["name"] for each in found["products"]] == ["root.tar"]
    artifacts = {each["name"]: each for each in signing.json("artifacts", found["rebuild"])}
    envelope = json.loads(Path(artifacts["small.rebuild.dsse.json"]["path"]).read_text())
    statement = json.loads(b64decode(envelope["payload"]))
    assert statement["predicateType"] == "https://slsa.dev/verification_summary/v1"
    assert statement["predicate"]["verificationResult"] == "PASSED"
    assert statement["predicate"]["verifier"] == {"id": "https://rebuilder.example.org/"}
    first = {each["name"]: each["sha256"] for each in signing.json("artifacts", build)}
    assert statement["subject"] == [{"name": "root.tar", "digest": {"sha256": first["root.tar"]}}]
    (said,) = statement["predicate"]["inputAttestations"]
    assert said["digest"]["sha256"] == first["small.provenance.json"]
    events = signing.events(found["rebuild"])
    assert "CheckpointReused" not in {event["type"] for event in events}


def test_other_bytes_are_bad_with_the_first_checkpoint_that_differs(
    signing: Any, tmp_path: Path
) -> None:
    build = signing.submit(manifest(tmp_path, "date +%N &gt; {MEDIA_DIR}/root.tar"))
    signing.wait(build, "completed")
    found = signing.json("rebuild", build, status=BAD)
    assert (found["good"], found["checkpoint"]) == (False, "pack")
    (product,) = found["products"]
    assert product["sha256"] != product["expected_sha256"]
    names = {each["name"] for each in signing.json("artifacts", found["rebuild"])}
    assert not [name for name in names if "rebuild" in name]


def test_a_rebuild_has_no_network(signing: Any, tmp_path: Path) -> None:
    network = '<arg name="network">true</arg>'
    build = signing.submit(manifest(tmp_path, "true &gt; {MEDIA_DIR}/root.tar", network))
    signing.wait(build, "completed")
    result = signing.run("rebuild", build)
    assert result.returncode == 11
    assert "cannot be rebuilt without network" in result.stderr


def test_only_a_completed_build_is_rebuilt(signing: Any, tmp_path: Path) -> None:
    build = signing.submit(manifest(tmp_path, "false"))
    signing.wait(build, "failed")
    result = signing.run("rebuild", build)
    assert result.returncode == 6
    assert "it is failed" in result.stderr
