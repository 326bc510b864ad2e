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
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from dcd.checkpoints import architecture, other_boot_loaders, products, secure_boot
from dcd.checkpoints.architecture import AUTO, check_hardware, hardware, serial_line
from dcd.checkpoints.boot import unified
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
from dcd.checkpoints.media.grub import check_modules
from dcd.checkpoints.recorded import recorded
from dcd.checkpoints.times import source_date_epoch
from dcd.checkpoints.vm import boot_loader, installed, luks, verity
from dcd.checkpoints.vm.contents import Contents, Survey, check_room, entries_below, survey
from dcd.checkpoints.vm.create_disk import tools_for
from dcd.checkpoints.vm.disk import DiskLayout, recorded_disk
from dcd.checkpoints.vm.encodable import check_encodable
from dcd.checkpoints.vm.filling import Trees, fill_disk
from dcd.checkpoints.vm.layout import examine_layout, firmware
from dcd.checkpoints.vm.layout_checks import ESP
from dcd.checkpoints.vm.menu_settings import write_menu_settings
from dcd.checkpoints.vm.opening import NO_GROWTH, root_arguments, verity_arguments
from dcd.checkpoints.vm.volume_rules import MIB
from dcd.checkpoints.vm.volumes import (
    ALL_VOLUME_TOOLS,
    MOUNT_TOOLS,
    MOUNTED,
    SUBVOLUME_TOOLS,
    variances_of,
)
from dcd.manifest.diagnostics import Diagnostic, refuse
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.forms import KERNEL_ARGUMENTS, SERIAL_CONSOLE
from dcd.manifest.secrets import references
from dcd.platform.foreign import X86
from dcd.platform.inside import link_or_copy, make_directory, new_file, regular_file, resolve, write

_GRUB_MODULES_BYTES = 8 * MIB
"""The size of GRUB's modules in /boot for both kinds of firmware, rounded up."""


