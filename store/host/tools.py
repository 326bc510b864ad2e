"""The host tools that checkpoints use: the file that identifies each tool, and the package that
installs it, of Debian and of illumos.

Pure data and look-ups: a checkpoint names its tools in `Needs.tools`, planning calls `missing`, and
`dcctl doctor` prints `version` and `install_command`. Nothing here installs anything. A tool that is
a set of files rather than a program (GRUB's modules, firmware, a keyring) is named by one of them.
"""

import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from statemachine.errors import Unprepared

ON_ILLUMOS = sys.platform == "sunos5"

TOOL_PATH = (
    # First the tools whose options this project uses; last those of OmniOS' additional packages.
    "/usr/gnu/bin:/usr/sbin:/usr/bin:/sbin:/usr/local/sbin:/usr/local/bin:/opt/ooce/sbin:/opt/ooce/bin"
    if ON_ILLUMOS
    else "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)
"""The search path for tools, independent of the daemon's own PATH."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A host tool. `executable` is a program on `TOOL_PATH`, or the absolute path of any file of the
    tool; `package` is the Debian package that installs it; `version_argv` are the arguments that
    make the program print its version (None: it has no such option).

    `shapes` says whether another version can produce other output from the same input, so that keys
    cover it; `part` is its name there (by default its package); with `whole` the executable represents
    all files of its directory, and with `enters` images get some of these files.
    """

    executable: str
    package: str
    version_argv: tuple[str, ...] | None = ("--version",)
    shapes: bool = True
    part: str = ""
    whole: bool = False
    enters: bool = False

    def find(self) -> Path | None:
        """The path of the tool on this host, or None."""
        if "/" in self.executable:
            path = Path(self.executable)
            return path if path.exists() else None
        found = shutil.which(self.executable, path=TOOL_PATH)
        return Path(found) if found else None


TOOLS: dict[str, Tool] = {
    "aavmf": Tool("/usr/share/AAVMF/AAVMF_CODE.fd", "qemu-efi-aarch64", None),
    "apt-get": Tool("apt-get", "apt"),
    "apt-helper": Tool("/usr/lib/apt/apt-helper", "apt", shapes=False),
    "arch-test": Tool("arch-test", "arch-test", None, shapes=False),
    "blkid": Tool("blkid", "util-linux", shapes=False),
    "btrfs": Tool("btrfs", "btrfs-progs"),
    "chroot": Tool("chroot", "coreutils", shapes=False),
    "cp": Tool("cp", "coreutils", shapes=False),
    "cpio": Tool("cpio", "cpio", shapes=False),
    "cryptsetup": Tool("cryptsetup", "cryptsetup-bin"),
    "debian-archive-keyring": Tool(
        "/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring", None
    ),
    "debugfs": Tool("debugfs", "e2fsprogs", ("-V",)),
    "dpkg-query": Tool("dpkg-query", "dpkg", shapes=False),
    "dumpe2fs": Tool("dumpe2fs", "e2fsprogs", ("-V",)),
    "gpg": Tool("gpg", "gnupg", shapes=False),
    "grub-bios": Tool(
        "/usr/lib/grub/i386-pc/moddep.lst",
        "grub-pc-bin",
        None,
        part="GRUB",
        whole=True,
        enters=True,
    ),
    "grub-efi": Tool(
        "/usr/lib/grub/x86_64-efi/moddep.lst",
        "grub-efi-amd64-bin",
        None,
        part="GRUB",
        whole=True,
        enters=True,
    ),
    "grub-mkimage": Tool("grub-mkimage", "grub-common", part="GRUB"),
    "grub-mkrescue": Tool("grub-mkrescue", "grub-common", part="GRUB"),
    "e2fsck": Tool("e2fsck", "e2fsprogs", ("-V",), shapes=False),
    "gzip": Tool("gzip", "gzip", shapes=False),
    "libfaketime": Tool("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1", "libfaketime", None),
    "ipxe-qemu": Tool("/usr/lib/ipxe/qemu/efi-virtio.rom", "ipxe-qemu", None),
    "losetup": Tool("losetup", "mount", shapes=False),
    "mcopy": Tool("mcopy", "mtools"),
    "mformat": Tool("mformat", "mtools"),
    "mke2fs": Tool("mke2fs", "e2fsprogs", ("-V",)),
    "mkfs.erofs": Tool("mkfs.erofs", "erofs-utils", ("--version",)),
    "mkfs.btrfs": Tool("mkfs.btrfs", "btrfs-progs"),
    "mkfs.xfs": Tool("mkfs.xfs", "xfsprogs", ("-V",)),
    "mksquashfs": Tool("mksquashfs", "squashfs-tools", ("-version",)),
    "mkswap": Tool("mkswap", "util-linux"),
    "mmdebstrap": Tool("mmdebstrap", "mmdebstrap"),
    "mount": Tool("mount", "mount", shapes=False),
    "objcopy": Tool("objcopy", "binutils"),
    "openssl": Tool("openssl", "openssl", ("version",), shapes=False),
    "ovmf": Tool("/usr/share/OVMF/OVMF_CODE.fd", "ovmf", None),
    # The same programs where they write what is delivered.
    "pack-cpio": Tool("cpio", "cpio"),
    "pack-gzip": Tool("gzip", "gzip"),
    "pack-tar": Tool("tar", "tar"),
    "pack-xz": Tool("xz", "xz-utils"),
    "pack-zstd": Tool("zstd", "zstd"),
    "qemu-block-extra": Tool(
        "/usr/lib/x86_64-linux-gnu/qemu/block-iscsi.so", "qemu-block-extra", None, shapes=False
    ),
    "qemu-efi-riscv64": Tool(
        "/usr/share/qemu-efi-riscv64/RISCV_VIRT_CODE.fd", "qemu-efi-riscv64", None
    ),
    "qemu-img": Tool("qemu-img", "qemu-utils"),
    "qemu-system-aarch64": Tool("qemu-system-aarch64", "qemu-system-arm"),
    "qemu-system-riscv64": Tool("qemu-system-riscv64", "qemu-system-misc"),
    "qemu-system-x86_64": Tool("qemu-system-x86_64", "qemu-system-x86"),
    "sbsign": Tool("sbsign", "sbsigntool", None),
    "setpriv": Tool("setpriv", "util-linux", shapes=False),
    "sfdisk": Tool("sfdisk", "fdisk"),
    "tar": Tool("tar", "tar", shapes=False),
    "tgtadm": Tool("tgtadm", "tgt", ("--version",), shapes=False),
    "tgtd": Tool("tgtd", "tgt", ("--version",), shapes=False),
    "umount": Tool("umount", "mount", shapes=False),
    "unshare": Tool("unshare", "util-linux", shapes=False),
    "unsquashfs": Tool("unsquashfs", "squashfs-tools", ("-version",), shapes=False),
    "veritysetup": Tool("veritysetup", "cryptsetup-bin"),
    "xargs": Tool("xargs", "findutils", shapes=False),
    "xorriso": Tool("xorriso", "xorriso", ("-version",)),
    "rsync": Tool("rsync", "rsync", shapes=False),
    "ssh": Tool("ssh", "openssh-client", ("-V",), shapes=False),
    "xz": Tool("xz", "xz-utils", shapes=False),
    "zfs": Tool("zfs", "zfs-fuse", None),
    "zpool": Tool("zpool", "zfs-fuse", None),
    "zstd": Tool("zstd", "zstd", shapes=False),
}


_SYSTEM = "SUNWcs"
"""The package of illumos that every system has."""

ILLUMOS_PACKAGES = {
    "cp": "file/gnu-coreutils",
    "cpio": _SYSTEM,
    "ctrun": _SYSTEM,
    "gpg": "crypto/gnupg",
    "gzip": "compress/gzip",
    "lofiadm": _SYSTEM,
    "mount": _SYSTEM,
    "openssl": "library/security/openssl",
    "pkg": "package/pkg",
    "tar": "archiver/gnu-tar",
    "umount": _SYSTEM,
    "xorriso": "media/xorriso",
    "xz": "compress/xz",
    "zfs": "system/file-system/zfs",
    "zpool": "system/file-system/zfs",
    "zstd": "compress/zstd",
}
"""Tool to package on illumos, by OpenIndiana's names. Only names that are known to exist: no other tool has
one there."""

_DEBIAN_ONLY = (
    "{} of Linux {} no package on illumos: use a Linux host for the checkpoints that need {}"
)

_BHYVE = "bhyve belongs to illumos distributions: boot with QEMU elsewhere"
_VIRTUALBOX = "install VirtualBox from its vendor, or boot with QEMU"

_ILLUMOS = "this tool belongs to illumos: build there, or in the format that Linux can make"
_IPS = "pkg(7) belongs to illumos distributions: build IPS images on one of these"
_SVR4 = "packages of System V need the tools of an illumos distribution: build there"

ELSEWHERE = {
    "VBoxHeadless": _VIRTUALBOX,
    "VBoxManage": _VIRTUALBOX,
    "bhyve": _BHYVE,
    "bhyvectl": _BHYVE,
    "itadm": 'COMSTAR belongs to illumos distributions: use target "tgt" elsewhere',
    "devfsadm": _ILLUMOS,
    "lofiadm": _ILLUMOS,
    "newfs": _ILLUMOS,
    "pkg": _IPS,
    "pkgadd": _SVR4,
    "pkgrecv": _IPS,
    "pkgrepo": _IPS,
    "pkgrm": _SVR4,
    "pkgsend": _IPS,
    "stmfadm": 'COMSTAR belongs to illumos distributions: use target "tgt" elsewhere',
    "svccfg": _ILLUMOS,
}
"""Programs that no Debian package provides, with the remedy when they are missing."""


def missing(names: Iterable[str]) -> list[str]:
    """The tools in `names` that this host lacks, in order, each once."""
    return [name for name in dict.fromkeys(names) if tool_named(name).find() is None]


def packages(names: Iterable[str]) -> list[str]:
    """The packages of this system that install the tools `names`, sorted, each once."""
    return sorted({package for name in names if (package := package_of_tool(name))})


def package_of_tool(name: str) -> str:
    """The package of this system that installs a tool, or "" when none is known."""
    return ILLUMOS_PACKAGES.get(name, "") if ON_ILLUMOS else tool_named(name).package


def install_command(missing: Iterable[str]) -> str:
    """The command that installs the tools `missing`, or "" when no package is known."""
    names = packages(missing)
    installer = "pkg install" if ON_ILLUMOS else "apt-get install"
    return f"{installer} {' '.join(names)}" if names else ""


def remedy(missing: Iterable[str]) -> str:
    """The remedy for the tools `missing`, for people: a command if packages provide them."""
    names = list(missing)
    elsewhere = {} if ON_ILLUMOS else ELSEWHERE
    lacking = [name for name in names if not package_of_tool(name) and name not in elsewhere]
    foreign = [name for name in lacking if ON_ILLUMOS and name in TOOLS]
    unknown = [name for name in lacking if name not in foreign]
    parts = [install_command(names), f"install {', '.join(unknown)}" if unknown else ""]
    if foreign:
        number = ("has", "it") if len(foreign) == 1 else ("have", "them")
        parts.append(_DEBIAN_ONLY.format(", ".join(foreign), *number))
    parts += dict.fromkeys(text for name, text in elsewhere.items() if name in names)
    return "; ".join(part for part in parts if part)


def cannot_start(error: OSError) -> Unprepared:
    """The error for a program that could not be started, from the exception."""
    program = Path(str(error.filename or "the program")).name
    return Unprepared(f"{program} cannot be started", str(error), remedy([program]))


def remedy_for_program(executable: str) -> str:
    """The command that installs a program, by its name or path, or "" when no package is known."""
    program = Path(executable).name
    names = [name for name, tool in TOOLS.items() if Path(tool.executable).name == program]
    # Several tools may be one program; that of its name is the one whose package is known.
    return install_command([program] if program in names else names[:1] or [program])


def tool_named(name: str) -> Tool:
    """The tool of that name; a name missing in `TOOLS` (a plug-in's tool) is a program of that name."""
    return TOOLS.get(name) or Tool(name, "", None)
