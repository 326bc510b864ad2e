"""`Relabel`: the installed system no longer depends on the device that it was installed on.

It looks at the disk that a checkpoint before has made and installed into, and changes only what is tied:
fstab, crypttab, GRUB's and the kernel's arguments, the initramfs' settings, rules that remember network cards
(`ties` has the list), and the labels of ZFS pools. The looking writes nothing, so a disk that needs nothing,
as one that was populated offline, stays to the byte. Every change is reported, and so is what names a
device and was left for a person to judge. Run twice, it changes nothing the second time.

**ZFS.** The labels of a pool's device say where it was when the pool was last open. An illumos kernel opens
the device of its root pool by `devid`, else by `path`, else by `phys_path`; a newer one at last by looking
for the pool's guid on all devices. What an installer wrote there leads to nothing in another machine, and a
devid could even lead to another disk. So by default devid and phys_path are taken out, and the path, which
must be there, stays. Where the machine is known, give all three as its illumos would print them (`zdb -l`);
for a SATA disk of a PC, for example, /dev/dsk/c1t0d0s0 and /pci@0,0/pci8086,2829@d/disk@0,0:a.
OpenZFS on Linux looks devices up by guid and needs none of them.

The original's other way was to boot installer media once that import the pool in the final machine and
export it, so that ZFS itself writes the labels. It can be built from a CustomScript that drives such
media. Neither that, nor the booting of a rewritten pool by illumos, was ever tried here: no illumos media
were to be had. Tested is that ZFS accepts, imports and scrubs what was rewritten.
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
from dcd.checkpoints.vm.disk import DiskLayout, VolumePartition, recorded_disk
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
"""Files of settings are smaller than that."""

_MAKERS = (
    ("/usr/sbin/update-initramfs", ["update-initramfs", "-u", "-k", "all"]),
    ("/usr/bin/dracut", ["dracut", "--force", "--regenerate-all"]),
    ("/usr/sbin/dracut", ["dracut", "--force", "--regenerate-all"]),
)


@dataclass(frozen=True)
class Relabel(Checkpoint):
    """Make what is tied to the device that was installed on independent of it."""

    DESCRIPTION = "Make the installed system independent of the device it was installed on"
    EXPECTED_SECONDS = 2.0
    REQUIRES = (products.DISK,)
    PROVIDES = ()
    VERSION = 1
    TOOLS = ("blkid", "chroot", "mcopy", *mounting.TOOLS)

    zfs_path: Annotated[str, HOST_PATH] | None = None
    """The path of the device of its ZFS pool on the machine that will run the image. Default: the
    path stays."""

    zfs_phys_path: Annotated[str, HOST_PATH] | None = None
    """The physical path there. Default: it is taken out of the labels."""

    zfs_devid: Annotated[str, LINE] | None = None
    """The device id there. Default: it is taken out of the labels."""

    zfs_active: bool = False
    """Accept a pool that was not exported, as an installed system leaves its root pool when it is
    shut down."""

    def needs(self, doc: DataObjectCache) -> Needs:
        return Needs(tools=self.TOOLS, capabilities=MOUNTS, devices=(ALL_DEVICES,))

    def execute(self, context: Context) -> None:
        disk, layout = recorded_disk(context, change=True)
        changes = self._relabel_pools(context, disk, layout)
        changes += _untie_system(context, disk, layout)
        if not changes:
            context.report(Report(1.0, "skipped: nothing on the disk depends on the device"))

    def _relabel_pools(self, context: Context, disk: Path, layout: DiskLayout) -> int:
        """Rewrite the labels of every ZFS device of the disk. Returns how many had to be."""
        candidates = [
            Part(disk, partition.start, partition.size)
            for partition in layout.partitions
            if not isinstance(partition, VolumePartition)
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
                    'say so: <arg name="zfs_active">true</arg>',
                )
            old = relabel(part, wanted, active=self.zfs_active)
            if old is not None:
                changed += 1
                new = replace(wanted, path=wanted.path or old.path)
                context.report(Report(message=f"ZFS device: {_said(old)} is {_said(new)} now"))
        return changed


def _said(place: Place) -> str:
    parts = (place.path, place.phys_path, place.devid)
    return ", ".join(part or "none" for part in parts)


def _untie_system(context: Context, disk: Path, layout: DiskLayout) -> int:
    """Untie the files of the Linux system on the disk, if there is one. Returns how many were changed."""
    names = _names(context, disk, layout)
    changes = _untie_esp(context, disk, layout, names)
    if layout.mounted_at("/") is None:
        return changes
    try:
        with mounted(context, disk, layout, read_only=True) as root:
            found = _look(root, names)
    except ToolFailed:
        # A journal that has to be replayed cannot be on a read-only device.
        with mounted(context, disk, layout, read_only=False) as root:
            found = _look(root, names)
    for finding in (finding for each in found.values() for finding in each[1]):
        context.report(Report(message=str(finding)))
    changed = {path: text for path, (text, found_in) in found.items() if _changes(found_in)}
    if not changed:
        return changes
    with mounted(context, disk, layout, read_only=False) as root:
        for path, text in changed.items():
            _write(resolve(root, path), text)
        copied = any(in_initramfs(finding) for path in changed for finding in found[path][1])
        if copied and _has_initramfs(root):
            _remake_initramfs(context, root)
    return changes + len(changed)


def _names(context: Context, disk: Path, layout: DiskLayout) -> dict[int, Name]:
    """What to call each partition: after what is in it now, which an installer may have made anew."""
    names: dict[int, Name] = {}
    for partition in layout.partitions:
        by_partition = f"PARTUUID={partition.uuid}"
        place = ["--offset", str(partition.start), "--size", str(partition.size)]
        output = ["--match-tag", "UUID", "--output", "value"]
        # 2: there is nothing that blkid knows.
        probe = context.run(["blkid", "--probe", *place, *output, disk], capture=True, ok=(0, 2))
        uuid = probe.stdout.strip()
        names[partition.number] = Name(f"UUID={uuid}" if uuid else by_partition, by_partition)
    return names


def _look(root: Path, names: dict[int, Name]) -> dict[str, tuple[str | None, list[Finding]]]:
    """What is tied in the system: for each such file its text without, and what was found."""
    initramfs = _has_initramfs(root)
    found: dict[str, tuple[str | None, list[Finding]]] = {}
    for path in dict.fromkeys(path for pattern in FILES for path in _matching(root, pattern)):
        if resolve(root, path).stat().st_size > _MOST_BYTES:
            continue
        text = _text(resolve(root, path).read_bytes())
        new, findings = untied(path, text, names, initramfs=initramfs)
        if findings:
            found[path] = (new, findings)
    return found


def _has_initramfs(root: Path) -> bool:
    return bool(_matching(root, "boot/initr*"))


def _matching(root: Path, pattern: str) -> list[str]:
    """Files of the system whose paths are like a pattern, with links followed inside the system."""
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


def _write(file: Path, text: str | None) -> None:
    """Change a file in place, so that it keeps its owner, mode and attributes; None removes it."""
    if text is None:
        file.unlink()
    else:
        file.write_bytes(text.encode("utf-8", "surrogateescape"))


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


def _changes(findings: list[Finding]) -> bool:
    return any(finding.new is not None for finding in findings)


def _remake_initramfs(context: Context, root: Path) -> None:
    with chroot(root) as inside:
        _show_device(inside)
        for program, command in _MAKERS:
            if inside.has(program):
                context.report(Report(message="making the initramfs anew, which named the device"))
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
    """Give the system's programs the device that it is on, which they look for by its id to find out what
    the initramfs has to check."""
    source = Path(file_system_of(inside.root).source)
    os.mknod(resolve(inside.root, "dev") / source.name, stat.S_IFBLK | 0o600, source.stat().st_rdev)
    if inside.has("/sbin/blkid"):
        # Without /sys it finds no device by itself, but remembers those that it has been shown (in /run).
        inside.run(["blkid", f"/dev/{source.name}"], capture=True)


def _untie_esp(context: Context, disk: Path, layout: DiskLayout, names: dict[int, Name]) -> int:
    """Untie the boot loader's files in EFI system partitions. Returns how many were changed."""
    changed = 0
    for partition in layout.volumes:
        if partition.volume.type != "vfat":
            continue
        image = f"{disk}@@{partition.start}"
        # The bare listing of nothing fails, as it does on damage; the long one does not.
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
    if new is None or not _changes(findings):
        return 0
    written = context.tmp / "esp-file"
    _write(written, new)
    context.run(["mcopy", "-o", "-i", image, written, f"::/{path}"])
    return 1
