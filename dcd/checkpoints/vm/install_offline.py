"""`InstallOffline`: installs the image area onto the disk, which then boots. No guest, no reboot.

The image area becomes an installed system (fstab by UUID, kernel and initramfs in /boot under their
versioned names, GRUB's menu and modules, no identity of its own). The disk is made again with the same
layout and ids, each volume with its content, and nothing of the previous disk remains. GRUB is installed for
the firmware of the manifest. Updates of the kernel and `update-grub` work later in the guest as on any
Debian.

All checks precede the first write: content that does not fit, a boot loader that the image lacks. The same
layer gives the same bytes where the tools allow it: ids derive from the layout, and no time is after
SOURCE_DATE_EPOCH or that of the newest file of the image.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from dcd.checkpoints import other_boot_loaders, products, secure_boot
from dcd.checkpoints.architecture import check_x86
from dcd.checkpoints.boot.menu import Entry, grub_cfg, menu_of
from dcd.checkpoints.image.identity import NO_HOST_KEYS, remove_identity, without_host_keys
from dcd.checkpoints.interface import (
    ALL_DEVICES,
    MOUNTS,
    Checkpoint,
    Context,
    Needs,
    Report,
    Variance,
)
from dcd.checkpoints.recorded import recorded
from dcd.checkpoints.times import source_date_epoch
from dcd.checkpoints.vm import boot_loader, installed
from dcd.checkpoints.vm.contents import Contents, Survey, check_room, entries_below, survey
from dcd.checkpoints.vm.create_disk import begin_disk, tools_for
from dcd.checkpoints.vm.disk import DiskLayout, VolumePartition, recorded_disk
from dcd.checkpoints.vm.encodable import check_encodable
from dcd.checkpoints.vm.layout import examine_layout, firmware
from dcd.checkpoints.vm.layout_checks import ESP
from dcd.checkpoints.vm.menu_settings import write_menu_settings
from dcd.checkpoints.vm.volume_rules import MIB
from dcd.checkpoints.vm.volumes import (
    ALL_VOLUME_TOOLS,
    MOUNT_TOOLS,
    MOUNTED,
    Place,
    make_volume,
    variances_of,
)
from dcd.manifest.diagnostics import Diagnostic, refuse
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.forms import KERNEL_ARGUMENTS, SERIAL_CONSOLE
from dcd.platform.inside import link_or_copy, make_directory, new_file, regular_file, resolve, write
from store.host.mounts import mount, unmount

_GRUB_MODULES_BYTES = 8 * MIB
"""The size of GRUB's modules in /boot for both kinds of firmware, rounded up."""


