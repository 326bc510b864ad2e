"""`InstallOffline`: the image area onto the disk, so that it starts there by itself. No guest, no reboot.

The image area becomes an installed system (fstab by UUID, kernel and initramfs in /boot under their
versioned names, GRUB's menu and modules, no identity of its own), and the disk is made again with what
belongs into each volume: the same layout, the same ids, and nothing left of what was there before. GRUB is
put on it for the firmware of the manifest. What an updated kernel or `update-grub` does later in the
guest works as on any Debian.

Everything that can be said before is said before anything is written: content that does not fit, a boot
loader that the image lacks. The same layer gives the same bytes where the tools allow it: ids derive
from the layout, and no time is after SOURCE_DATE_EPOCH or that of the newest file of the image.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from dcd.checkpoints import other_boot_loaders, products
from dcd.checkpoints.architecture import check_x86
from dcd.checkpoints.boot.menu import (
    Entry,
    boot_mods,
    grub_cfg,
    menu,
    menu_timeout,
    menu_title,
)
from dcd.checkpoints.image.identity import NO_HOST_KEYS, remove_identity, without_host_keys
from dcd.checkpoints.interface import ALL_DEVICES, MOUNTS, Checkpoint, Context, Needs, Report
from dcd.checkpoints.times import source_date_epoch
from dcd.checkpoints.vm import boot_loader, installed
from dcd.checkpoints.vm.contents import Survey, check_room, entries_below, survey
from dcd.checkpoints.vm.create_disk import begin_disk, tools_for
from dcd.checkpoints.vm.disk import DiskLayout, VolumePartition, recorded_disk
from dcd.checkpoints.vm.encodable import check_encodable
from dcd.checkpoints.vm.layout import examine_layout, firmware
from dcd.checkpoints.vm.layout_checks import ESP
from dcd.checkpoints.vm.menu_settings import MenuSettings, write_menu_settings
from dcd.checkpoints.vm.volume_rules import MIB
from dcd.checkpoints.vm.volumes import MOUNT_TOOLS, MOUNTED, VOLUME_TOOLS, Place, make_volume
from dcd.manifest.diagnostics import Diagnostic, refuse
from dcd.manifest.doc import DataObjectCache, DataObjectDict
from dcd.manifest.forms import KERNEL_ARGUMENTS, SERIAL_CONSOLE
from dcd.platform.inside import make_directory, new_file, regular_file, resolve, write
from statemachine.errors import CheckpointError
from store.host.mounts import mount, unmount

_GRUB_MODULES_BYTES = 8 * MIB
"""What GRUB's modules for both kinds of firmware take in /boot, rounded up."""


@dataclass(frozen=True, slots=True)
class _Kernel:
    """The image's kernel version and where its initramfs is now."""

    version: str
    initramfs: Path


