"""What comes from the host into a result is in its key: tools, their files, defaults, interpreters."""

import shutil
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

SCRIPT = 'mod_path="dcd/checkpoints/custom_script" checkpoint_class="CustomScript"'
MANIFEST = f"""<dc><distro name="medium"><execution>
<checkpoint name="system" {SCRIPT}><args>mkdir -p {{PKG_IMAGE_PATH}}/etc &amp;&amp;
 echo x &gt; {{PKG_IMAGE_PATH}}/etc/x &amp;&amp; echo k &gt; {{BOOT_ARCHIVE}}/vmlinuz &amp;&amp;
 echo i &gt; {{BOOT_ARCHIVE}}/initrd.img</args></checkpoint>
<checkpoint name="squash" mod_path="dcd/checkpoints/image/compress"
 checkpoint_class="SquashfsPkgImgMod"><kwargs><arg name="compression_level">1</arg></kwargs></checkpoint>
<checkpoint name="menu" mod_path="dcd/checkpoints/boot/menu" checkpoint_class="GrubBootMenu"/>
<checkpoint name="iso" mod_path="dcd/checkpoints/media/iso" checkpoint_class="CreateISO"/>
</execution></distro></dc>
"""

FIRST = """#!/bin/sh
until grep -q second /usr/local/sbin/mksquashfs; do sleep 0.05; done
exec /usr/bin/mksquashfs "$@"
"""
SECOND = """#!/bin/sh
# the second
exec /usr/bin/mksquashfs "$@"
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "medium.xml"
    path.write_text(MANIFEST)
    return path


@pytest.fixture
def host(tmp_path: Path, cold_daemon):
    """A running daemon whose GRUB and /usr/local/sbin are the test's own."""
    (tmp_path / "sbin").mkdir()
    shutil.copytree("/usr/lib/grub", tmp_path / "grub", symlinks=True)
    binds = "".join(
        f"mount --bind {tmp_path / name} {place} && "
        for name, place in (("grub", "/usr/lib/grub"), ("sbin", "/usr/local/sbin"))
    )
    cold_daemon.start(("unshare", "--mount", "sh", "-ec", f'{binds} exec "$@"', "sh"))
    yield cold_daemon
    if cold_daemon.process.poll() is None:
        assert cold_daemon.stop() == 0


def change_grub(directory: Path) -> None:
    """As a security update does: a new file in the place of the old one."""
    image = directory / "grub/i386-pc/boot_hybrid.img"
    content = image.read_bytes()
    assert b"GRUB " in content
    new = image.with_suffix(".new")
    new.write_bytes(content.replace(b"GRUB ", b"GRUX ", 1))
    new.rename(image)


def states(status: dict) -> dict[str, str]:
    return {checkpoint["name"]: checkpoint["state"] for checkpoint in status["checkpoints"]}


def test_a_changed_grub_makes_the_medium_again_and_the_plan_says_why(host, manifest, tmp_path):
    first = host.submit(manifest)
    host.wait(first, "completed", seconds=120)
    plan = host.events(first)[0]["data"]["plan"]["checkpoints"]
    (grub,) = (part for part in plan[3]["ingredients"] if part["name"] == "GRUB of the host")
    assert "grub-pc-bin 2." in grub["digest"]

    change_grub(tmp_path)
    planned = {each["name"]: each for each in host.json("plan", manifest)["checkpoints"]}
    assert planned["menu"]["action"] == "reuse"
    assert planned["iso"]["action"] == "run"
    assert planned["iso"]["reason"].startswith("GRUB of the host changed")

    second = host.submit(manifest)
    status = host.wait(second, "completed", seconds=120)
    assert states(status) == {
        "system": "reused",
        "squash": "reused",
        "menu": "reused",
        "iso": "completed",
    }
    (iso,) = (each for each in host.json("artifacts", second) if each["name"] == "medium.iso")
    assert b"GRUX " in Path(iso["path"]).read_bytes()[:446]


def test_a_tool_that_changes_before_its_checkpoint_starts_is_the_one_in_the_key(
    host, manifest, tmp_path
):
    build = host.submit(manifest, "--pause-before", "iso")
    host.wait(build, "paused", seconds=120)
    change_grub(tmp_path)
    host.ctl("resume", build)
    host.wait(build, "completed", seconds=120)
    (started,) = (
        event["data"]
        for event in host.events(build)
        if event["type"] == "CheckpointStarted" and event["data"]["checkpoint"] == "iso"
    )
    planned = host.events(build)[0]["data"]["plan"]["checkpoints"][3]
    recorded = {part["name"]: part["digest"] for part in planned["ingredients"]}
    assert started["external"]["GRUB of the host"] != recorded["GRUB of the host"]
    assert started["key"] != planned["key"]
    again = host.submit(manifest)
    assert set(states(host.wait(again, "completed")).values()) == {"reused"}


def test_a_tool_that_is_replaced_while_it_runs_has_made_nothing_that_counts(
    host, manifest, tmp_path
):
    def install(script: str) -> None:
        new = tmp_path / "new"
        new.write_text(script)
        new.chmod(0o755)
        new.rename(tmp_path / "sbin/mksquashfs")

    install(FIRST)
    build = host.submit(manifest)
    deadline = time.monotonic() + 60
    while states(host.status(build))["squash"] != "running":
        assert time.monotonic() < deadline, host.status(build)
        time.sleep(0.02)
    install(SECOND)
    host.wait(build, "completed", seconds=120)
    interrupted = [e["data"] for e in host.events(build) if e["type"] == "CheckpointInterrupted"]
    assert [(each["checkpoint"], each["cause"]) for each in interrupted] == [
        ("squash", "host-changed")
    ]
    assert "squashfs-tools of the host changed while it ran" in interrupted[0]["details"]


def test_a_tool_that_is_gone_when_its_turn_comes_is_named(host, manifest, tmp_path):
    build = host.submit(manifest, "--pause-before", "iso")
    host.wait(build, "paused", seconds=120)
    (tmp_path / "grub/i386-pc/moddep.lst").unlink()
    host.ctl("resume", build)
    status = host.wait(build, "failed")
    assert "grub-bios" in status["error"]["details"]
    assert "grub-pc-bin" in status["error"]["resolution"]
