"""A completed build is built again without network; the verdict is GOOD for the same bytes, else BAD."""

import hashlib
import io
import json
import tarfile
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from cli import client
from dcd.signing.new import new_key, shown_key
from tests.conftest import Daemon

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
    assert [(each["path"], each["kinds"]) for each in found["files"]] == [
        ("media/root.tar", ["content"])
    ]
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


@pytest.fixture
def exported(signing: Any, tmp_path: Path) -> tuple[str, Path]:
    """A build with an input, a password and a script, and its export."""
    (tmp_path / "motd").write_text("hello")
    script = '<arg name="script">pack.sh</arg>'
    (tmp_path / "pack.sh").write_text("cat $PWD/../pkg_image/file > $PWD/../media/root.tar")
    path = manifest(tmp_path, "x", script)
    secret = (
        '<configuration name="tree"><user name="u"><password>word</password></user></configuration>'
    )
    text = path.read_text().replace("<args>x</args>", "")
    path.write_text(text.replace("</distro>", f"{secret}</distro>"))
    build = signing.submit(path)
    assert signing.wait(build)["state"] == "completed"
    signing.ctl("export", build, "-o", tmp_path / "small.dcd")
    return build, tmp_path / "small.dcd"


@pytest.fixture
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Another server."""
    daemon = Daemon(tmp_path_factory.mktemp("elsewhere"))
    daemon.settings["host_code"] = ["root"]
    yield daemon.start()
    assert daemon.stop() == 0


def test_an_export_is_rebuilt_on_another_server(
    signing: Any, exported: tuple[str, Path], elsewhere: Any, tmp_path: Path
) -> None:
    build, file = exported
    key = Path(signing.settings["signing_key"])
    public = shown_key(key)
    (tmp_path / "public.pem").write_text(public.pem)
    found = elsewhere.json("rebuild", file, "--key", tmp_path / "public.pem")
    assert (found["good"], found["build"]) == (True, build)
    assert any(f"by the key {public.key_id}" in text for text in found["checked"])
    assert found["unchecked"] == []
    artifacts = {each["name"]: each for each in elsewhere.json("artifacts", found["rebuild"])}
    summary = json.loads(Path(artifacts["small.rebuild.json"]["path"]).read_text())
    (said,) = summary["predicate"]["inputAttestations"]
    assert said["annotations"] == {"signed_by": public.key_id}
    shown = elsewhere.run("rebuild", file)
    assert shown.returncode == 0, shown.stderr
    assert "checked no signature" in shown.stdout
    signing.ctl("export", build, "-o", tmp_path / "again.dcd")
    assert (tmp_path / "again.dcd").read_bytes() == file.read_bytes()
    with tarfile.open(file) as archive:
        text = b"".join(archive.extractfile(each).read() for each in archive)  # type: ignore[union-attr]
    assert b">word<" not in text
    assert b"$6$" in text


def test_an_export_with_other_bytes_is_bad_and_names_the_file(
    signing: Any, elsewhere: Any, tmp_path: Path
) -> None:
    build = signing.submit(manifest(tmp_path, "date +%N &gt; {MEDIA_DIR}/root.tar"))
    signing.wait(build, "completed")
    signing.ctl("export", build, "-o", tmp_path / "small.dcd")
    found = elsewhere.json("rebuild", tmp_path / "small.dcd", status=BAD)
    assert (found["good"], found["checkpoint"]) == (False, "pack")
    assert [each["path"] for each in found["files"]] == ["media/root.tar"]
    result = elsewhere.run("rebuild", tmp_path / "small.dcd")
    assert "BAD: build" in result.stdout
    assert "media/root.tar" in result.stdout


def test_an_altered_export_is_refused_and_nothing_is_sent(
    exported: tuple[str, Path], elsewhere: Any, tmp_path: Path
) -> None:
    _, file = exported
    whole = file.read_bytes()
    altered = tmp_path / "altered.dcd"
    with tarfile.open(file) as archive:
        places = [each.offset_data for each in archive if each.size]
    for place in places:
        content = bytearray(whole)
        content[place] ^= 1
        altered.write_bytes(content)
        result = elsewhere.run("rebuild", altered)
        assert result.returncode == 27, result.stderr
    altered.write_bytes(whole[: len(whole) // 2])
    assert elsewhere.run("rebuild", altered).returncode == 27
    altered.write_bytes(b"noise")
    assert elsewhere.run("rebuild", altered).returncode == 27
    assert elsewhere.json("list") == []


def test_an_export_is_held_against_its_provenance_and_its_key(
    exported: tuple[str, Path], elsewhere: Any, tmp_path: Path
) -> None:
    _, file = exported
    other = new_key(tmp_path / "other")
    (tmp_path / "other.pem").write_text(other.pem)
    result = elsewhere.run("rebuild", file, "--key", tmp_path / "other.pem")
    assert result.returncode == 22
    with tarfile.open(file) as archive:
        files = {each.name: archive.extractfile(each).read() for each in archive}  # type: ignore[union-attr]
    index = json.loads(files["export.json"])
    (script,) = index["inputs"]
    rebuild = index["rebuild"]
    plan = {"checkpoints": [*reversed(rebuild["plan"]["checkpoints"])]}
    for what, forged in (
        ("products", {"rebuild": {**rebuild, "products": {"root.tar": "0" * 64}}}),
        ("products", {"name": "root"}),
        ("files", {"inputs": [{**script, "path": "other.sh"}]}),
        ("files", {"inputs": [{**script, "mode": 0o777}]}),
        ("times", {"source_date_epoch": 1}),
        ("packages", {"lists": [script["sha256"]]}),
        ("builds", {"rebuild": {**rebuild, "build": "b0"}}),
        ("builders", {"rebuild": {**rebuild, "builder": "https://elsewhere.example.org/"}}),
        ("versions", {"rebuild": {**rebuild, "version": "9"}}),
        ("results", {"rebuild": {**rebuild, "contents": {}}}),
        ("plans", {"rebuild": {**rebuild, "plan": plan}}),
    ):
        files["export.json"] = json.dumps({**index, **forged}).encode()
        result = elsewhere.run("rebuild", packed(tmp_path / "forged.dcd", files))
        assert result.returncode == 27, forged
        assert f"other {what} than its provenance" in result.stderr
    assert elsewhere.json("list") == []


def test_the_manifest_of_an_export_is_the_one_of_its_provenance(
    signing: Any, exported: tuple[str, Path], elsewhere: Any, tmp_path: Path
) -> None:
    _, file = exported
    (tmp_path / "public.pem").write_text(shown_key(Path(signing.settings["signing_key"])).pem)
    with tarfile.open(file) as archive:
        files = {each.name: archive.extractfile(each).read() for each in archive}  # type: ignore[union-attr]
    forged = files["manifest.xml"].replace(b"echo a", b"touch /tmp/x; echo a")
    assert forged != files["manifest.xml"]
    index = json.loads(files["export.json"])
    (listed,) = (each for each in index["files"] if each["path"] == "manifest.xml")
    listed |= {"sha256": hashlib.sha256(forged).hexdigest(), "size_bytes": len(forged)}
    files |= {"manifest.xml": forged, "export.json": json.dumps(index).encode()}
    path = packed(tmp_path / "forged.dcd", files)
    for options in ([], ["--key", tmp_path / "public.pem"]):
        result = elsewhere.run("rebuild", path, *options)
        assert result.returncode == 27, result.stderr
        assert "other manifests than its provenance" in result.stderr
    assert elsewhere.json("list") == []


def test_the_daemon_checks_the_signature_itself(
    exported: tuple[str, Path], elsewhere: Any, tmp_path: Path
) -> None:
    """It believes no client about that."""
    _, file = exported
    assert elsewhere.run("rebuild", file).returncode == 0
    (first,) = elsewhere.json("list")
    with tarfile.open(file) as archive:
        files = {each.name: archive.extractfile(each).read() for each in archive}  # type: ignore[union-attr]
    index = json.loads(files["export.json"])
    place = Path(index["manifest_path"]).parent
    (script,) = index["inputs"]
    body = {
        "manifest": {
            "path": index["manifest_path"],
            "text": files["manifest.xml"].decode(),
        },
        "files": {
            str(place / script["path"]): {"sha256": script["sha256"], "mode": script["mode"]}
        },
        "source_date_epoch": index["source_date_epoch"],
        "fresh": True,
        "lists": index["lists"],
        "rebuild": {**index["rebuild"], "vouched": False, "signed_by": "anybody"},
    }
    socket = str(elsewhere.socket)
    for directory in ("inputs", "contents"):
        for name in [name for name in files if name.startswith(f"{directory}/")]:
            client.upload(socket, Path(name).name, iter([files[name]]), len(files[name]))
    for name in ("provenance.json", "provenance.dsse.json"):
        digest = hashlib.sha256(files[name]).hexdigest()
        client.upload(socket, digest, iter([files[name]]), len(files[name]))
    other = new_key(tmp_path / "other")
    signature = {"envelope": digest, "key": other.pem}
    with pytest.raises(client.ClientError, match="not signed by the key that was given"):
        client.request(socket, "POST", "/v1/builds", body={**body, "signature": signature})
    assert [each["id"] for each in elsewhere.json("list")] == [first["id"]]
    build = client.request(socket, "POST", "/v1/builds", body=body)["id"]
    elsewhere.wait(build, "completed")
    found = client.request(socket, "GET", client.build_path(build, "verdict"))
    assert "anybody" not in json.dumps(found)
    assert any("no signature" in text for text in found["unchecked"])


def packed(file: Path, files: dict[str, bytes]) -> Path:
    """An export of these files."""
    with tarfile.open(file, "w") as archive:
        for name, content in files.items():
            head = tarfile.TarInfo(name)
            head.size = len(content)
            archive.addfile(head, io.BytesIO(content))
    return file
