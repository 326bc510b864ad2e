"""`CreateOVA`: the virtual machine as one package that VMware, VirtualBox and others import.

An OVA is a tar of the descriptor, the manifest with the files' digests, and the disk, in this order, since it
is read as a stream. The disk is the streamOptimized VMDK of `Convert`, or else one made here; one pass copies
it into the tar and computes its digest. Result: media/NAME.ova. The same disk gives the same bytes.
Source: DMTF DSP0243, "Distribution"; ustar of pax(1).
"""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO

from dcd.checkpoints import products
from dcd.checkpoints.architecture import check_hardware
from dcd.checkpoints.interface import Checkpoint, Context, Needs, Report
from dcd.checkpoints.media.deliver import deliver_file, media_name
from dcd.checkpoints.recorded import record_medium, recorded_media
from dcd.checkpoints.times import source_date_epoch
from dcd.checkpoints.vm import ovf
from dcd.checkpoints.vm.conversion import TOOLS, Level, examine, make_stream, refuse_above
from dcd.checkpoints.vm.disk import recorded_disk
from dcd.checkpoints.vm.formats import STREAM, Image, check_images, images_of, machine_of
from dcd.checkpoints.vm.layout import expected_image_bytes
from dcd.checkpoints.vm.stream_vmdk import populated_bytes
from dcd.manifest.diagnostics import Diagnostic, error
from dcd.manifest.doc import DataObjectCache, distro
from dcd.manifest.forms import LINE, URL
from dcd.manifest.objects.distro import VmController, VmIm, VmNetwork
from dcd.manifest.values import size_bytes
from dcd.platform.foreign import X86
from dcd.platform.inside import new_file

LARGEST_MEMBER_BYTES = 0o77777777777
"""The largest size in a ustar header: 8 GiB less one byte."""