@dataclass(frozen=True)
class InstallOffline(Checkpoint):
    """Install the image onto the disk of `CreateDisk`."""

    DESCRIPTION = "Install the image onto the disk"
    EXPECTED_SECONDS = 6.0
    VERSION = 2
    PROVIDES = ()
    READS = ("//boot_mods", "//vm_im.firmware", "//distro.name")
    TOOLS = tuple(
        dict.fromkeys(
            (
                *boot_loader.TOOLS,
                *(tool for tools in VOLUME_TOOLS.values() for tool in tools),
                *MOUNT_TOOLS,
            )
        )
    )

    kernel_args: Annotated[str, KERNEL_ARGUMENTS] = "quiet"
    """The kernel arguments of every entry of the menu, before its own (from `boot_mods` in
    `vm_im`)."""

    serial_console: Annotated[str, SERIAL_CONSOLE] = "ttyS0,115200"
    """The serial line that the menu and the image's own entry use, with its speed. Empty: none."""

    grow_root: bool = True
    """Let the root partition, which must be the last on the disk, take the rest of a larger disk
    whenever the system starts."""

    cloud_init: bool = False
    """Switch the image's cloud-init on, for a NoCloud volume or a configuration drive; otherwise it
    is off."""

    def needs(self, doc: DataObjectCache) -> Needs:
        layout = _planned(doc)
        if layout is None:
            return Needs(
                tools=self.TOOLS,
                disk_bytes=1 << 30,
                capabilities=MOUNTS,
                devices=(ALL_DEVICES,),
            )
        mounted = any(one.volume.type in MOUNTED for one in layout.volumes)
        tools = (*boot_loader.TOOLS, *tools_for(layout), *(MOUNT_TOOLS if mounted else ()))
        return Needs(
            tools=tools,
            disk_bytes=1 << 30,
            # Also without such volumes: what is in a volume of its own is covered while the others are
            # made, and attributes of the kind trusted.* are seen by nobody else.
            capabilities=MOUNTS,
            devices=(ALL_DEVICES,) if mounted else (),
        )

    def requires(self, doc: DataObjectCache) -> Iterator[tuple[str, ...]]:
        yield from ((name,) for name in (products.IMAGE, products.KERNEL_RECORD, products.DISK))
        yield from ((products.GRUB[kind],) for kind in sorted(firmware(doc)))

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        yield from check_x86(doc, self, "makes a disk start on", fails=False)
        layout = _planned(doc)
        if layout is not None:
            yield from installed.check_root(doc, self, layout, self.grow_root)

        if "uefi" in firmware(doc):
            yield from other_boot_loaders.check_packages(doc, self, "the disk")

    def execute(self, context: Context) -> None:
        disk, layout = recorded_disk(context, change=True)
        refuse(installed.check_root(context.doc, self, layout, self.grow_root))
        kinds = firmware(context.doc)
        boot_loader.check_packages(context.pkg_image, kinds)
        if "uefi" in kinds:
            other_boot_loaders.report_found(context, "the disk")
        installed.check_means(
            context.pkg_image, grow_root=self.grow_root, cloud_init=self.cloud_init
        )
        kernel = _kernel(context)
        found = _survey(context, layout, kernel)
        epoch = source_date_epoch(context, found.newest_ns // 1_000_000_000)
        context.report(Report(0.05, "making the image an installed system"))
        self._install_system(context, layout, kernel)
        boot_loader.copy_modules(context.pkg_image, kinds)
        newest_ns = min(found.newest_ns, epoch * 1_000_000_000)
        _keep_times(context.pkg_image, newest_ns)
        trees = _trees(context, layout)
        if "uefi" in kinds:
            _add_programs(context, layout, trees, newest_ns)
        _make_disk(context, disk, layout, epoch, trees)
        if "bios" in kinds:
            boot_loader.install_for_bios(context, disk, layout)
        used = disk.stat().st_blocks * 512
        context.report(
            Report(1.0, f"{disk.name}: {used / MIB:.0f} MiB of {layout.size // MIB} used")
        )

    def _install_system(self, context: Context, layout: DiskLayout, kernel: _Kernel) -> None:
        """Make the image area what the disk is to hold."""
        root = context.pkg_image
        for mountpoint in layout.mounted:
            make_directory(root, mountpoint)
        installed.write_fstab(root, layout, self.grow_root)
        if self.grow_root:
            installed.check_growth(root)
            installed.grow_root(root, layout)
        remove_identity(root)
        if without_host_keys(root):
            context.warn(NO_HOST_KEYS)
        installed.arrange_cloud_init(root, self.cloud_init)
        _link_or_copy(kernel.initramfs, new_file(root, f"boot/initrd.img-{kernel.version}"))
        self._write_menu(context, layout, kernel.version)

    def _write_menu(self, context: Context, layout: DiskLayout, version: str) -> None:
        root = boot_loader.place_of(layout, "/").partition
        boot = boot_loader.place_of(layout, "/boot")
        serial = installed.serial_of(self.serial_console)
        consoles = f"console=tty0 console={self.serial_console}" if serial else ""
        before = f"root=UUID={root.volume.uuid} ro"
        mods, title = boot_mods(context.doc), menu_title(context)
        entries, default, own = menu(mods, title, f"{before} {self.kernel_args}", consoles)
        timeout = menu_timeout(mods)
        text = grub_cfg(
            entries,
            default,
            timeout,
            find=boot.find,
            kernel=str(boot.path / f"vmlinuz-{version}"),
            initramfs=str(boot.path / f"initrd.img-{version}"),
            serial=serial,
        )
        write(context.pkg_image, "boot/grub/grub.cfg", text)
        count = len(before.split())
        without = [Entry(each.title, each.arguments[count:]) for each in entries]
        settings = MenuSettings(title, timeout, without, own, default, serial)
        write_menu_settings(context.pkg_image, settings)


def _planned(doc: DataObjectCache) -> DiskLayout | None:
    """The layout that the manifest describes; None when it is not valid, which is for CreateDisk to say."""
    layout, faults = examine_layout(doc)
    return None if faults else layout


def _kernel(context: Context) -> _Kernel:
    record = context.doc.persistent.get_first_child("boot_archive", DataObjectDict)
    initramfs = regular_file(context.boot_archive, "initrd.img")
    version = "" if record is None else str(record["kernel_version"])
    if not version or initramfs is None:
        raise CheckpointError(
            "there is no initramfs for the disk",
            "no checkpoint before has made one",
            "run a boot archive checkpoint (DebianBootArchive) before",
        )
    return _Kernel(version, initramfs)


def _survey(context: Context, layout: DiskLayout, kernel: _Kernel) -> Survey:
    """What the image holds, and that there is room for it and for what the boot loader adds."""
    image = context.pkg_image
    mounted = {resolve(image, point): one for point, one in layout.mounted.items()}
    found = survey(image, mounted)
    boot = boot_loader.place_of(layout, "/boot").partition
    for path, partition in mounted.items():
        contents = found.volumes[path]
        if partition is boot:
            contents.add(kernel.initramfs.stat().st_size + _GRUB_MODULES_BYTES)
        check_room(partition, contents)
        check_encodable(partition, path, mounted)
    return found


def _keep_times(tree: Path, newest_ns: int) -> None:
    """Give what is younger, as what was written just now, the time `newest_ns`."""
    found = [Path(one) for one in entries_below(tree) if _mtime_ns(one) > newest_ns]
    for path in (*found, tree):
        os.utime(path, ns=(newest_ns, newest_ns), follow_symlinks=False)


def _mtime_ns(entry: os.DirEntry[str]) -> int:
    return entry.stat(follow_symlinks=False).st_mtime_ns


def _trees(context: Context, layout: DiskLayout) -> dict[int, Path]:
    """Where the content of each partition's volume is."""
    trees = {one.number: resolve(context.pkg_image, point) for point, one in layout.mounted.items()}
    for partition in layout.partitions:
        if partition.type == ESP:
            # The boot loader's program is for the ESP alone.
            tree = context.tmp / f"esp-{partition.number}"
            if partition.number in trees:
                shutil.copytree(trees[partition.number], tree, symlinks=True)
            else:
                tree.mkdir()
            trees[partition.number] = tree
    return trees


def _add_programs(context: Context, layout: DiskLayout, trees: Mapping[int, Path], ns: int) -> None:
    """Put GRUB's program for UEFI into each ESP: firmware may look into any."""
    program = context.tmp / boot_loader.UEFI_PROGRAM.name
    boot_loader.uefi_program(context, layout, program)
    for esp in (one for one in layout.partitions if one.type == ESP):
        target = new_file(trees[esp.number], boot_loader.UEFI_PROGRAM)
        shutil.copyfile(program, target)
        for path in (target, target.parent, target.parent.parent):
            os.utime(path, ns=(ns, ns))


def _make_disk(
    context: Context, disk: Path, layout: DiskLayout, epoch: int, trees: Mapping[int, Path]
) -> None:
    """Make the disk again, each volume with what belongs into it, inner ones first."""
    begin_disk(disk, layout)
    with ExitStack() as covers:
        for done, partition in enumerate(sorted(layout.volumes, key=_depth, reverse=True)):
            point = partition.volume.mountpoint
            fraction = 0.1 + 0.8 * done / len(layout.volumes)
            name = point or "not mounted"
            context.report(
                Report(fraction, f"partition {partition.number}: {partition.volume.type}, {name}")
            )
            tree = trees.get(partition.number)
            make_volume(context, Place(disk, layout, partition, epoch), tree)
            if point is not None and point != "/":
                covers.enter_context(_covered(resolve(context.pkg_image, point)))


def _depth(partition: VolumePartition) -> int:
    return len(Path(partition.volume.mountpoint or "/").parts)


@contextmanager
def _covered(directory: Path) -> Iterator[None]:
    """Hide what is in a directory, which is in a volume of its own, from what copies the tree around it."""
    if not any(directory.iterdir()):
        yield
        return
    status = directory.stat()
    mode = f"{status.st_mode & 0o7777:o}"
    mount("tmpfs", directory, f"mode={mode},uid={status.st_uid},gid={status.st_gid}")
    try:
        os.utime(directory, ns=(status.st_mtime_ns, status.st_mtime_ns))
        yield
    finally:
        unmount(directory)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
