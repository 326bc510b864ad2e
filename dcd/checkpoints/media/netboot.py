"""`NetbootKit`: everything that a server needs to start the live system through the network, in one tar.

It holds kernel, initramfs and the compressed image, `boot.ipxe`, and GRUB's network images for BIOS
(core.0) and UEFI (grubnetx64.efi) with their grub.cfg, in one directory, which a server of TFTP or HTTP
offers as it is. For Secure Boot, UEFI loads shim and the distribution's GRUB instead, over TFTP. The
initramfs fetches the compressed image into memory (live-boot), or contains it, for servers that the
initramfs cannot ask. Result: media/NAME-netboot.tar, delivered as an artifact. The same layer gives the
same bytes.
Source: live-boot(7), `fetch` and `live-media`; grub-mknetdir(1); Linux, "initramfs buffer format".
"""

import re
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from dcd.checkpoints import architecture, products, secure_boot
from dcd.checkpoints.architecture import check_hardware, hardware
from dcd.checkpoints.boot.menu import menu_of
from dcd.checkpoints.interface import Checkpoint, Context, Needs, Report
from dcd.checkpoints.media import grub
from dcd.checkpoints.media.deliver import deliver_file, media_name
from dcd.checkpoints.media.iso import LIVE_FILE_SYSTEM
from dcd.checkpoints.media.netboot_scripts import (
    APPENDED,
    INITRAMFS,
    KERNEL,
    SQUASHFS,
    grub_network_cfg,
    ipxe_script,
)
from dcd.checkpoints.recorded import record_medium, record_values, recorded
from dcd.checkpoints.times import source_date_epoch
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.forms import KERNEL_ARGUMENTS, URL
from dcd.platform.cpio_archive import LONGEST_MEMBER_BYTES, TRAILER, newc_member, padding
from dcd.platform.foreign import X86
from dcd.platform.hardware import PC
from dcd.platform.inside import new_file, regular_file
from statemachine.errors import CheckpointError

IPXE, GRUB_BIOS = "boot.ipxe", "core.0"
"""What the firmware's network boot is to load: iPXE the script, BIOS an image of GRUB. GRUB for UEFI is
`Hardware.network_program`."""
GRUB_CFG = "grub.cfg"
_RECORD = "netboot"

_DIRECTORY = re.compile(r"http://[^?#]+/")
_BESIDE = "set prefix=$cmdpath\n"
"""GRUB's early configuration: its directory is the one from which it was loaded."""
_OF_SERVER = "set prefix=($root)\nsource $prefix/grub.cfg\n"
"""The first settings of a signed GRUB, whose own directory is one of the server: so is the kit."""
_MODULES = ("net", "tftp", "http", "regexp", *grub.MENU)


@dataclass(frozen=True)
class NetbootKit(Checkpoint):
    """Make the kit that starts the live system through the network.

    The scripts find everything beside themselves, over TFTP or HTTP. The entries of their menus are
    those of `boot_mods`, as for media. With `secure_boot`, UEFI starts signed programs.
    """

    DESCRIPTION = "Make the netboot kit"
    EXPECTED_SECONDS = 3.0
    REQUIRES = (products.BOOT_ARCHIVE, products.SQUASHFS, products.LIVE_BOOT)
    PROVIDES = (products.NETBOOT,)
    READS = (
        *("//boot_mods", "//distro.name", "//distro.add_timestamp"),
        *(*secure_boot.READS, *architecture.READS),
    )
    TOOLS = ("grub-bios", "grub-efi", "grub-mkimage", *secure_boot.TOOLS)
    DISK_BYTES = 1 << 30

    kernel_args: Annotated[str, KERNEL_ARGUMENTS] = "boot=live components quiet"
    """The kernel arguments of every entry, before its own; as for `GrubBootMenu`. The initramfs asks DHCP for
    its address by itself: with live-boot, `ip=` is for static addresses."""

    live_system: Literal["fetch", "initramfs"] = "fetch"
    """The way of the compressed image into the memory: the initramfs fetches it (`fetch`, over TFTP or HTTP),
    or it is inside the `initramfs`, which firmware and boot loader load whole. That needs no network driver
    in the image, twice the memory, and a fast boot loader."""

    base_url: Annotated[str, URL] | None = None
    """The http URL, with / at its end, of the directory from which the compressed image is fetched, if that
    is not where the boot loader got the scripts: for a web server, while TFTP serves the rest."""

    def needs(self, doc: DataObjectCache) -> Needs:
        bios = ("grub-bios",) if hardware(doc) is PC else ()
        # The signed programs are the image's, and so are GRUB's modules of other architectures.
        uefi = ("grub-efi",) if bios and not secure_boot.way_of(doc) else ()
        return Needs(
            tools=(*bios, *uefi, "grub-mkimage", *secure_boot.tools_of(doc)),
            disk_bytes=self.DISK_BYTES,
            secrets=secure_boot.secrets_of(doc),
        )

    def requires(self, doc: DataObjectCache) -> Iterator[tuple[str, ...]]:
        yield from super().requires(doc)
        if hardware(doc) is not PC:
            yield (products.GRUB["uefi"],)
        if way := secure_boot.way_of(doc):
            # Not the unified kernel image: it does not know the address of the compressed one.
            yield from (alternatives[:1] for alternatives in secure_boot.PRODUCTS[way])

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        yield from check_hardware(doc, self, "makes a kit for")
        if secure_boot.way_of(doc):
            yield from check_hardware(doc, self, "has Secure Boot for", only=X86)
        if self.base_url is not None and not _DIRECTORY.fullmatch(self.base_url):
            yield self.fault(
                doc,
                "base_url",
                "base_url is the http URL of a directory, with / at its end",
                f"It is {self.base_url!r}. The initramfs knows no https.",
                '<arg name="base_url">http://192.0.2.1/live/</arg>',
            )
        if self.base_url is not None and self.live_system == "initramfs":
            yield self.fault(
                doc,
                "base_url",
                "nothing is fetched from base_url",
                "The initramfs contains the compressed image.",
                '<arg name="live_system">fetch</arg>, or leave base_url out',
            )

    def execute(self, context: Context) -> None:
        files = {
            KERNEL: _required(context.boot_archive, KERNEL, products.BOOT_ARCHIVE),
            INITRAMFS: _required(context.boot_archive, INITRAMFS, products.BOOT_ARCHIVE),
            SQUASHFS: _required(context.media, f"iso/{LIVE_FILE_SYSTEM}", products.SQUASHFS),
        }
        epoch = source_date_epoch(context, int(files[SQUASHFS].stat().st_mtime))
        self._write_boot_loaders(context, files)
        if way := secure_boot.way_of(context.doc):
            _sign(context, way, files, epoch)
        if self.live_system == "initramfs":
            files[INITRAMFS] = _with_medium(files[INITRAMFS], files.pop(SQUASHFS), epoch, context)
        name = f"{media_name(context.doc, epoch)}-netboot"
        result = new_file(context.media, f"{name}.tar")
        context.report(Report(0.3, f"making {result.name}"))
        _pack(name, files, epoch, result)
        deliver_file(context, result, "netboot")
        record_medium(context, "netboot", result)
        record_values(context, _RECORD, {"base_url": self.base_url or ""})
        context.report(Report(1.0, f"{result.stat().st_size / (1 << 20):.1f} MiB"))

    def _write_boot_loaders(self, context: Context, files: dict[str, Path]) -> None:
        """Make the scripts and the images of GRUB, and add them to the files."""
        menu = menu_of(context, self.kernel_args)
        fetched = self.live_system == "fetch"
        for name, text in (
            (IPXE, ipxe_script(menu, self.base_url, fetched)),
            (GRUB_CFG, grub_network_cfg(menu, self.base_url, fetched)),
        ):
            files[name] = context.tmp / name
            files[name].write_text(text, "utf-8")
        machine = hardware(context.doc)
        images = []
        if not secure_boot.way_of(context.doc):
            video = ("efinet", *machine.video)
            images.append((machine.network_program, machine.grub["uefi"], video))
        if "bios" in machine.grub:
            images.append((GRUB_BIOS, "i386-pc-pxe", ("pxe",)))
        directory = grub.uefi_modules(context, machine)
        for name, target, modules in images:
            files[name] = context.tmp / name
            own = (*modules, *_MODULES)
            grub.core_image(context, target, own, _BESIDE, files[name], directory)