_OVA = Image("ova")
_DEFAULT_MEMORY = "1gb"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class CreateOVA(Checkpoint):
    """Pack the virtual machine that `vm_im` describes.

    The name of the product is the distribution's.
    """

    DESCRIPTION = "Pack the virtual machine as an OVA"
    EXPECTED_SECONDS = 3.0
    READS = ("//vm_im", "//distro.name", "//distro.add_timestamp")
    TOOLS = TOOLS
    REQUIRES = (products.DISK,)
    PROVIDES = (_OVA.kind,)

    ovf_version: ovf.Version = "1.1"
    """The version of the descriptor."""

    vendor: Annotated[str, LINE] = ""
    """The vendor of the product, for the descriptor."""

    version: Annotated[str, LINE] = ""
    """The version of the product, for the descriptor."""

    url: Annotated[str, URL] = ""
    """The URL of the product, for the descriptor."""

    level: Level = 6
    """The level of the compression, from 1 (fast) to 9 (small), for a disk that is not compressed yet."""

    def needs(self, doc: DataObjectCache) -> Needs:
        converted = STREAM in images_of(doc)
        return Needs(
            tools=() if converted else self.TOOLS,
            disk_bytes=(1 if converted else 2) * expected_image_bytes(doc),
        )

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        yield from check_images(doc, self)
        if images_of(doc) and _OVA not in images_of(doc):
            yield self.fault(
                doc,
                None,
                "the manifest does not ask for an OVA",
                "",
                'add <vm_format type="ova"/> to vm_im, or leave this checkpoint out',
            )
        yield from self.check_machine(doc)

    def check_machine(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        """Errors for a machine that no descriptor can describe."""
        yield from check_hardware(doc, self, "describes", only=X86)
        described = machine_of(doc)
        if _system(described) is None:
            known = ", ".join(system.virtualbox for system in ovf.OPERATING_SYSTEMS)
            yield error(
                described.place_of("os_type"),
                f"importers do not know the operating system {described.os_type!r}",
                "os_type is VirtualBox's or VMware's name of it",
                f"write one of {known}",
            )
        for network in described.get_children(class_type=VmNetwork):
            if network.model not in ovf.ADAPTERS:
                yield error(
                    network.place_of("model"),
                    f"importers do not know the network adapter {network.model!r}",
                    "",
                    f"write one of {', '.join(ovf.ADAPTERS)}",
                )

    def execute(self, context: Context) -> None:
        disk, layout = recorded_disk(context)
        epoch = source_date_epoch(context, int(disk.stat().st_mtime))
        stem = media_name(context.doc, epoch)
        stream = recorded_media(context).get(STREAM.kind)
        if stream is None:
            stream = context.tmp / STREAM.file_name(stem)
            context.report(Report(0.0, "compressing the disk"))
            make_stream(
                *(stream, disk, layout),
                level=self.level,
                most_bytes=LARGEST_MEMBER_BYTES,
                holder="an OVA",
            )
            examine(context, disk, STREAM, stream)
        refuse_above(LARGEST_MEMBER_BYTES, stream.stat().st_size, "an OVA")
        packaged = ovf.PackagedDisk(
            file_name=f"{stem}-disk1.vmdk",
            size_bytes=stream.stat().st_size,
            capacity_bytes=layout.size,
            populated_bytes=populated_bytes(stream),
        )
        result = new_file(context.media, _OVA.file_name(stem))
        context.report(Report(0.5, f"packing {result.name}"))
        text = ovf.descriptor(self.machine(context.doc, packaged), self.ovf_version)
        write_ova(result, f"{stem}.ovf", text, packaged.file_name, stream, epoch)
        deliver_file(context, result, _OVA.type)
        record_medium(context, _OVA.kind, result)
        context.report(Report(1.0, f"{result.name}: {result.stat().st_size / (1 << 20):.1f} MiB"))

    def machine(self, doc: DataObjectCache, disk: ovf.PackagedDisk) -> ovf.Machine:
        """The machine with its disk, for a descriptor."""
        described = machine_of(doc)
        system = _system(described)
        assert system is not None  # `check` guarantees it.
        memory = size_bytes(described.memory or _DEFAULT_MEMORY)
        return ovf.Machine(
            product=ovf.Product(distro(doc).name, self.vendor, self.version, self.url),
            system=system,
            cpus=described.cpus or 1,
            memory_mb=-(-memory // (1 << 20)),
            controller=_controller(described),
            networks=tuple(
                ovf.Network(network.model, network.network)
                for network in described.get_children(class_type=VmNetwork)
            ),
            # A machine that boots with both gets the importers' default.
            efi=described.firmware == "uefi",
            disk=disk,
        )


def write_ova(
    result: Path, descriptor_name: str, text: bytes, disk_name: str, disk: Path, epoch: int
) -> None:
    """Write the package. The manifest gets its content after the disk, which follows it, has been read."""
    manifest_name = Path(descriptor_name).with_suffix(".mf").name

    def manifest(disk_digest: str) -> bytes:
        own = hashlib.sha256(text).hexdigest()
        # With a blank before the bracket VMware's importers read another algorithm.
        return f"SHA256({descriptor_name})= {own}\nSHA256({disk_name})= {disk_digest}\n".encode()

    with result.open("w+b") as file:
        with tarfile.TarFile(
            fileobj=file, mode="w", format=tarfile.USTAR_FORMAT, copybufsize=_CHUNK_BYTES
        ) as tar:
            tar.addfile(_member(descriptor_name, len(text), epoch), io.BytesIO(text))
            place = tar.offset + tarfile.BLOCKSIZE
            blank = manifest("0" * 64)
            tar.addfile(_member(manifest_name, len(blank), epoch), io.BytesIO(blank))
            with disk.open("rb") as source:
                digested = _Digested(source)
                tar.addfile(_member(disk_name, disk.stat().st_size, epoch), digested)
        file.seek(place)
        file.write(manifest(digested.digest.hexdigest()))


def _member(name: str, size: int, epoch: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = size, epoch, 0o644
    return member


class _Digested:
    """A file that is read once, and the digest of its content."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        return data


def _system(described: VmIm) -> ovf.OperatingSystem | None:
    return ovf.system_named(described.os_type or "Linux_64")


def _controller(described: VmIm) -> ovf.Controller:
    """The first controller that importers have; they have no virtio."""
    for controller in described.get_children(class_type=VmController):
        if controller.type != "virtio":
            return controller.type
    return "sata"