@dataclass(frozen=True)
class InstallOffline(Checkpoint):
    """Install the image onto the disk of `CreateDisk`."""

    DESCRIPTION = "Install the image onto the disk"
    EXPECTED_SECONDS = 6.0
    VERSION = 2
    PROVIDES = ()
    READS = ("//boot_mods", "//vm_im.firmware", "//distro.name", *secure_boot.READS)
    TOOLS = (*boot_loader.TOOLS, *ALL_VOLUME_TOOLS, *MOUNT_TOOLS, *secure_boot.TOOLS)

    kernel_args: Annotated[str, KERNEL_ARGUMENTS] = "quiet"
    """The kernel arguments of every entry of the menu, before its own (from `boot_mods` in
    `vm_im`)."""

    serial_console: Annotated[str, SERIAL_CONSOLE] = "ttyS0,115200"
    """The serial line of the menu and of the image's own entry, with its speed. Empty: none."""

    grow_root: bool = True
    """Let the root partition, which must be the last on the disk, grow to the rest of a larger disk at each
    start of the system."""

    cloud_init: bool = False
    """Enable the image's cloud-init, for a NoCloud volume or a configuration drive; otherwise it is
    disabled."""

    def needs(self, doc: DataObjectCache) -> Needs:
        layout, faults = examine_layout(doc)
        # Of a faulty layout, which CreateDisk reports, nothing is sure.
        mounted = bool(faults) or any(one.volume.type in MOUNTED for one in layout.volumes)
        volumes = ALL_VOLUME_TOOLS if faults else tools_for(layout)
        tools = (*boot_loader.TOOLS, *volumes, *(MOUNT_TOOLS if mounted else ()))
        return Needs(
            tools=(*tools, *secure_boot.tools_of(doc)),
            secrets=secure_boot.secrets_of(doc),
            disk_bytes=1 << 30,
            # Always: the directory of an inner volume is covered while the outer one is made, and only with
            # this right are attributes of the kind trusted.* visible.
            capabilities=MOUNTS,
            devices=(ALL_DEVICES,) if mounted else (),
        )

    def variances(self, doc: DataObjectCache) -> Iterator[Variance]:
        yield from variances_of(examine_layout(doc)[0])

    def requires(self, doc: DataObjectCache) -> Iterator[tuple[str, ...]]:
        yield from ((name,) for name in (products.IMAGE, products.KERNEL_RECORD, products.DISK))
        alternative = {"bios": (), "uefi": (products.UNIFIED,)}
        yield from ((products.GRUB[kind], *alternative[kind]) for kind in sorted(firmware(doc)))
        if "uefi" in firmware(doc) and (way := secure_boot.way_of(doc)):
            yield from secure_boot.PRODUCTS[way]

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        yield from check_x86(doc, self, "makes a disk start on", fails=False)
        layout, faults = examine_layout(doc)
        if not faults:  # Otherwise CreateDisk reports them.
            yield from installed.check_root(doc, self, layout, self.grow_root)
        if "uefi" in firmware(doc):
            yield from other_boot_loaders.check_packages(doc, self, "the disk")

    def execute(self, context: Context) -> None:
        disk, layout = recorded_disk(context, change=True)
        refuse(installed.check_root(context.doc, self, layout, self.grow_root))
        kinds = firmware(context.doc)
        grubs = kinds - {"uefi"} if secure_boot.unified_of(context) else kinds
        boot_loader.check_packages(context.pkg_image, grubs)
        if "uefi" in kinds:
            other_boot_loaders.report_found(context, "the disk")
        installed.require_programs(
            context.pkg_image, grow_root=self.grow_root, cloud_init=self.cloud_init
        )
        version, initramfs = _kernel(context)
        found = _survey(context, layout, initramfs)
        epoch = source_date_epoch(context, found.newest_ns // 1_000_000_000)
        context.report(Report(0.05, "making the image an installed system"))
        self._install_system(context, layout, version, initramfs)
        if "uefi" in grubs and (way := secure_boot.way_of(context.doc)):
            secure_boot.prepare_kernels(context, way, epoch)
        boot_loader.copy_modules(context.pkg_image, grubs)
        newest_ns = min(found.newest_ns, epoch * 1_000_000_000)
        _keep_times(context.pkg_image, newest_ns)
        trees = _trees(context, layout)
        if "uefi" in kinds:
            _add_programs(context, layout, trees, newest_ns, epoch)
        _make_disk(context, disk, layout, epoch, trees)
        if "bios" in kinds:
            boot_loader.install_for_bios(context, disk, layout)
        used = disk.stat().st_blocks * 512 // MIB
        context.report(Report(1.0, f"{disk.name}: {used} MiB of {layout.size // MIB} used"))

    def _install_system(
        self, context: Context, layout: DiskLayout, version: str, initramfs: Path
    ) -> None:
        """Turn the image area into the content of the disk."""
        root = context.pkg_image
        for mountpoint in layout.mounted:
            make_directory(root, mountpoint)
        installed.write_fstab(root, layout, self.grow_root)
        if self.grow_root:
            installed.grow_root(root, layout)
        remove_identity(root)
        if without_host_keys(root):
            context.warn(NO_HOST_KEYS)
        installed.arrange_cloud_init(root, self.cloud_init)
        link_or_copy(initramfs, new_file(root, f"boot/initrd.img-{version}"))
        self._write_menu(context, layout, version)

    def _write_menu(self, context: Context, layout: DiskLayout, version: str) -> None:
        root = boot_loader.place_of(layout, "/").partition
        boot = boot_loader.place_of(layout, "/boot")
        serial, consoles = installed.consoles(self.serial_console)
        before = f"root=UUID={root.volume.uuid} ro"
        menu = menu_of(context, f"{before} {self.kernel_args}", consoles)
        text = grub_cfg(
            menu,
            find=boot.find,
            kernel=str(boot.path / f"vmlinuz-{version}"),
            initramfs=str(boot.path / f"initrd.img-{version}"),
            serial=serial,
        )
        write(context.pkg_image, "boot/grub/grub.cfg", text)
        count = len(before.split())
        without = tuple(Entry(one.title, one.arguments[count:]) for one in menu.entries)
        write_menu_settings(context.pkg_image, replace(menu, entries=without), serial)


def _kernel(context: Context) -> tuple[str, Path]:
    """The image's kernel version, and its initramfs in the boot archive."""
    version = recorded(context, "boot_archive").get("kernel_version", "")
    initramfs = regular_file(context.boot_archive, "initrd.img")
    if not version or initramfs is None:
        raise products.missing(products.KERNEL_RECORD)
    return version, initramfs


def _survey(context: Context, layout: DiskLayout, initramfs: Path) -> Survey:
    """The contents of the image, after a check that they and the boot loader fit into the volumes."""
    image = context.pkg_image
    mounted = {resolve(image, point): one for point, one in layout.mounted.items()}
    found = survey(image, mounted)
    boot = boot_loader.place_of(layout, "/boot").partition
    for path, partition in mounted.items():
        contents = found.volumes[path]
        if partition is boot:
            contents.add(initramfs.stat().st_size + _GRUB_MODULES_BYTES)
        check_room(partition, contents)
        check_encodable(partition, path, mounted)
    return found


def _keep_times(tree: Path, newest_ns: int) -> None:
    """Set later times, such as those of files written just now, back to `newest_ns`."""
    later = (
        Path(one.path)
        for one in entries_below(tree)
        if one.stat(follow_symlinks=False).st_mtime_ns > newest_ns
    )
    for path in (*later, tree):
        os.utime(path, ns=(newest_ns, newest_ns), follow_symlinks=False)


def _trees(context: Context, layout: DiskLayout) -> dict[int, Path]:
    """The directory with the content of each partition's volume, by number."""
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


def _add_programs(
    context: Context, layout: DiskLayout, trees: Mapping[int, Path], ns: int, epoch: int
) -> None:
    """Put the programs for UEFI into each ESP: firmware may start any of them."""
    files = boot_loader.uefi_files(context, layout, epoch)
    for esp in (one for one in layout.volumes if one.type == ESP):
        contents = Contents()
        for file in files.values():
            contents.add(file.stat().st_size)
        check_room(esp, contents)
        for path, file in files.items():
            target = new_file(trees[esp.number], path)
            shutil.copyfile(file, target)
            for changed in (target, target.parent, target.parent.parent):
                os.utime(changed, ns=(ns, ns))


def _make_disk(
    context: Context, disk: Path, layout: DiskLayout, epoch: int, trees: Mapping[int, Path]
) -> None:
    """Make the disk again, each volume with its content, inner ones first."""
    begin_disk(disk, layout)
    with ExitStack() as covers:
        for done, partition in enumerate(sorted(layout.volumes, key=_depth, reverse=True)):
            kind, point = partition.volume.type, partition.volume.mountpoint
            message = f"partition {partition.number}: {kind}, {point or 'not mounted'}"
            context.report(Report(0.1 + 0.8 * done / len(layout.volumes), message))
            tree = trees.get(partition.number)
            make_volume(context, Place(disk, layout, partition, epoch), tree)
            if point is not None and point != "/":
                covers.enter_context(_covered(resolve(context.pkg_image, point)))


def _depth(partition: VolumePartition) -> int:
    return len(Path(partition.volume.mountpoint or "/").parts)


@contextmanager
def _covered(directory: Path) -> Iterator[None]:
    """Hide the content of a directory, which has its own volume, from the copy of the tree around it."""
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
