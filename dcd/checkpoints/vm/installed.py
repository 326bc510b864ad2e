"""The parts of an installed system that an image area lacks: fstab, growth of the root, cloud-init.

Each function changes the image area alone. Source: fstab(5), repart.d(5), systemd-growfs(8),
systemd.mount(5) for x-systemd.growfs, ssh-keygen(1), cloud-init's documentation of NoCloud.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from dcd.checkpoints.boot.menu import Serial
from dcd.checkpoints.interface import Checkpoint
from dcd.checkpoints.vm.disk import ContainerPartition, DiskLayout, VolumePartition
from dcd.checkpoints.vm.nested_checks import VERIFIED_ROOT
from dcd.manifest.diagnostics import Diagnostic, warning
from dcd.manifest.doc import DataObjectCache
from dcd.platform.inside import entry, exists, new_file, read, write
from statemachine.errors import CheckpointError

_SERIAL_CONSOLE = re.compile(
    r"tty(S|AMA)(?P<unit>[0-9])(,(?P<speed>[0-9]{2,7})((?P<parity>[noe])(?P<bits>[5-8])?r?)?)?"
)
"""A console of an installed system, in the form of the kernel's argument `console`."""
_USUAL_SPEED = 9600
_PARITIES = {None: "no", "n": "no", "o": "odd", "e": "even"}

_SWAP = {"swap": ("none",), **dict.fromkeys(("ext4", "xfs", "btrfs", "vfat"), ())}
"""The mountpoints in fstab of volumes without one."""

_GROW_UNIT = "etc/systemd/system/dcd-grow-group.service"
_GROW_GROUP = """\
[Unit]
Description=Give the space of a grown partition to the root's logical volume
DefaultDependencies=no
Conflicts=shutdown.target
After=systemd-remount-fs.service systemd-udevd.service systemd-repart.service
Before=systemd-growfs-root.service systemd-growfs@-.service local-fs.target shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/sbin/lvm pvresize {device}
# It fails when there is nothing to give.
ExecStart=-/sbin/lvm lvextend --extents +100%%FREE {volume}
"""

_NO_CLOUD = """\
# The data comes from a volume named CIDATA or a configuration drive, where there is one.
datasource_list: [NoCloud, ConfigDrive, None]
"""


def check_root(
    doc: DataObjectCache, checkpoint: Checkpoint, layout: DiskLayout, grow: bool
) -> Iterator[Diagnostic]:
    """Errors unless the layout has a root, which can grow if it has to."""
    root = layout.mounted_at("/")
    if root is None:
        yield checkpoint.fault(
            doc,
            None,
            "the disk has no root file system to install the image to",
            "none of its partitions is mounted at /; installation to a ZFS root is not possible yet",
            'give a partition <format type="ext4" mountpoint="/"/>',
        )
        return
    if root.verified and layout.mounted_at("/var") is None:
        yield warning(
            checkpoint.argument_place(doc),
            f"{checkpoint.name}: the verified root is read-only, and /var is in it",
            "Programs of the system cannot write their logs and state.",
            "give /var a partition of its own, beside /boot",
        )
    last = max(layout.partitions, key=lambda partition: partition.start)
    if grow and not root.verified and last.number != root.number:
        yield checkpoint.fault(
            doc,
            "grow_root",
            f"the root cannot grow: partition {last.number} is behind it",
            f"the root is partition {root.number}",
            'put the root last on the disk, or write <arg name="grow_root">false</arg>',
        )


def serial_of(console: str) -> Serial | None:
    """The serial line of a console, with the kernel's defaults; None for an empty one. Source: the kernel's
    serial-console."""
    found = _SERIAL_CONSOLE.fullmatch(console)
    if found is None:
        return None
    return Serial(
        unit=int(found["unit"]),
        speed=int(found["speed"] or _USUAL_SPEED),
        parity=_PARITIES[found["parity"]],
        bits=int(found["bits"] or 8),
    )


def consoles(console: str) -> tuple[Serial | None, str]:
    """The serial line of a console, and the kernel's arguments for the screen and that line."""
    serial = serial_of(console)
    return serial, f"console=tty0 console={console}" if serial else ""


def require_programs(root: Path, *, grow_root: bool, cloud_init: bool) -> None:
    """Raise `CheckpointError` when the image lacks the program that grows its root, or cloud-init."""
    if grow_root and not _has(root, "systemd-repart"):
        raise CheckpointError(
            "the image cannot grow its root",
            "it has no systemd-repart",
            "add the package systemd-repart (in Debian 12: systemd) to the transfer, or write "
            '<arg name="grow_root">false</arg>',
        )
    if cloud_init and not _has(root, "cloud-init"):
        raise CheckpointError(
            "the image has no cloud-init",
            "cloud_init is true",
            "add the package cloud-init to the transfer, or leave cloud_init out",
        )