@dataclass(frozen=True)
class InstallOffline(Checkpoint):
    """Install the image onto the disk of `CreateDisk`."""

    DESCRIPTION = "Install the image onto the disk"
    EXPECTED_SECONDS = 6.0
    VERSION = 2
    PROVIDES = ()
    READS = (
        *("//boot_mods", "//vm_im.firmware", "//distro.name"),
        *(*secure_boot.READS, *architecture.READS),
    )
    TOOLS = (
        *(*boot_loader.TOOLS, *ALL_VOLUME_TOOLS, *MOUNT_TOOLS, *SUBVOLUME_TOOLS),
        *dict.fromkeys((*luks.TOOLS, *verity.TOOLS, *secure_boot.TOOLS, *verity.SIGNING_TOOLS)),
        *unified.OBJCOPY,
    )

    kernel_args: Annotated[str, KERNEL_ARGUMENTS] = "quiet"
    """The kernel arguments of every entry of the menu, before its own (from `boot_mods` in
    `vm_im`)."""

    serial_console: Annotated[str, SERIAL_CONSOLE] = AUTO
    """The serial line of the menu and of the image's own entry, with its speed. Empty: none. `auto`: the
    first one of the machine (`ttyS0`, for arm64 `ttyAMA0`) at 115200 bits a second."""

    grow_root: bool = True
    """Let the root partition, which must be the last on the disk, grow to the rest of a larger disk at each
    start of the system. A verified root never grows. The program of `UnifiedKernelImage` lets an encrypted
    one grow unless `systemd.mask=systemd-repart.service` is among its arguments."""

    cloud_init: bool = False
    """Enable the image's cloud-init, for a NoCloud volume or a configuration drive; otherwise it is
    disabled."""

    def needs(self, doc: DataObjectCache) -> Needs:
        layout, faults = examine_layout(doc)
        # Of a faulty layout, which CreateDisk reports, nothing is sure.
        mounted = bool(faults) or any(one.volume.type in MOUNTED for one in layout.volumes)
        encrypted = [one for one in layout.containers if one.luks]
        tools = (
            *(*boot_loader.TOOLS, *tools_for(layout), *(MOUNT_TOOLS if mounted else ())),
            *(SUBVOLUME_TOOLS if any(one.volume.subvolumes for one in layout.volumes) else ()),
            *(luks.TOOLS if encrypted else ()),
            *(verity.TOOLS if any(one.verity for one in layout.containers) else ()),
            *(verity.SIGNING_TOOLS if verity.keys_of(doc) else ()),
            *(unified.OBJCOPY if unified.is_wanted(doc) else ()),
        )
        passphrases = [one for each in luks.passphrases_of(doc).values() for one in each]
        return Needs(
            tools=self.TOOLS if faults else (*tools, *secure_boot.tools_of(doc)),
            # An encrypted partition has no holes, and is encrypted in a copy.
            disk_bytes=(1 << 30) + 2 * sum(one.size for one in encrypted),
            secrets=(
                *secure_boot.secrets_of(doc),
                *references((*passphrases, *verity.keys_of(doc))),
            ),
            # Always: the directory of an inner volume is covered while the outer one is made, and only with
            # this right are attributes of the kind trusted.* visible.
            capabilities=MOUNTS,
            devices=(ALL_DEVICES,) if mounted else (),
        )

    def variances(self, doc: DataObjectCache) -> Iterator[Variance]:
        layout, _ = examine_layout(doc)
        yield from variances_of(layout)
        yield from luks.variances_of(layout)

    def requires(self, doc: DataObjectCache) -> Iterator[tuple[str, ...]]:
        yield from ((name,) for name in (products.IMAGE, products.KERNEL_RECORD, products.DISK))
        alternative = {"bios": (), "uefi": (products.UNIFIED,)}
        yield from ((products.GRUB[kind], *alternative[kind]) for kind in sorted(firmware(doc)))
        if "uefi" in firmware(doc) and (way := secure_boot.way_of(doc)):
            yield from secure_boot.PRODUCTS[way]

    def check(self, doc: DataObjectCache) -> Iterator[Diagnostic]:
        yield from check_hardware(doc, self, "makes a disk start on")
        if secure_boot.way_of(doc):
            yield from check_hardware(doc, self, "has Secure Boot for", only=X86)
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
        machine = hardware(context.doc)
        check_modules(context.pkg_image, machine, grubs)
        if "uefi" in kinds:
            other_boot_loaders.report_found(context, "the disk")
        installed.require_programs(
            context.pkg_image, grow_root=self._grows(layout), cloud_init=self.cloud_init
        )
        version, initramfs = _kernel(context)
        found = _survey(context, layout, initramfs)
        epoch = source_date_epoch(context, found.newest_ns // 1_000_000_000)
        context.report(Report(0.05, "making the image an installed system"))
        self._install_system(context, layout, version, initramfs)
        if "uefi" in grubs and (way := secure_boot.way_of(context.doc)):
            secure_boot.prepare_kernels(context, way, epoch)
        boot_loader.copy_modules(context.pkg_image, machine, grubs)
        newest_ns = min(found.newest_ns, epoch * 1_000_000_000)
        _keep_times(context.pkg_image, newest_ns)
        trees = _trees(context, layout)

        def add_programs() -> None:
            if "uefi" in kinds:
                _add_programs(context, layout, trees, newest_ns, epoch)

        def finish_boot(root_hash: str) -> None:
            arguments = self._root_hash_arguments(context, layout, root_hash)
            self._write_menu(context, layout, version, arguments)
            unified.add_root_hash(context, arguments)
            add_programs()
            _keep_times(resolve(context.pkg_image, "boot"), newest_ns)

        if not boot_loader.place_of(layout, "/").partition.verified:
            add_programs()
        fill_disk(context, disk, layout, epoch, trees, finish_boot)
        if "bios" in kinds:
            boot_loader.install_for_bios(context, disk, layout)
        used = disk.stat().st_blocks * 512 // MIB
        context.report(Report(1.0, f"{disk.name}: {used} MiB of {layout.size // MIB} used"))

    def _grows(self, layout: DiskLayout) -> bool:
        root = layout.mounted_at("/")
        return self.grow_root and root is not None and not root.verified

    def _install_system(
        self, context: Context, layout: DiskLayout, version: str, initramfs: Path
    ) -> None:
        """Turn the image area into the content of the disk."""
        root = context.pkg_image
        for mountpoint in layout.mounted:
            make_directory(root, mountpoint)
        installed.write_fstab(root, layout, self._grows(layout))
        if self._grows(layout):
            installed.grow_root(root, layout)
        remove_identity(root)
        if without_host_keys(root):
            context.warn(NO_HOST_KEYS)
        installed.arrange_cloud_init(root, self.cloud_init)
        link_or_copy(initramfs, new_file(root, f"boot/initrd.img-{version}"))
        if not boot_loader.place_of(layout, "/").partition.verified:
            self._write_menu(context, layout, version)

    def _write_menu(
        self, context: Context, layout: DiskLayout, version: str, root_hash_arguments: str = ""
    ) -> None:
        """Write the menu into /boot, and its settings. Those of a verified root, which has
        `root_hash_arguments`, stay the same: nothing can change a file there."""
        root = boot_loader.place_of(layout, "/").partition
        boot = boot_loader.place_of(layout, "/boot")
        console = serial_line(context.doc, self.serial_console, ",115200")
        serial, consoles = installed.consoles(console)
        before = root_arguments(root)
        if root.encrypted and not self._grows(layout):
            before += f" {NO_GROWTH}"
        if root_hash_arguments:
            before += f" {root_hash_arguments}"
        menu = menu_of(context, f"{before} {self.kernel_args}", consoles)
        text = grub_cfg(
            menu,
            find=boot.find,
            kernel=str(boot.path / f"{hardware(context.doc).kernel_file}-{version}"),
            initramfs=str(boot.path / f"initrd.img-{version}"),
            serial=serial,
            others=_other_kernels(context, version),
        )
        write(context.pkg_image, "boot/grub/grub.cfg", text)
        if root_hash_arguments:
            return
        count = len(before.split())
        without = tuple(Entry(one.title, one.arguments[count:]) for one in menu.entries)
        rest = " ".join(before.split()[1:])
        write_menu_settings(context.pkg_image, replace(menu, entries=without), serial, rest)

    def _root_hash_arguments(self, context: Context, layout: DiskLayout, root_hash: str) -> str:
        """The kernel's arguments for a root hash, which is also in a file of /boot, with its signature."""
        keys = verity.keys_of(context.doc)
        signature = verity.signature(context, keys[0], root_hash) if keys else None
        write(context.pkg_image, "boot/root.roothash", root_hash)
        if signature is not None:
            write(context.pkg_image, "boot/root.roothash.p7s", signature)
        context.report(Report(message=f"root hash: {root_hash}"))
        root = boot_loader.place_of(layout, "/").partition
        return verity_arguments(layout, root, root_hash, signature)


def _kernel(context: Context) -> tuple[str, Path]:
    """The image's kernel version, and its initramfs in the boot archive."""
    version = recorded(context, "boot_archive").get("kernel_version", "")
    initramfs = regular_file(context.boot_archive, "initrd.img")
    if not version or initramfs is None:
        raise products.missing(products.KERNEL_RECORD)
    return version, initramfs


def _other_kernels(context: Context, version: str) -> list[str]:
    """The versions of the image's other kernels that have an initramfs, newest first."""
    boot = resolve(context.pkg_image, "boot")
    beginning = f"{hardware(context.doc).kernel_file}-"
    found = {file.name.removeprefix(beginning) for file in boot.glob(f"{beginning}*")} - {version}
    complete = {one for one in found if regular_file(boot, f"initrd.img-{one}") is not None}
    if found - complete:
        lacking = ", ".join(sorted(found - complete))
        context.warn(f"the menu has no entry for kernel {lacking}: it has no initramfs in /boot")
    return sorted(complete, key=_by_numbers, reverse=True)


def _by_numbers(version: str) -> list[tuple[int, str]]:
    """A key that sorts 6.1.0-9 before 6.1.0-10."""
    parts = re.findall(r"\d+|\D+", version)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


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


def _trees(context: Context, layout: DiskLayout) -> dict[tuple[str, str], Path]:
    """The directory with the content of each volume, by its UUID and the name of its subvolume."""
    trees = {
        (one.volume.uuid, subvolume.name if subvolume else ""): resolve(context.pkg_image, point)
        for one in layout.volumes
        for point, subvolume in one.volume.mounts.items()
    }
    for key in ((one.volume.uuid, "") for one in layout.volumes if one.type == ESP):
        # The boot loader's program is for the ESP alone.
        tree = context.tmp / f"esp-{key[0]}"
        if key in trees:
            shutil.copytree(trees[key], tree, symlinks=True)
        else:
            tree.mkdir()
        trees[key] = tree
    return trees


def _add_programs(context: Context, layout: DiskLayout, trees: Trees, ns: int, epoch: int) -> None:
    """Put the programs for UEFI into each ESP: firmware may start any of them."""
    files = boot_loader.uefi_files(context, layout, epoch)
    for esp in (one for one in layout.volumes if one.type == ESP):
        contents = Contents()
        for file in files.values():
            contents.add(file.stat().st_size)
        check_room(esp, contents)
        for path, file in files.items():
            target = new_file(trees[esp.volume.uuid, ""], path)
            shutil.copyfile(file, target)
            for changed in (target, target.parent, target.parent.parent):
                os.utime(changed, ns=(ns, ns))
