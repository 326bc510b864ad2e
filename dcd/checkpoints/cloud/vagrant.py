"""`VagrantBox`: the machine as a box for Vagrant.

For libvirt it holds the disk as a qcow2, for VirtualBox as a streamOptimized VMDK with an OVF descriptor;
both with metadata.json and a Vagrantfile of defaults. Result: media/NAME-PROVIDER.box, delivered.
Source: Vagrant's documentation, "Box File Format" and "VirtualBox: Creating a Base Box"; vagrant-libvirt's,
"Box Format".
"""

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dcd.checkpoints import products
from dcd.checkpoints.interface import Checkpoint, Context, Report
from dcd.checkpoints.media.deliver import deliver_file, media_name
from dcd.checkpoints.recorded import recorded_media
from dcd.checkpoints.rootfs.compression import compress
from dcd.checkpoints.times import source_date_epoch
from dcd.checkpoints.vm import ovf
from dcd.checkpoints.vm.conversion import TOOLS, convert, examine, make_stream
from dcd.checkpoints.vm.disk import DiskLayout, recorded_disk
from dcd.checkpoints.vm.formats import STREAM, Image
from dcd.checkpoints.vm.ova import CreateOVA
from dcd.checkpoints.vm.stream_vmdk import populated_bytes
from dcd.checkpoints.vm.volume_rules import GIB
from dcd.manifest.diagnostics import Diagnostic, warning
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.objects.configuration import User
from dcd.platform.inside import new_file

_USER = "vagrant"
_QCOW2 = Image("qcow2", "", "zlib")
_LIBVIRT = """\
Vagrant.configure("2") do |config|
  config.vm.provider :libvirt do |libvirt|
    libvirt.disk_bus = "virtio"
  end
end
"""
_VIRTUALBOX = """\
Vagrant.configure("2") do |config|
  config.vm.base_mac = "080027D14C66"
end
"""
"""The address of the first adapter, which the provider demands. Machines get their own."""


@dataclass(frozen=True)
class VagrantBox(Checkpoint):
    """Pack the machine as a box for Vagrant.

    Add it with `vagrant box add NAME FILE`. Vagrant logs in as the user vagrant, with the insecure key that
    it documents, by ssh: the manifest has to add that user with the key, and openssh-server and sudo.
    """

    DESCRIPTION = "Pack the machine as a box for Vagrant"
    EXPECTED_SECONDS = 40.0
    REQUIRES = (products.DISK,)
    PROVIDES = ()
    READS = ("//vm_im", "//user.name", "//distro.name", "//distro.add_timestamp")
    TOOLS = (*TOOLS, "pack-gzip")
    DISK_BYTES = 2 << 30

    provider: Literal["libvirt", "virtualbox"] = "libvirt"
    """The provider that runs the machine."""

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        if self.provider == "virtualbox":
            yield from CreateOVA(self.name).check_machine(doc)
        if not any(user.name == _USER for user in doc.get_descendants(class_type=User)):
            yield warning(
                self.argument_place(doc),
                f"{self.name}: the manifest makes no user {_USER}",
                "Vagrant logs in as this user, with a key of its own.",
                f'<user name="{_USER}"><ssh_key source="vagrant.pub"/><sudo nopasswd="true"/></user>',
            )

    def execute(self, context: Context) -> None:
        disk, layout = recorded_disk(context)
        epoch = source_date_epoch(context, int(disk.stat().st_mtime))
        context.report(Report(0.1, "converting the disk"))
        if self.provider == "libvirt":
            large = self._qcow2(context, disk)
            small = {
                "metadata.json": _encoded(
                    provider="libvirt", format="qcow2", virtual_size=-(-layout.size // GIB)
                ),
                "Vagrantfile": _LIBVIRT.encode(),
            }
            name = "box.img"
        else:
            name = "box-disk1.vmdk"
            large = self._stream(context, disk, layout)
            packaged = ovf.PackagedDisk(
                file_name=name,
                size_bytes=large.stat().st_size,
                capacity_bytes=layout.size,
                populated_bytes=populated_bytes(large),
            )
            machine = CreateOVA(self.name).machine(context.doc, packaged)
            small = {
                "metadata.json": _encoded(provider="virtualbox"),
                "Vagrantfile": _VIRTUALBOX.encode(),
                "box.ovf": ovf.descriptor(machine, "1.1"),
            }
        stem = f"{media_name(context.doc, epoch)}-{self.provider}"
        plain = context.tmp / f"{stem}.tar"
        context.report(Report(0.7, "packing the box"))
        _write(plain, small, name, large, epoch)
        # The disk in it is compressed already.
        packed = compress(context, plain, "gzip", 1)
        result = new_file(context.media, f"{stem}.box")
        packed.rename(result)
        deliver_file(context, result, "box")
        context.report(Report(1.0, f"{result.name}: {result.stat().st_size / (1 << 20):.1f} MiB"))

    def _qcow2(self, context: Context, disk: Path) -> Path:
        """The disk as a qcow2: that of `Convert`, or else a new one."""
        if (made := recorded_media(context).get(_QCOW2.kind)) is not None:
            return made
        path = context.tmp / "box.img"
        convert(
            *(context, disk, _QCOW2, path),
            out_of_order=False,
            on_progress=lambda fraction: context.report(Report(0.1 + fraction * 0.5)),
        )
        examine(context, disk, _QCOW2, path)
        return path

    @staticmethod
    def _stream(context: Context, disk: Path, layout: DiskLayout) -> Path:
        """The disk as a streamOptimized VMDK: that of `Convert`, or else a new one."""
        if (made := recorded_media(context).get(STREAM.kind)) is not None:
            return made
        path = context.tmp / "box-disk1.vmdk"
        make_stream(path, disk, layout, level=6)
        examine(context, disk, STREAM, path)
        return path


def _encoded(**values: object) -> bytes:
    return (json.dumps(values, sort_keys=True) + "\n").encode()


def _write(path: Path, small: dict[str, bytes], name: str, large: Path, epoch: int) -> None:
    """Write the archive, the disk last: what describes it is read first."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for each, content in small.items():
            tar.addfile(_member(each, len(content), epoch), io.BytesIO(content))
        with large.open("rb") as file:
            tar.addfile(_member(name, large.stat().st_size, epoch), file)


def _member(name: str, size: int, epoch: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = size, epoch, 0o644
    return member