def _has(root: Path, program: str) -> bool:
    return any(exists(root, f"{directory}/{program}") for directory in ("usr/bin", "bin"))


def write_fstab(root: Path, layout: DiskLayout, grow_root: bool) -> None:
    """Write all volumes by UUID, and the other lines of the image's own fstab."""
    mounts = [
        (point, one)
        for one in layout.volumes
        for point in one.volume.mounts or _SWAP[one.volume.type]
    ]
    lines = ["# <file system> <mount point> <type> <options> <dump> <pass>"]
    lines += [
        _fstab_line(one, point, grow_root)
        for point, one in sorted(mounts, key=lambda each: each[0])
    ]
    ours = {point for point, _ in mounts} - {"none"}
    for line in (read(root, "etc/fstab") or "").splitlines():
        fields = line.split()
        if len(fields) >= 3 and not fields[0].startswith("#") and fields[1] not in ours:
            lines.append(line)
    write(root, "etc/fstab", "\n".join(lines) + "\n")


def _fstab_line(partition: VolumePartition, point: str, grow_root: bool) -> str:
    volume = partition.volume
    subvolume = volume.mounts.get(point)
    options, check = volume.options if subvolume is None else subvolume.options, 2
    source = f"UUID={volume.uuid}"
    if volume.type == "swap":
        options, check = "sw" if options == "defaults" else options, 0
    elif volume.type in ("xfs", "btrfs"):
        check = 0  # There is no check at boot: fsck.xfs(8), fsck.btrfs(8).
    elif point == "/":
        check = 1
    if volume.type == "vfat" and options == "defaults":
        options = "umask=0077"
        if point == "/boot/efi":
            # A running system needs it only for updates: if it appears late on a slow machine, the boot
            # should not stop in emergency mode.
            options += ",nofail"
    if subvolume is not None:
        options = f"subvol={subvolume.name}" + ("" if options == "defaults" else f",{options}")
    if partition.verified:
        # By its name, since the unverified file system in the partition has the same UUID.
        source, check = f"/dev/mapper/{VERIFIED_ROOT}", 0
        options = "ro" if options == "defaults" else ",".join(["ro", *_without(options, "ro")])
    if point == "/" and grow_root:
        options += ",x-systemd.growfs"
    fields = (source, point, volume.type, options, "0", str(check))
    return " ".join(map(fstab_field, fields))


def _without(options: str, left_out: str) -> list[str]:
    return [option for option in options.split(",") if option != left_out]


def fstab_field(text: str) -> str:
    """The text as a field of fstab(5), with octal escapes for blanks, backslashes and `#`."""
    return re.sub(r"[\s\\#]", lambda found: f"\\{ord(found[0]):03o}", text)


def grow_root(root: Path, layout: DiskLayout) -> None:
    """Let the root partition take the rest of the disk at each start of the system."""
    mounted = layout.mounted_at("/")
    assert mounted is not None
    write_growth(root, "etc/repart.d", layout, mounted)
    holder = layout.partition_of(mounted)
    if isinstance(holder, ContainerPartition) and holder.group is not None:
        device = f"/dev/mapper/{holder.luks.name}" if holder.luks else f"PARTUUID={holder.uuid}"
        device = device.replace("PARTUUID=", "/dev/disk/by-partuuid/")
        unit = _GROW_GROUP.format(device=device, volume=mounted.logical)
        write(root, _GROW_UNIT, unit)
        wanted = new_file(root, f"etc/systemd/system/local-fs.target.wants/{Path(_GROW_UNIT).name}")
        wanted.symlink_to(f"/{_GROW_UNIT}")


def write_growth(root: Path, directory: str, layout: DiskLayout, mounted: VolumePartition) -> None:
    """Write the definitions for systemd-repart, by which the partition of the root grows, into a directory of
    the image."""
    # It matches its files of a type, in order, with the partitions of that type.
    alike = [one for one in layout.partitions if one.type == mounted.type]
    for partition in alike:
        growing = partition.number == mounted.number
        text = f"[Partition]\nType={partition.type}\n" + ("" if growing else "Weight=0\n")
        name = "root" if growing else f"partition-{partition.number}"
        write(root, f"{directory}/{partition.number:03}-{name}.conf", text)


def arrange_cloud_init(root: Path, wanted: bool) -> None:
    """Enable the image's cloud-init, if there is one, for local sources of data, or disable it."""
    if wanted:
        write(root, "etc/cloud/cloud.cfg.d/95_dcd.cfg", _NO_CLOUD)
        entry(root, "etc/cloud/cloud-init.disabled").unlink(missing_ok=True)
    elif _has(root, "cloud-init"):
        write(root, "etc/cloud/cloud-init.disabled", "")
