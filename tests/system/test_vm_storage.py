"""Two virtual machines from the same packages: one whose root is on LVM in LUKS, one whose root is verified.
The host's kernel may lack the device mapper; the guest's has it."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.system, pytest.mark.root, pytest.mark.timeout(1200)]

PASSPHRASE, RECOVERY = "correct horse", "battery staple"

MANIFEST = """<dc><distro name="{name}" add_timestamp="false">
  <distro_spec><img_params><vm_im memory="1gb" firmware="uefi"><boot_mods title="Debian" timeout="0"/>
    <vm_format type="raw"/></vm_im></img_params></distro_spec>
  <target><disk>
    <disk_image name="{name}.raw" size="{size}"/>
    <gpt_partition name="1" part_type="esp"><size val="64mb"/></gpt_partition>
    <gpt_partition name="2" part_type="linux"><size val="200mb"/>
      <format type="ext4" mountpoint="/boot"/></gpt_partition>
    {partitions}
  </disk></target>
  <software name="transfer" type="DEB">
    <destination><image variant="minbase"/></destination>
    <software_data><name>linux-image-cloud-amd64</name> <name>systemd-sysv</name> <name>zstd</name>
      <name>grub-efi-amd64-bin</name> <name>cryptsetup-initramfs</name> <name>lvm2</name> <name>udev</name>
      <name>dbus</name> <name>e2fsprogs</name></software_data>
  </software>
  <execution>
    <checkpoint name="transfer" type="TransferDEB"/>
    <checkpoint name="configure" type="DebianPrePkgImgMod">
      <kwargs><arg name="hostname">storage</arg><arg name="serial_console">ttyS0</arg></kwargs></checkpoint>
    <checkpoint name="archive" type="DebianBootArchive"/>
    <checkpoint name="disk" type="CreateDisk"/>
    <checkpoint name="install" type="InstallOffline">
      <kwargs><arg name="grow_root">{grow}</arg></kwargs></checkpoint>
    <checkpoint name="relabel" type="Relabel"/>
    <checkpoint name="convert" type="Convert"/>
    <checkpoint name="verify" type="VerifyBoot">
      <kwargs>
        <arg name="marker">storage login:</arg>
        <arg name="login">vm</arg>
        <arg name="command">{command}</arg>
        <arg name="answer">{answer}</arg>
      </kwargs>
    </checkpoint>
  </execution>
  <configuration name="configure" type="user">
    <user name="vm" shell="/bin/bash"><password>vm</password></user>
  </configuration>
</distro></dc>
"""

ENCRYPTED = {
    "name": "encrypted",
    "size": "1700mb",
    "grow": "true",
    "command": "findmnt -no SOURCE,TARGET /; findmnt -no SOURCE,TARGET /home; "
    "test $(df -m --output=size / | tail -1) -gt 1230 &amp;&amp; echo root has gro''wn; "
    "lsblk -no TYPE | sort -u | tr '\\n' + ; systemctl --failed --no-legend",
    "answer": "crypt+disk+lvm+part+",
    # It leaves a part of the disk, as if that were larger than the image.
    "partitions": """<gpt_partition name="3" part_type="linux"><size val="1300mb"/><luks name="system">
      <passphrase env="DCD_SECRET_DISK"/><passphrase env="DCD_SECRET_RECOVERY" recovery="true"/>
      <volume_group name="vg0">
        <logical_volume name="home"><size val="64mb"/>
          <format type="ext4" mountpoint="/home"/></logical_volume>
        <logical_volume name="root"><format type="ext4" mountpoint="/"/></logical_volume>
      </volume_group></luks></gpt_partition>""",
}
VERIFIED = {
    "name": "verified",
    "size": "1700mb",
    "grow": "false",
    "command": "lsblk -no TYPE | sort -u | tr '\\n' + ; touch /x; "
    "touch /var/tmp/x &amp;&amp; echo var is writa''ble",
    "answer": "var is writable",
    "partitions": """<gpt_partition name="3" part_type="linux"><size val="1gb"/>
      <format type="ext4" mountpoint="/"/><verity/></gpt_partition>
      <gpt_partition name="4" part_type="linux"><format type="ext4" mountpoint="/var"/></gpt_partition>""",
}


def test_encrypted_and_verified_machines_start(
    cold_daemon: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DCD_SECRET_DISK", PASSPHRASE)
    monkeypatch.setenv("DCD_SECRET_RECOVERY", RECOVERY)
    daemon = cold_daemon.start()
    consoles = {}
    for described in (ENCRYPTED, VERIFIED):
        name = described["name"]
        manifest = tmp_path / f"{name}.xml"
        manifest.write_text(MANIFEST.format(**described))
        build = daemon.submit(manifest)
        status = daemon.wait(build, "completed", "failed", "paused", seconds=900)
        assert status["state"] == "completed", daemon.ctl("status", build)
        files = {artifact["name"]: Path(artifact["path"]) for artifact in status["artifacts"]}
        [log] = [path for file, path in files.items() if file.endswith(".log")]
        consoles[name] = log.read_text()
        if name == "encrypted":
            assert_only_passphrases_open(files["encrypted.raw"])
            assert_no_secret_below(daemon.state_dir, files["encrypted.raw"])
    assert "Please unlock disk system:" in consoles["encrypted"]
    assert "/dev/mapper/vg0-root /\n" in consoles["encrypted"]
    assert "/dev/mapper/vg0-home /home\n" in consoles["encrypted"]
    assert "root has grown\n" in consoles["encrypted"]
    assert re.search(r"disk\+part\+.*\+?", consoles["verified"])
    assert "touch: cannot touch '/x': Read-only file system" in consoles["verified"]
    assert daemon.leaks() == []


def assert_only_passphrases_open(disk: Path) -> None:
    """The third partition, which begins behind the table and those before it, at 265 MiB."""
    partition = disk.with_name("partition")
    dd = ("dd", f"if={disk}", f"of={partition}", "bs=1M", "skip=265", "count=32", "status=none")
    subprocess.run(dd, check=True)
    opening = ("cryptsetup", "open", "--test-passphrase", "--key-file", "-", partition)
    for text, status in ((PASSPHRASE, 0), (RECOVERY, 0), ("other", 2)):
        done = subprocess.run(opening, input=text.encode(), capture_output=True, check=False)
        assert done.returncode == status, done.stderr
    partition.unlink()


def assert_no_secret_below(state_dir: Path, disk: Path) -> None:
    """No file of the daemon has a passphrase in it: events, logs, evidence, layers."""
    for secret in (PASSPHRASE, RECOVERY):
        found = subprocess.run(
            ["grep", "-rlaF", "--exclude-dir=pkg_image", secret, state_dir],
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.stdout == "", disk
