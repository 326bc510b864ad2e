"""References to devices in an installed system's files, and the same files without them.

Names such as /dev/sda2 come from the order in which a kernel finds controllers, and names by id or by path
from the model, serial number or slot of a disk: in a machine with another controller they are invalid.
`untied` replaces them by the UUID of the partition's content, in the files that control the boot and the
mounts, and finds other names of devices and network cards, for a person to judge. Comments and files without
ties stay identical to the byte, so it is idempotent. Pure.

Source: fstab(5), crypttab(5), bootparam(7), initramfs-tools(7), dracut.cmdline(7), udev(7).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch

FILES = (
    "etc/fstab",
    "etc/crypttab",
    "etc/default/grub",
    "etc/default/grub.d/*.cfg",
    "etc/kernel/cmdline",
    "boot/grub*/device.map",
    "boot/grub*/grub.cfg",
    "boot/grub*/custom.cfg",
    "boot/grub/*/load.cfg",
    "boot/extlinux/extlinux.conf",
    "boot/loader/entries/*.conf",
    "etc/initramfs-tools/conf.d/*",
    "etc/initramfs-tools/initramfs.conf",
    "etc/dracut.conf.d/*.conf",
    "etc/udev/rules.d/*.rules",
    "etc/systemd/network/*",
    "etc/systemd/system/*.mount",
    "etc/systemd/system/*.swap",
    "etc/netplan/*",
    "etc/network/interfaces",
    "etc/network/interfaces.d/*",
    "etc/sysconfig/network-scripts/ifcfg-*",
    "etc/NetworkManager/system-connections/*",
)
"""The files that are read, as patterns of paths in the system."""

ESP_FILES = ("EFI/*/grub.cfg", "loader/entries/*.conf")
"""The same for the EFI system partition."""

_REMOVED = (
    "boot/grub*/device.map",
    "etc/udev/rules.d/*-persistent-net.rules",
    "etc/udev/rules.d/*-persistent-cd.rules",
)
"""Files in which tools remember devices; they work without them, or write them again."""

_INITRAMFS = ("etc/crypttab", "etc/initramfs-tools/*", "etc/dracut.conf.d/*")
"""Files that the initramfs has copies of."""

_DISK = r"/dev/(?:(?:sd|vd|hd|xvd)[a-z]+|(?:nvme\d+n|mmcblk)\d+p?)\d*|/dev/disk/by-(?:id|path)/[^\s\"',;]+"
_DEVICE = re.compile(rf"(?:{_DISK})(?![\w/-])")
_PARTITION = re.compile(
    r"/dev/(?:(?:sd|vd|hd|xvd)a|nvme0n1p|mmcblk0p)(?P<a>\d+)|/dev/disk/by-(?:id|path)/.+-part(?P<b>\d+)"
)
"""A partition of the first disk, by the names of the kernel."""

_ARGUMENT = re.compile(
    rf"(?P<key>\b(?:root|resume|cryptdevice|mount\.usr)=)(?P<device>{_DISK})(?![\w/-])",
    re.IGNORECASE,
)
_CARD = re.compile(
    r"(?:MACAddress=|mac-address=|macaddress:|HWADDR=|ATTR\{address\}==|hwaddress\s).*|ID_(?:SERIAL|PATH)\b.*",
    re.IGNORECASE,
)
_SLOT = re.compile(r"\s*(?:auto|allow-\w+|iface)\s.*\b(?:en[ops]\w+|eth\d+)\b.*")


@dataclass(frozen=True, slots=True)
class Name:
    """The names of a partition: `tag` for the initramfs and the system (UUID=...), `kernel` for a kernel
    without initramfs (PARTUUID=...)."""

    tag: str
    kernel: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A tie in a line of a file, before and after. `new` is None for one that stays, for a person to judge,
    and "" for one that is removed."""

    path: str
    line: int
    old: str
    new: str | None

    def __str__(self) -> str:
        where = f"{self.path}:{self.line}" if self.line else self.path
        if self.new is None:
            return f"{where}: {self.old} depends on this machine's devices; it is left unchanged"
        return f"{where}: {self.old} is {self.new or 'removed'} now"


def untied(
    path: str, text: str, names: Mapping[int, Name], *, initramfs: bool = True
) -> tuple[str | None, list[Finding]]:
    """A file's text without ties (None: the file has to be removed), and the findings. `names` has a name
    for each partition by number; `initramfs`: the system has one, which knows UUIDs."""
    if _one_of(path, _REMOVED):
        lines = [line for line in text.splitlines() if line.strip() and not _is_comment(line)]
        return None, [Finding(path, 0, "; ".join(map(str.strip, lines)) or "an empty file", "")]
    found: list[Finding] = []
    change = _line_changer(path, names, initramfs)
    lines = []
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        new = line if _is_comment(line) else change(line)
        if new != line:
            found.append(Finding(path, number, line.strip(), new.strip()))
        elif not _is_comment(line):
            found += [Finding(path, number, tie, None) for tie in _remaining(line)]
        lines.append(new)
    return "".join(lines), found


def in_initramfs(finding: Finding) -> bool:
    """Whether the initramfs has a copy of the changed line. (A removed one does no harm there.)"""
    return bool(finding.new) and _one_of(finding.path, _INITRAMFS)


def _line_changer(path: str, names: Mapping[int, Name], initramfs: bool) -> Callable[[str], str]:
    def in_field(line: str, number: int) -> str:
        fields = re.split(r"(\s+)", line)  # fields and the space between them in turn
        at = 2 * number + (0 if fields[0] else 2)
        if at < len(fields):
            name = _named(fields[at], names)
            fields[at] = name.tag if name else fields[at]
        return "".join(fields)

    def in_arguments(line: str) -> str:
        def replaced(match: re.Match[str]) -> str:
            name = _named(match["device"], names)
            if name is None:
                return match[0]
            return match["key"] + (name.tag if initramfs else name.kernel)

        return _ARGUMENT.sub(replaced, line)

    def in_grub_defaults(line: str) -> str:
        if re.fullmatch(r"\s*GRUB_DISABLE_LINUX_UUID=[\"']?true[\"']?\s*", line):
            return f"#{line}"
        return in_arguments(line)

    if path == "etc/fstab":
        return lambda line: in_field(line, 0)
    if path == "etc/crypttab":
        return lambda line: in_field(line, 1)
    return in_grub_defaults if path.startswith("etc/default/grub") else in_arguments


def _named(device: str, names: Mapping[int, Name]) -> Name | None:
    found = _PARTITION.fullmatch(device)
    return names.get(int(found["a"] or found["b"])) if found else None


def _remaining(line: str) -> list[str]:
    """The other parts of a line that depend on the machine's devices."""
    for pattern in (_CARD, _SLOT):
        if found := pattern.search(line):
            return [found[0].strip()]
    return _DEVICE.findall(line)


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def _one_of(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(path, pattern) for pattern in patterns)
