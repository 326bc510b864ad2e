"""Repeating a build in varied surroundings: identical, or the first checkpoint and file that differ."""

import filecmp
import io
import json
import os
import tarfile
import time
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest

from cli import client

pytestmark = pytest.mark.root

SCRIPT = 'mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript"'
IMAGE = "{PKG_IMAGE_PATH}"


def write(directory: Path, **commands: str) -> Path:
    """A manifest whose checkpoints run these commands."""
    steps = "".join(
        f'<checkpoint name="{name}" {SCRIPT}><args>{escape(command)}</args></checkpoint>'
        for name, command in commands.items()
    )
    path = directory / "small.xml"
    path.write_text(f'<dc><distro name="small"><execution>{steps}</execution></distro></dc>')
    return path


def reproduced(daemon: Any, manifest: Path | str, *options: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the comparison."""
    done = daemon.run("reproduce", manifest, *options, "--json")
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, found


def test_what_depends_on_the_manifest_alone_is_identical(daemon: Any, tmp_path: Path) -> None:
    manifest = write(
        tmp_path,
        one=f"mkdir -p {IMAGE}/etc; echo $SOURCE_DATE_EPOCH > {IMAGE}/etc/stamp",
        two=f"umask > {IMAGE}/umask; pwd | wc -c > {{MEDIA_DIR}}/x; rm {{MEDIA_DIR}}/x",
    )
    code, found = reproduced(daemon, manifest)
    assert code == 0, found
    assert found["identical"]
    assert [one["identical"] for one in found["checkpoints"]] == [True, True]
    assert (found["checkpoint"], found["files"], found["changed"]) == (None, [], [])
    assert any("the host name" in text for text in found["varied"])
    assert any(text.startswith("the layers (copy on ") for text in found["varied"])
    again = daemon.json("status", found["second"])
    assert again["reproduces"] == found["first"]
    assert again["removed_at"] is not None


DEPENDENT = {
    "clock": ("date +%s%N > F", "content"),
    "random": ("cat /proc/sys/kernel/random/uuid > F", "content"),
    "host-name": ("uname -n > F", "content"),
    "time-zone": ("date -d @0 +%H > F", "content"),
    "uptime": ("cut -c1-5 /proc/uptime > F", "content"),
    "processors": ("nproc > F", "content"),
    "directory": ("pwd | wc -c > F", "content"),
    "link": ("ln -s $(uname -n) F", "link"),
    "mode": ("touch F; test $(nproc) != 1 || chmod 600 F", "mode"),
    "owner": ("touch F; test $(nproc) != 1 || chown 7 F", "owner"),
    "missing": ("test $(nproc) = 1 || touch F", "missing"),
    "extra": ("test $(nproc) != 1 || touch F", "extra"),
    "type": ("test $(nproc) = 1 && mkfifo -m 644 F || touch F", "type"),
    "time": ("touch -d @1$(date -d @0 +%H) F", "time"),
}
"""What a result may depend on, a command that does, and how the results differ."""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="this host has one processor")
def test_each_dependence_is_named_with_its_checkpoint_and_file(daemon: Any, tmp_path: Path) -> None:
    commands = " ; ".join(
        f"({command.replace('F', f'{IMAGE}/{name}')})" for name, (command, _) in DEPENDENT.items()
    )
    manifest = write(tmp_path, one="true", two=f"{commands} ; true", three="true")
    code, found = reproduced(daemon, manifest)
    assert code == 12
    assert not found["identical"]
    assert found["checkpoint"] == "two"
    kinds = {file["path"].removeprefix("pkg_image/"): file["kinds"] for file in found["files"]}
    assert {name: kinds.get(name, [""])[0] for name in DEPENDENT} == {
        name: kind for name, (_, kind) in DEPENDENT.items()
    }
    assert [one["identical"] for one in found["checkpoints"]] == [True, False, False]
    assert daemon.json("status", found["second"])["removed_at"] is None


FORMATS = (
    *('"raw"', '"qcow2" compression="zstd"', '"vmdk"'),
    *('"vmdk" subformat="monolithicSparse"', '"vdi"', '"vhd"', '"vhd" subformat="fixed"', '"vhdx"'),
    *('"vhdx" subformat="fixed"', '"ova"'),
)
MEDIA = f"""<dc><distro name="media" add_timestamp="true">
<distro_spec><img_params><vm_im>{"".join(f"<vm_format type={each}/>" for each in FORMATS)}</vm_im>
</img_params></distro_spec>
<software name="copy" type="CPIO"><source><dir path="{IMAGE}"/></source>
<destination><dir path="{{BOOT_ARCHIVE}}"/></destination>
<software_data><name>vmlinuz</name><name>initrd.img</name></software_data></software>
<target><disk><disk_image name="media.raw" size="128mb"/>
<gpt_partition name="1" part_type="bios_boot"><size val="1mb"/></gpt_partition>
<gpt_partition name="2" part_type="esp"><size val="40mb"/></gpt_partition>
<gpt_partition name="3" part_type="swap"><size val="8mb"/></gpt_partition>
<gpt_partition name="4" part_type="linux"><format type="ext4" mountpoint="/"/></gpt_partition></disk></target>
<execution>
<checkpoint name="unpack" mod_path="dcd/checkpoints/transfer/archive" checkpoint_class="TransferArchive">
 <args>image.tar.gz</args></checkpoint>
<checkpoint name="copy" mod_path="dcd/checkpoints/transfer/cpio" checkpoint_class="TransferCPIO"/>
<checkpoint name="squash" mod_path="dcd/checkpoints/image/compress"
 checkpoint_class="SquashfsPkgImgMod"><kwargs><arg name="compression_level">1</arg></kwargs></checkpoint>
<checkpoint name="menu" mod_path="dcd/checkpoints/boot/menu" checkpoint_class="GrubBootMenu"/>
<checkpoint name="iso" mod_path="dcd/checkpoints/media/iso" checkpoint_class="CreateISO"/>
<checkpoint name="usb" mod_path="dcd/checkpoints/media/usb" checkpoint_class="CreateUSB"/>
<checkpoint name="disk" mod_path="dcd/checkpoints/vm/create_disk" checkpoint_class="CreateDisk"/>
<checkpoint name="convert" mod_path="dcd/checkpoints/vm/convert" checkpoint_class="Convert"/>
<checkpoint name="ova" mod_path="dcd/checkpoints/vm/ova" checkpoint_class="CreateOVA"/>
</execution></distro></dc>
"""


@pytest.mark.slow
def test_media_and_disks_in_every_format_are_identical(daemon: Any, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "image.tar.gz", "w:gz") as archive:
        for name in ("etc/new", "etc/old", "vmlinuz", "initrd.img"):
            member = tarfile.TarInfo(name)
            member.mtime = 0 if name == "etc/old" else int(time.time())
            member.size, member.uid, member.gid, member.mode = 4, 12, 34, 0o640
            archive.addfile(member, io.BytesIO(b"text"))
    manifest = tmp_path / "media.xml"
    manifest.write_text(MEDIA)
    code, found = reproduced(daemon, manifest, "--keep")
    assert code == 0, {name: found[name] for name in ("checkpoint", "files", "products")}
    kinds = {Path(one["name"]).suffix for one in found["products"]}
    assert kinds >= {".iso", ".usb", ".raw", ".qcow2", ".vmdk", ".vdi", ".vhd", ".vhdx", ".ova"}
    for one in found["products"]:
        places = [
            daemon.state_dir / "artifacts" / found[build] / one["name"]
            for build in ("first", "second")
        ]
        assert filecmp.cmp(*places, shallow=False), one["name"]


def test_a_person_reads_what_differs(daemon: Any, tmp_path: Path) -> None:
    manifest = write(tmp_path, one=f"uname -n > {IMAGE}/stamp")
    done = daemon.run("reproduce", manifest)
    assert done.returncode == 12
    assert "The first checkpoint with another result is one." in done.stdout
    line = next(line for line in done.stdout.splitlines() if "pkg_image/stamp" in line)
    assert line.split()[1] == "content"
    assert "varied: the time zone" in done.stdout


def test_a_repetition_reuses_nothing_and_nothing_of_it_is_reused(
    daemon: Any, tmp_path: Path
) -> None:
    manifest = write(tmp_path, one="true", two="true")
    first = daemon.submit(manifest)
    daemon.wait(first, "completed")
    code, found = reproduced(daemon, first, "--keep")
    assert code == 0
    second = daemon.json("status", found["second"])
    # Not even what would be reused because the layer below has the same content.
    assert [one["state"] for one in second["checkpoints"]] == ["completed"] * 2
    plan = daemon.json("plan", manifest)["checkpoints"]
    assert plan[0]["action"] == "reuse"
    assert first in plan[0]["reason"]
    assert second["checkpoints"][0]["key"] != plan[0]["key"]


def test_only_the_checkpoints_from_one_on_are_repeated(daemon: Any, tmp_path: Path) -> None:
    manifest = write(tmp_path, one="date +%N > {PKG_IMAGE_PATH}/stamp", two="true")
    code, found = reproduced(daemon, manifest, "--from", "two", "--keep")
    assert code == 0
    states = [one["state"] for one in daemon.json("status", found["second"])["checkpoints"]]
    assert states == ["reused", "completed"]
    # They stand on the layer of the first.
    assert not any(text.startswith("the layers") for text in found["varied"])
    done = daemon.run("reproduce", found["first"], "--from", "three")
    assert done.returncode == 7
    assert "its checkpoints are: one, two" in done.stderr


def test_a_comparison_survives_its_client_and_the_daemon(daemon: Any, tmp_path: Path) -> None:
    manifest = write(tmp_path, one="true", two="sleep 3")
    first = daemon.submit(manifest)
    daemon.wait(first, "completed")
    begin = (str(daemon.socket), "POST", client.build_path(first, "reproduce"))
    second = client.request(*begin, body={})["id"]
    assert client.request(*begin, body={})["id"] == second
    daemon.wait(second, "running")
    daemon.kill()
    daemon.start()
    code, found = reproduced(daemon, second, "--keep")
    assert (code, found["first"], found["second"]) == (0, first, second)
    assert reproduced(daemon, second, "--keep")[1] == found


def test_what_cannot_be_reproduced_is_refused(daemon: Any, tmp_path: Path) -> None:
    failed = daemon.submit(write(tmp_path, one="false"))
    daemon.wait(failed, "failed")
    done = daemon.run("reproduce", failed)
    assert done.returncode == 3
    assert len(daemon.json("list")) == 1
    done = daemon.run("reproduce", "nosuchbuild")
    assert done.returncode == 7
    done = daemon.run("reproduce", tmp_path / "none.xml")
    assert done.returncode == 8
