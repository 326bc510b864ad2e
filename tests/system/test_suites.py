"""Another suite than the host's: a live ISO and a disk of trixie from the same packages. Each is booted once:
the ISO until its init runs from the medium, the disk to the login."""

from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.system, pytest.mark.root, pytest.mark.timeout(1200)]

TRIXIE = """<dc><distro name="trixie">
  <distro_spec><img_params><vm_im firmware="bios"><vm_format type="qcow2"/></vm_im></img_params></distro_spec>
  <target><disk><disk_image name="trixie.raw" size="2gb"/></disk></target>
  <software type="DEB">
    <destination><image variant="apt" architecture="amd64"/></destination>
    <source><repository suite="trixie"/></source>
    <software_data><name>linux-image-cloud-amd64</name> <name>systemd-sysv</name> <name>live-boot</name>
      <name>zstd</name> <name>grub-pc-bin</name> <name>systemd-repart</name></software_data>
  </software>
  <execution>
    <checkpoint name="transfer" type="TransferDEB"/>
    <checkpoint name="configure" type="DebianPrePkgImgMod">
      <kwargs><arg name="hostname">suite</arg><arg name="serial_console">auto</arg></kwargs>
    </checkpoint>
    <checkpoint name="archive" type="DebianBootArchive"/>
    <checkpoint name="menu" type="GrubBootMenu"><args>boot=live quiet loglevel=7</args></checkpoint>
    <checkpoint name="compress" type="SquashfsPkgImgMod">
      <kwargs><arg name="compression_level">3</arg></kwargs>
    </checkpoint>
    <checkpoint name="iso" type="CreateISO"/>
    <checkpoint name="boot-iso" type="media.VerifyBoot">
      <kwargs><arglist name="firmware"><argitem>uefi</argitem></arglist>
        <arg name="marker">Hostname set to &lt;suite&gt;</arg></kwargs>
    </checkpoint>
    <checkpoint name="disk" type="CreateDisk"/>
    <checkpoint name="install" type="InstallOffline"/>
    <checkpoint name="convert" type="Convert"/>
    <checkpoint name="boot-disk" type="vm.VerifyBoot">
      <kwargs><arg name="marker">suite login:</arg></kwargs>
    </checkpoint>
  </execution>
</distro></dc>
"""


def test_a_live_iso_and_a_disk_of_trixie_boot(daemon: Any, tmp_path: Path) -> None:
    manifest = tmp_path / "trixie.xml"
    manifest.write_text(TRIXIE)
    build = daemon.submit(manifest)
    status = daemon.wait(build, "completed", seconds=900)
    files = {artifact["name"]: Path(artifact["path"]) for artifact in status["artifacts"]}
    assert "Hostname set to <suite>" in files["boot-iso-uefi.log"].read_text()
    assert "suite login:" in files["boot-disk-qcow2-bios-virtio.log"].read_text()
    assert "Debian GNU/Linux 13" in files["boot-disk-qcow2-bios-virtio.log"].read_text()
