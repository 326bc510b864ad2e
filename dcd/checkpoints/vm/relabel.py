"""`Relabel`: makes the installed system independent of the device that it was installed on.

It reads the disk of an earlier checkpoint after an installation, and changes only references to devices: in
fstab, crypttab, GRUB's and the kernel's arguments, the initramfs' settings, rules that remember network cards
(`ties` has the list), and in the labels of ZFS pools. A disk without such references, as after an offline
installation, stays identical to the byte. Every change is reported, and so is every reference that a
person has to judge. A second run changes nothing. Encrypted and verified file systems are left out: only
`InstallOffline` makes them, which writes no such reference.

**ZFS.** The labels of a pool's device have its place when the pool was last open. An illumos kernel opens
the device of its root pool by `devid`, else by `path`, else by `phys_path`; a newer one finally searches all
devices for the pool's guid. The installer's values are invalid in another machine, and a devid could even
belong to another disk. So by default devid and phys_path are removed, and the path, which is mandatory,
stays. For a known machine, give all three as its illumos prints them (`zdb -l`); for a SATA disk of a PC,
for example, /dev/dsk/c1t0d0s0 and /pci@0,0/pci8086,2829@d/disk@0,0:a.
OpenZFS on Linux finds devices by guid and needs none of them.

The original could instead boot installer media that import the pool in the final machine and export it, so
that ZFS itself writes the labels. A CustomScript can drive such media. Neither that, nor the boot of a
rewritten pool by illumos, has been tested, for lack of illumos media. The tests show that ZFS accepts,
imports and scrubs rewritten labels.
"""

import os
import stat
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated

from dcd.checkpoints import products
from dcd.checkpoints.interface import ALL_DEVICES, MOUNTS, Checkpoint, Context, Needs, Report
from dcd.checkpoints.vm import mounted as mounting
from dcd.checkpoints.vm.disk import (
    ContainerPartition,
    DiskLayout,
    VolumePartition,
    recorded_disk,
)
from dcd.checkpoints.vm.mounted import mounted
from dcd.checkpoints.vm.ties import ESP_FILES, FILES, Finding, Name, in_initramfs, untied
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.forms import HOST_PATH, LINE
from dcd.platform.chroot import Inside, chroot
from dcd.platform.initramfs import faster
from dcd.platform.inside import resolve
from dcd.platform.zfs_label import Part, Place, read_labels, relabel
from statemachine.errors import CheckpointError
from store.host.mounts import file_system_of
from store.host.process import ToolFailed

_MOST_BYTES = 4 << 20
"""Larger files are not settings."""

_INITRAMFS = "boot/initr*"
_MAKERS = (
    ("/usr/sbin/update-initramfs", ["update-initramfs", "-u", "-k", "all"]),
    ("/usr/bin/dracut", ["dracut", "--force", "--regenerate-all"]),
    ("/usr/sbin/dracut", ["dracut", "--force", "--regenerate-all"]),
)


