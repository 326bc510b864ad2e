"""What mkinitramfs reads of an image.

All counts that is in the directories of kernels, modules, firmware, hooks and settings: these are enumerated.
mkinitramfs looks for programs by the names in its scripts, for libraries by the names in these programs, and,
with find(1), for names and patterns of its scripts in all of /usr/lib. What packages, their documentation,
logs and units of services leave is not read; of /etc/ld.so.cache, only what it says about these libraries.
Source: a trace of mkinitramfs 0.142, by strace(1).
"""

from statemachine.plan import Inputs


def _image(*paths: str) -> tuple[str, ...]:
    return tuple(f"pkg_image/{path}" for path in paths)


def _library(*paths: str) -> tuple[str, ...]:
    """Paths below /lib, which is /usr/lib in most images."""
    return _image(*(f"{lib}/{path}" for path in paths for lib in ("lib", "usr/lib")))


def _share(*paths: str) -> tuple[str, ...]:
    return _image(*(f"usr/share/{path}/**" for path in paths))


_LEAVES = (
    # They look for what their arguments name only, which are texts.
    *("basename", "cat", "chmod", "cmp", "cp", "cpio", "cut", "date", "dir", "dirname", "find"),
    *("grep", "gzip", "head", "hostname", "last", "ln", "ls", "md5sum", "mkdir", "mktemp", "mv"),
    *("readlink", "realpath", "rm", "sed", "seq", "sha256sum", "sort", "stat", "tail", "touch"),
    *("tr", "tty", "uname", "uniq", "wc", "xargs", "zstd", "dpkg", "locale", "passwd"),
    # They are copied, and run in the initramfs only.
    *("blkid", "blockdev", "busybox", "dmsetup", "fsck", "ip", "losetup", "mount", "mountpoint"),
    *("rsync", "udevadm"),
    # Shells and pagers name editors, and look for them only for somebody at a terminal.
    *("bash", "dash", "less", "more"),
    # init, halt and reboot, which texts name, are links to systemctl.
    "systemctl",
    # They look for what their configuration and the modules name, which counts as a whole.
    *("kmod", "ldconfig"),
)
"""Programs that look for nothing because its name is in them."""

_ON_THE_WAY = (
    *("bin", "dev", "etc", "lib", "proc", "root", "run", "sbin", "sys", "tmp", "usr", "usr/bin"),
    *("usr/lib", "usr/sbin", "usr/share", "var/tmp", "lib/systemd", "usr/lib/systemd"),
)
"""Directories that the texts of Debian name, but of which they copy only what they name too."""

_KMOD = ("depmod.d", "modprobe.d")

INITRAMFS = Inputs(
    whole=(
        *_image("boot/**", "etc/initramfs-tools/**", "usr/share/initramfs-tools/**"),
        *_library(
            "modules/**", "firmware/**", "modprobe.d/**", "depmod.d/**", "udev/**", "live/**"
        ),
        *_library("systemd/network/**", "dracut/**", "glibc-hwcaps/**", "*/glibc-hwcaps/**"),
        *_image(*(f"{at}/{name}/**" for at in ("run", "usr/local/lib") for name in _KMOD)),
        *_image("etc/modprobe.d/**", "etc/depmod.d/**", "etc/udev/**", "etc/systemd/network/**"),
        *_image("etc/live/**", "etc/fstab*/**", "etc/fstab", "etc/kernel/**"),
        *_image("etc/crypttab", "etc/cryptsetup-initramfs/**", "usr/share/cryptsetup/**"),
        *_image("etc/lvm/**"),
        *_library("cryptsetup/**"),
        # mkinitramfs takes the directories in / that begin with lib.
        *_image(
            "lib*", "etc/ld.so.conf*", "etc/ld.so.conf.d/**", "etc/ld.so.preload", "etc/dpkg/**"
        ),
        *_image("usr/share/locale/C*/**", "usr/share/locale/locale.alias", "usr/share/live/**"),
        *_library("locale/C*/**"),
        "boot_archive/**",
    ),
    unread=(
        *_share("doc", "man", "info", "locale", "lintian", "doc-base", "bug", "menu"),
        *_share("bash-completion", "zsh", "applications", "icons", "pixmaps", "metainfo"),
        *_image("var/lib/dpkg/**", "var/lib/apt/**", "var/cache/**", "var/log/**"),
        *_image("var/lib/systemd/**", "etc/systemd/system/**", "etc/systemd/user/**"),
        *_library("systemd/system/**", "systemd/user/**"),
        *_library("tmpfiles.d/**", "sysusers.d/**", "binfmt.d/**", "mime/**"),
        *_image("usr/include/**", "etc/alternatives/editor*"),
        *_image("etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/ld.so.cache"),
        # Read by getusershell(3), for logins.
        *_image("etc/shells", "var/lib/shells.state"),
        "media/**",
    ),
    texts=(
        *_image("etc/initramfs-tools/**", "usr/share/initramfs-tools/**"),
        *_image("usr/sbin/mkinitramfs", "usr/bin/ldd"),
    ),
    programs=_image("bin/*", "sbin/*", "usr/bin/*", "usr/sbin/*"),
    libraries=_image("lib/**.so*", "usr/lib/**.so*"),
    searched=_image("lib/**", "usr/lib/**"),
    leaves=(
        *_image(*(f"{at}/{name}" for name in _LEAVES for at in ("usr/bin", "usr/sbin"))),
        *_image("usr/lib/systemd/systemd*", "usr/lib/*/systemd/libsystemd-*"),
    ),
    passed=_image(*_ON_THE_WAY),
)
