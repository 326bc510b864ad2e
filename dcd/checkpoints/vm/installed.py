"""The parts of an installed system that an image area lacks: fstab, growth of the root, cloud-init.

Each function changes the image area alone. Source: fstab(5), repart.d(5), systemd-growfs(8),
systemd.mount(5) for x-systemd.growfs, ssh-keygen(1), cloud-init's documentation of NoCloud.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from dcd.checkpoints.boot.menu import Serial
from dcd.checkpoints.interface import Checkpoint
from dcd.checkpoints.vm.disk import DiskLayout, VolumePartition
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.doc import DataObjectCache
from dcd.platform.inside import entry, exists, read, write
from statemachine.errors import CheckpointError

_SERIAL_CONSOLE = re.compile(
    r"tty(S|AMA)(?P<unit>[0-9])(,(?P<speed>[0-9]{2,7})((?P<parity>[noe])(?P<bits>[5-8])?r?)?)?"
)
"""A console of an installed system, in the form of the kernel's argument `console`."""
_USUAL_SPEED = 9600
_PARITIES = {None: "no", "n": "no", "o": "odd", "e": "even"}

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
    last = max(layout.partitions, key=lambda partition: partition.start)
    if grow and last is not root:
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
    volumes = [one for one in layout.volumes if _point(one)]
    lines = ["# <file system> <mount point> <type> <options> <dump> <pass>"]
    lines += [_fstab_line(one, grow_root) for one in sorted(volumes, key=_point)]
    ours = {_point(one) for one in volumes} - {"none"}
    for line in (read(root, "etc/fstab") or "").splitlines():
        fields = line.split()
        if len(fields) >= 3 and not fields[0].startswith("#") and fields[1] not in ours:
            lines.append(line)
    write(root, "etc/fstab", "\n".join(lines) + "\n")


def _point(partition: VolumePartition) -> str:
    return "none" if partition.volume.type == "swap" else partition.volume.mountpoint or ""


def _fstab_line(partition: VolumePartition, grow_root: bool) -> str:
    volume = partition.volume
    point, options, check = _point(partition), volume.options, 2
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
    if point == "/" and grow_root:
        options += ",x-systemd.growfs"
    fields = (f"UUID={volume.uuid}", point, volume.type, options, "0", str(check))
    return " ".join(map(fstab_field, fields))


def fstab_field(text: str) -> str:
    """The text as a field of fstab(5), with octal escapes for blanks, backslashes and `#`."""
    return re.sub(r"[\s\\#]", lambda found: f"\\{ord(found[0]):03o}", text)


def grow_root(root: Path, layout: DiskLayout) -> None:
    """Let the root partition take the rest of the disk at each start of the system."""
    mounted = layout.mounted_at("/")
    assert mounted is not None
    # systemd-repart matches its files of a type, in order, with the partitions of that type.
    alike = [one for one in layout.partitions if one.type == mounted.type]
    for partition in alike:
        growing = partition is mounted
        text = f"[Partition]\nType={partition.type}\n" + ("" if growing else "Weight=0\n")
        name = "root" if growing else f"partition-{partition.number}"
        write(root, f"etc/repart.d/{partition.number:03}-{name}.conf", text)


def arrange_cloud_init(root: Path, wanted: bool) -> None:
    """Enable the image's cloud-init, if there is one, for local sources of data, or disable it."""
    if wanted:
        write(root, "etc/cloud/cloud.cfg.d/95_dcd.cfg", _NO_CLOUD)
        entry(root, "etc/cloud/cloud-init.disabled").unlink(missing_ok=True)
    elif _has(root, "cloud-init"):
        write(root, "etc/cloud/cloud-init.disabled", "")