@dataclass(frozen=True)
class Relabel(Checkpoint):
    """Remove references to the device that was installed on."""

    DESCRIPTION = "Make the installed system independent of the device it was installed on"
    EXPECTED_SECONDS = 2.0
    REQUIRES = (products.DISK,)
    PROVIDES = ()
    VERSION = 1
    TOOLS = ("blkid", "chroot", "mcopy", *mounting.TOOLS)

    zfs_path: Annotated[str, HOST_PATH] | None = None
    """The path of the device of its ZFS pool on the machine that runs the image. Default: unchanged."""

    zfs_phys_path: Annotated[str, HOST_PATH] | None = None
    """The physical path there. Default: it is removed from the labels."""

    zfs_devid: Annotated[str, LINE] | None = None
    """The device id there. Default: it is removed from the labels."""

    zfs_active: bool = False
    """Accept a pool that was not exported, such as the root pool of an installed system after a
    shutdown."""

    def needs(self, doc: DataObjectCache) -> Needs:
        return Needs(tools=self.TOOLS, capabilities=MOUNTS, devices=(ALL_DEVICES,))

    def execute(self, context: Context) -> None:
        disk, layout = recorded_disk(context, change=True)
        changes = self._relabel_pools(context, disk, layout)
        changes += _untie_system(context, disk, layout)
        if not changes:
            context.report(Report(1.0, "skipped: nothing on the disk depends on the device"))

    def _relabel_pools(self, context: Context, disk: Path, layout: DiskLayout) -> int:
        """Rewrite the labels of every ZFS device of the disk. Returns the number of changed ones."""
        candidates = [
            Part(disk, partition.start, partition.size)
            for partition in layout.partitions
            if not isinstance(partition, VolumePartition | ContainerPartition)
        ]
        found = {part: labels[0] for part in candidates if (labels := read_labels(part))}
        wanted = Place(self.zfs_path, self.zfs_phys_path, self.zfs_devid)
        if len(found) > 1 and wanted != Place():
            raise CheckpointError(
                f"{self.name}: the disk has {len(found)} ZFS devices, which cannot all be in one place",
                f"they begin at bytes {', '.join(str(part.start) for part in found)}",
                "leave out zfs_path, zfs_phys_path and zfs_devid",
            )
        changed = 0
        for part, label in found.items():
            if label.state == "active" and not self.zfs_active:
                raise CheckpointError(
                    f"the pool {label.pool!r} on the disk was not exported",
                    f"it was open last on {label.host}",
                    "export it at the end of the installation; or, if the system on it was shut down, "
                    'write <arg name="zfs_active">true</arg>',
                )
            old = relabel(part, wanted, active=self.zfs_active)
            if old is not None:
                changed += 1
                new = replace(wanted, path=wanted.path or old.path)
                before, after = (
                    ", ".join(part or "none" for part in (one.path, one.phys_path, one.devid))
                    for one in (old, new)
                )
                context.report(Report(message=f"ZFS device: {before} is {after} now"))
        return changed


def _untie_system(context: Context, disk: Path, layout: DiskLayout) -> int:
    """Untie the files of the Linux system on the disk, if there is one. Returns the number of changes."""
    names = _names(context, disk, layout)
    changes = _untie_esp(context, disk, layout, names)
    holder = layout.mounted_at("/")
    if holder is None or holder.cover:
        if holder is not None:
            how = "encrypted" if holder.encrypted else "verified"
            context.report(Report(message=f"the root is {how}: its files are not examined"))
        return changes
    try:
        with mounted(context, disk, layout, read_only=True) as root:
            found = _look(root, names)
    except ToolFailed:
        # The replay of a journal needs a writable device.
        with mounted(context, disk, layout, read_only=False) as root:
            found = _look(root, names)
    findings = [finding for _, found_there in found.values() for finding in found_there]
    for finding in findings:
        context.report(Report(message=str(finding)))
    changed = {finding.path for finding in findings if finding.new is not None}
    if not changed:
        return changes
    with mounted(context, disk, layout, read_only=False) as root:
        for path in sorted(changed):
            file, text = resolve(root, path), found[path][0]
            if text is None:
                file.unlink()
            else:  # In place, so that it keeps its owner, mode and attributes.
                file.write_bytes(text.encode("utf-8", "surrogateescape"))
        if any(map(in_initramfs, findings)) and _matching(root, _INITRAMFS):
            _remake_initramfs(context, root)
    return changes + len(changed)


def _names(context: Context, disk: Path, layout: DiskLayout) -> dict[int, Name]:
    """A name for each partition, from its present content, which an installer may have made."""
    names: dict[int, Name] = {}
    for partition in layout.partitions:
        by_partition = f"PARTUUID={partition.uuid}"
        place = ["--offset", str(partition.start), "--size", str(partition.size)]
        output = ["--match-tag", "UUID", "--output", "value"]
        # 2: nothing was found.
        probe = context.run(["blkid", "--probe", *place, *output, disk], capture=True, ok=(0, 2))
        uuid = probe.stdout.strip()
        names[partition.number] = Name(f"UUID={uuid}" if uuid else by_partition, by_partition)
    return names


