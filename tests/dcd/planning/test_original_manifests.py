"""The original's own manifests, through a real daemon: they validate and plan, and a submit says everything
that stands in the way."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from store.host.tools import missing
from tests.dcd.checkpoints.conftest import archive
from tests.dcd.checkpoints.illumos_tree import make_tree

pytestmark = pytest.mark.root

ROOT = Path(__file__).resolve().parents[3]
SAMPLES, ORIGINALS = ROOT / "tests/data", ROOT.parent / "shared/data"
"""Samples of this project, and the original's own manifests where they are beside the checkout."""

CUD = [
    (place / "cud", path.name)
    for place in (SAMPLES, ORIGINALS)
    for path in sorted((place / "cud/manifest").glob("dc_*.xml"))
    if "sparc" not in path.name
]
VMC = [
    path
    for path in (SAMPLES / "precud/vm_sample.xml", ORIGINALS / "precud/vmc/vmc_image.xml")
    if path.is_file()
]
ELSEWHERE = {"transfer-ips-install", "set-ips-attributes", "ai-publish-package"}
"""Checkpoints with a tool that only illumos has."""


@pytest.mark.parametrize(("cud", "name"), CUD)
def test_each_validates_and_plans_and_its_submit_names_every_obstacle(
    cold_daemon: Any, cud: Path, name: str
) -> None:
    original = "/usr/share/distro_const/"
    cold_daemon.settings[f'include_map."{original}"'] = str(cud / "manifest")
    cold_daemon.settings[f'include_map."{original}profile/"'] = str(cud / "profile")
    host = cold_daemon.start()
    manifest = cud / "manifest" / name
    answer = host.json("validate", manifest)
    assert answer["ok"]
    assert {found["severity"] for found in answer["diagnostics"]} == {"warning"}
    told = [found["message"] for found in answer["diagnostics"]]
    # Profiles of the host, not of the image, are checked where there is something to check them with.
    unchecked = [message for message in told if "this host has no /usr/sbin/svccfg" in message]
    assert len(unchecked) == manifest.read_text().count('source="/usr/share/distro_const/profile/')

    plan = host.json("plan", manifest)["checkpoints"]
    names = [each["name"] for each in plan]
    assert names[:4] == [
        "transfer-ips-install", "set-ips-attributes", "pre-pkg-img-mod", "ba-init",
    ]  # fmt: skip
    unavailable = {each["name"]: each["reason"] for each in plan if each["action"] == "unavailable"}
    assert unavailable["transfer-ips-install"] == "this host lacks pkg"
    assert set(unavailable) <= ELSEWHERE
    # What needs the platform is said, with what happens instead.
    assert any("this host has no svccfg" in message for message in told)
    assert any("this host has no devfsadm" in message for message in told)
    others = [each for each in plan if each["name"] not in unavailable]
    assert {each["action"] for each in others} == {"run"}
    assert others[0]["reason"] == "it comes after transfer-ips-install, which cannot run here"

    outcome = host.run("submit", manifest)
    assert outcome.returncode == 11
    for checkpoint in unavailable:
        assert f"{checkpoint}: {unavailable[checkpoint]}" in outcome.stderr
    assert "illumos" in outcome.stderr  # where pkg(7) is
    assert host.json("list") == []


@pytest.mark.parametrize("vmc", VMC, ids=lambda path: path.name)
def test_the_manifest_of_the_vm_constructor_migrates_to_one_that_plans(
    daemon: Any, tmp_path: Path, vmc: Path
) -> None:
    medium = tmp_path / "installer.iso"
    medium.write_bytes(b"an installer")
    old, new = tmp_path / "old.xml", tmp_path / "new.xml"
    old.write_text(vmc.read_text().replace("/export/home/name_of_bootable_ai_image", str(medium)))
    daemon.ctl("migrate", old, "-o", new)
    answer = daemon.json("validate", new)
    assert answer["ok"]
    assert all("has no effect here" in found["message"] for found in answer["diagnostics"])
    plan = daemon.json("plan", new)["checkpoints"]
    assert [each["name"] for each in plan] == [
        "create-vm", "install-vm", "post-config", "export-esx", "export-ovf",
    ]  # fmt: skip
    # Where a tool is missing, that is said; nothing else stands in the way.
    assert all(each["action"] == "run" or "this host lacks" in each["reason"] for each in plan)