def recorded_base_url(context: Context) -> str:
    """The `base_url` of the kit that an earlier checkpoint has made, or ""."""
    return str(recorded(context, _RECORD).get("base_url", ""))


def _sign(context: Context, way: secure_boot.Way, files: dict[str, Path], epoch: int) -> None:
    """Add the signed programs to the files of a kit, in place of those that firmware would refuse."""
    settings = context.tmp / "first-grub.cfg"
    settings.write_text(_OF_SERVER, "utf-8")
    files[str(secure_boot.NETWORK_SETTINGS)] = settings
    programs = secure_boot.network_programs(context, way, epoch)
    files |= {str(name): path for name, path in programs.items()}
    files[KERNEL] = secure_boot.kernel_of_medium(context, way, epoch)


def _required(area: Path, path: str, product: str) -> Path:
    file = regular_file(area, path)
    if file is None:
        raise products.missing(product, f"there is no {path} for the kit in {area}")
    return file


def _with_medium(initramfs: Path, squashfs: Path, epoch: int, context: Context) -> Path:
    """An initramfs that contains the compressed image in a directory which is the live medium.

    Linux unpacks archives one after another. What is not compressed comes first: not every decompressor
    leaves alone what follows."""
    size = squashfs.stat().st_size
    if size > LONGEST_MEMBER_BYTES:
        raise CheckpointError(
            "an initramfs cannot hold a file of 4 GiB and more",
            f"the compressed image has {size} bytes",
            'use live_system "fetch"',
        )
    root = APPENDED.lstrip("/")
    result = context.tmp / "appended.img"
    with result.open("wb") as archive:
        archive.write(newc_member(root, 0o40755, 0, epoch, 1))
        archive.write(newc_member(f"{root}/live", 0o40755, 0, epoch, 2))
        archive.write(newc_member(f"{root}/{LIVE_FILE_SYSTEM}", 0o100644, size, epoch, 3))
        for part, after in ((squashfs, padding(size) + TRAILER), (initramfs, b"")):
            with part.open("rb") as file:
                shutil.copyfileobj(file, archive, 1 << 20)
            archive.write(after)
    return result


def _pack(name: str, files: Mapping[str, Path], epoch: int, result: Path) -> None:
    """Write the tar: a directory with the files, all root's, with one time."""
    inner = {f"{name}/{parent}" for own in files for parent in Path(own).parents if parent.name}
    with tarfile.open(result, "w", format=tarfile.GNU_FORMAT) as tar:
        for place in (name, *sorted(inner)):
            directory = tarfile.TarInfo(place)
            directory.type, directory.mode, directory.mtime = tarfile.DIRTYPE, 0o755, epoch
            tar.addfile(directory)
        for own, path in sorted(files.items()):
            member = tarfile.TarInfo(f"{name}/{own}")
            member.size, member.mtime = path.stat().st_size, epoch
            with path.open("rb") as file:
                tar.addfile(member, file)