def _look(root: Path, names: dict[int, Name]) -> dict[str, tuple[str | None, list[Finding]]]:
    """The ties in the system: for each file with one, its text without ties and the findings."""
    initramfs = bool(_matching(root, _INITRAMFS))
    found: dict[str, tuple[str | None, list[Finding]]] = {}
    for path in dict.fromkeys(path for pattern in FILES for path in _matching(root, pattern)):
        file = resolve(root, path)
        if file.stat().st_size > _MOST_BYTES:
            continue
        text = file.read_bytes().decode("utf-8", "surrogateescape")
        new, findings = untied(path, text, names, initramfs=initramfs)
        if findings:
            found[path] = (new, findings)
    return found


def _matching(root: Path, pattern: str) -> list[str]:
    """Files of the system whose paths match a pattern, with links followed inside the system."""
    paths = [""]
    for part in pattern.split("/"):
        paths = [
            f"{path}/{entry.name}".lstrip("/")
            for path in paths
            if (directory := resolve(root, path)).is_dir()
            for entry in sorted(directory.iterdir())
            if fnmatch(entry.name, part)
        ]
    return [path for path in paths if resolve(root, path).is_file()]


def _remake_initramfs(context: Context, root: Path) -> None:
    with chroot(root) as inside:
        _show_device(inside)
        for program, command in _MAKERS:
            if inside.has(program):
                context.report(Report(message="making the initramfs again, which named the device"))
                with faster(root) as how:
                    context.report(Report(message=how))
                    inside.run(command, env=context.environment, timeout_seconds=1800)
                return
    raise CheckpointError(
        "the initramfs names the device, and the system on the disk cannot make a new one",
        "it has neither update-initramfs nor dracut",
        "install initramfs-tools or dracut in it",
    )


def _show_device(inside: Inside) -> None:
    """Make the device of the root visible to the system's programs, which look for it by its id to decide
    what the initramfs has to check."""
    source = Path(file_system_of(inside.root).source)
    os.mknod(resolve(inside.root, "dev") / source.name, stat.S_IFBLK | 0o600, source.stat().st_rdev)
    if inside.has("/sbin/blkid"):
        # Without /sys it finds no device by itself, but it remembers its arguments (in /run).
        inside.run(["blkid", f"/dev/{source.name}"], capture=True)


def _untie_esp(context: Context, disk: Path, layout: DiskLayout, names: dict[int, Name]) -> int:
    """Untie the boot loader's files in EFI system partitions. Returns the number of changed ones."""
    changed = 0
    for partition in layout.volumes:
        if partition.volume.type != "vfat":
            continue
        image = f"{disk}@@{partition.start}"
        # The bare listing of an empty file system fails, as on damage; the long one does not.
        if "No files" in context.run(["mdir", "-i", image, "::"], capture=True).stdout:
            continue
        listing = context.run(["mdir", "-/", "-b", "-i", image, "::"], capture=True).stdout
        for line in listing.splitlines():
            path = line.removeprefix("::/")
            if any(fnmatch(path, pattern) for pattern in ESP_FILES):
                changed += _untie_in_esp(context, image, path, names)
    return changed


def _untie_in_esp(context: Context, image: str, path: str, names: dict[int, Name]) -> int:
    text = context.run(["mtype", "-i", image, f"::/{path}"], capture=True).stdout
    new, findings = untied(path, text, names)
    for finding in findings:
        context.report(Report(message=f"EFI system partition: {finding}"))
    if new is None or all(finding.new is None for finding in findings):
        return 0
    written = context.tmp / "esp-file"
    written.write_text(new, "utf-8", "surrogateescape", newline="")
    context.run(["mcopy", "-o", "-i", image, written, f"::/{path}"])
    return 1