def test_what_comes_before_an_unavailable_checkpoint_is_planned_with_its_key(
    daemon: Any, write_manifest: Any
) -> None:
    manifest = write_manifest(("one", "true"), ("two", "true"))
    daemon.wait(daemon.submit(manifest))
    original = "solaris_install/distro_const/checkpoints/boot_archive_archive"
    between = (
        f'<checkpoint name="x" mod_path="{original}" checkpoint_class="BootArchiveArchive">'
        '<kwargs><arg name="format">ufs</arg></kwargs></checkpoint>'
    )
    text = manifest.read_text()
    manifest.write_text(text.replace('<checkpoint name="two"', f'{between}<checkpoint name="two"'))
    plan = daemon.json("plan", manifest)["checkpoints"]
    assert [each["action"] for each in plan] == ["reuse", "unavailable", "run"]
    assert [bool(each["key"]) for each in plan] == [True, False, False]
    printed = daemon.ctl("plan", manifest)
    assert "1 of 3 checkpoints to run" in printed
    assert "1 cannot run here, so a submit would be refused" in printed


def test_what_comes_before_a_checkpoint_that_dcd_does_not_have_is_built_up_to_a_pause(
    daemon: Any, write_manifest: Any
) -> None:
    original = "solaris_install/target/instantiation"
    absent = f'<checkpoint name="x" mod_path="{original}" checkpoint_class="TargetInstantiation"/>'
    manifest = write_manifest(("one", "true"), ("two", "true"))
    whole = manifest.read_text()
    manifest.write_text(whole.replace('<checkpoint name="two"', f'{absent}<checkpoint name="two"'))
    answer = daemon.run("validate", manifest)
    assert answer.returncode != 0
    assert "dcd has no checkpoint TargetInstantiation" in answer.stdout + answer.stderr
    for late in ((), ("--pause-before", "two")):
        refused = daemon.run("submit", manifest, *late)
        assert refused.returncode != 0
        assert "dcd has no checkpoint TargetInstantiation" in refused.stderr
        assert "dcctl submit --pause-before x" in refused.stderr
    build = daemon.submit(manifest, "--pause-before", "x")
    assert daemon.wait(build, "paused")["state"] == "paused"
    daemon.ctl("resume", build)
    assert daemon.wait(build)["state"] == "failed"
    assert "dcd has no checkpoint TargetInstantiation" in daemon.ctl("status", build)
    manifest.write_text(whole)
    daemon.ctl("resume", build, "--manifest", manifest)
    assert daemon.wait(build)["state"] == "completed"


@pytest.mark.skipif(
    bool(missing(["xorriso", "mformat", "mcopy", "sfdisk", "isoinfo"])), reason="lacks a tool"
)
def test_a_manifest_in_the_form_of_the_original_ends_with_an_iso_and_a_stick(
    daemon: Any, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    make_tree(tree)
    archive(tree, tmp_path / "tree.tar")
    profile = SAMPLES / "cud/profile/sample.xml"
    text = (SAMPLES / "cud/manifest/dc_sample_x86.xml").read_text()
    # An archive stands for the packages of a repository.
    transfers = re.compile(
        r'<checkpoint name="transfer-ips-install".*?<checkpoint name="pre-', re.S
    )
    text = transfers.sub(
        '<checkpoint name="transfer" mod_path="dcd/checkpoints/transfer/archive" '
        f'checkpoint_class="TransferArchive"><kwargs><arg name="archive">{tmp_path}/tree.tar</arg>'
        '</kwargs></checkpoint><checkpoint name="pre-',
        text,
    )
    text = re.sub(r'<software name="(transfer|set)-ips.*?</software>', "", text, flags=re.S)
    text = text.replace("/usr/share/distro_const/profile/sample.xml", str(profile))
    contents = SAMPLES / "cud/manifest/boot_archive_contents_x86.xml"
    text = text.replace("/usr/share/distro_const/boot_archive_contents_x86.xml", contents.name)
    (tmp_path / contents.name).write_text(
        contents.read_text().replace("<name>bin</name>", "<name>lib</name><name>etc/passwd</name>")
    )
    manifest = tmp_path / "text.xml"
    manifest.write_text(text)
    build = daemon.submit(manifest)
    ended = daemon.wait(build)
    assert ended["state"] == "completed", daemon.ctl("status", build)
    delivered = {each["name"] for each in daemon.json("artifacts", build)}
    assert {"Sample_Text_X86.iso", "Sample_Text_X86.usb"} <= delivered
    iso = daemon.state_dir / "artifacts" / build / "Sample_Text_X86.iso"
    names = subprocess.run(
        ["isoinfo", "-R", "-f", "-i", iso], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert {"/solaris.zlib", "/solarismisc.zlib", "/.transfer-manifest.xml"} <= set(names)
    dumped = subprocess.run(["sfdisk", "-d", iso], capture_output=True, text=True, check=True)
    assert "6A82CB45-1DD2-11B2-99A6-080020736631" in dumped.stdout
