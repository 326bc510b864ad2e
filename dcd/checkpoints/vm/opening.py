"""How an installed system opens its root: crypttab, scripts of the initramfs for dm-verity and for growth of
an encrypted root, and the kernel's arguments.

The initramfs is Debian's initramfs-tools; cryptsetup-initramfs and lvm2 bring their own hooks. Each encrypted
partition is opened there, so that one place asks for all passphrases. For dm-verity Debian has no hook; the
arguments are those of systemd, so that an initramfs with systemd in it opens the same disk. An encrypted
partition grows before it is opened: an open one keeps its size, since the kernel alone has its key then.
Source: crypttab(5), initramfs-tools(7), systemd-veritysetup-generator(8), veritysetup(8).
"""

import base64
from pathlib import Path

from dcd.checkpoints import products
from dcd.checkpoints.vm.disk import DiskLayout, VolumePartition
from dcd.checkpoints.vm.installed import write_growth
from dcd.checkpoints.vm.nested_checks import VERIFIED_ROOT
from dcd.platform.inside import exists, read, write

CRYPTTAB = "etc/crypttab"
HOOK = "etc/initramfs-tools/hooks/dcd-verity"
SCRIPT = "etc/initramfs-tools/scripts/local-top/dcd-verity"
GROWTH_HOOK = "etc/initramfs-tools/hooks/dcd-grow"
GROWTH_SCRIPT = "etc/initramfs-tools/scripts/init-premount/dcd-grow"
"""Before those of local-top, the last of which opens encrypted partitions."""
GROWTH = "etc/initramfs-tools/dcd-repart.d"
NO_GROWTH = "systemd.mask=systemd-repart.service"
"""The kernel's argument with which an encrypted root does not grow. Source: systemd-debug-generator(8)."""

_PLACE = """\
place() {
    echo "/dev/disk/by-partuuid/${1#PARTUUID=}"
}
wait_for() {
    tries=0
    until [ -e "$(place "$1")" ] || [ $tries -ge "${ROOTDELAY:-180}" ]; do
        sleep 1
        tries=$((tries + 1))
    done
}
"""
"""Functions of the shell for a partition that appears late."""

_HOOK = """\
#!/bin/sh
# Puts veritysetup into the initramfs, for the script of the same name.
[ "$1" = prereqs ] && exit 0
. /usr/share/initramfs-tools/hook-functions
copy_exec /sbin/veritysetup
copy_exec /usr/bin/base64
manual_add_modules dm_verity sha256_generic sha256_ssse3
"""
_SCRIPT = """\
#!/bin/sh
# Opens the root that the kernel's arguments roothash= and systemd.verity_root_*= describe.
if [ "$1" = prereqs ]; then
    echo udev
    exit 0
fi
. /scripts/functions
hash= data= tree= offset= signature=
for word in $(cat /proc/cmdline); do
    case "$word" in
    roothash=*) hash=${word#roothash=} ;;
    systemd.verity_root_data=*) data=${word#systemd.verity_root_data=} ;;
    systemd.verity_root_hash=*) tree=${word#systemd.verity_root_hash=} ;;
    systemd.verity_root_options=*)
        for option in $(echo "${word#systemd.verity_root_options=}" | tr , ' '); do
            case "$option" in
            hash-offset=*) offset=${option#hash-offset=} ;;
            root-hash-signature=base64:*) signature=${option#root-hash-signature=base64:} ;;
            esac
        done
        ;;
    esac
done
[ -n "$hash" ] || exit 0
PLACEwait_for "$data"
modprobe -q dm_verity
open() {
    veritysetup open --hash-offset "${offset:-0}" "$@" "$(place "$data")" NAME "$(place "$tree")" "$hash"
}
if [ -n "$signature" ]; then
    echo "$signature" | base64 -d >/run/root-hash.p7s
    # A kernel that does not know the key refuses the signature. One with dm_verity.require_signatures=1
    # refuses the second way too.
    open --root-hash-signature /run/root-hash.p7s || {
        log_warning_msg "the kernel does not know the key of the root's signature"
        open
    }
else
    open
fi || panic "the verified root cannot be opened: it is not the one of the root hash"
# The device is read-only: nothing can repair it.
echo fastboot=y >>/conf/param.conf
""".replace("NAME", VERIFIED_ROOT).replace("PLACE", _PLACE)

_GROWTH_HOOK = """\
#!/bin/sh
# Puts systemd-repart and its definitions into the initramfs, for the script of the same name.
[ "$1" = prereqs ] && exit 0
. /usr/share/initramfs-tools/hook-functions
[ -x /usr/bin/systemd-repart ] || exit 0
copy_exec /usr/bin/systemd-repart
mkdir -p "$DESTDIR/etc/repart.d"
cp /DEFINITIONS/*.conf "$DESTDIR/etc/repart.d"
""".replace("DEFINITIONS", GROWTH)
_GROWTH_SCRIPT = """\
#!/bin/sh
# Gives the rest of a larger disk to the encrypted root before it is opened.
[ "$1" = prereqs ] && exit 0
[ -x /usr/bin/systemd-repart ] || exit 0
for word in $(cat /proc/cmdline); do
    [ "$word" = ARGUMENT ] && exit 0
done
. /scripts/functions
PLACEwait_for PARTITION
partition=$(readlink -f "$(place PARTITION)")
disk=$(readlink -f "/sys/class/block/${partition##*/}/..")
systemd-repart --dry-run=no --no-pager --pretty=no "/dev/${disk##*/}" ||
    log_warning_msg "the encrypted root did not grow"
wait_for_udev 10
""".replace("PLACE", _PLACE).replace("ARGUMENT", NO_GROWTH)


_HOOKS = "usr/share/initramfs-tools/hooks"


def write_opening(root: Path, layout: DiskLayout) -> None:
    """Write into the image what its initramfs needs to open the root and all encrypted partitions, and to
    grow an encrypted root that is the last on the disk. Raises `CheckpointError` when the image lacks the
    programs for it."""
    for needed, product, file in (
        (any(one.luks for one in layout.containers), products.CRYPTSETUP, f"{_HOOKS}/cryptroot"),
        (any(one.group for one in layout.containers), products.LVM, f"{_HOOKS}/lvm2"),
        (any(one.verity for one in layout.containers), products.VERITYSETUP, "sbin/veritysetup"),
    ):
        if needed and not exists(root, file):
            raise products.missing(product, f"there is no /{file} in the image")
    encrypted = [one.luks for one in layout.containers if one.luks is not None]
    if encrypted:
        names = {one.name for one in encrypted}
        lines = [f"{one.name} UUID={one.uuid} none luks,initramfs" for one in encrypted]
        given = (read(root, CRYPTTAB) or "").splitlines()
        lines += [line for line in given if not names.intersection(line.split()[:1])]
        write(root, CRYPTTAB, "\n".join(lines) + "\n")
    if any(one.verity is not None for one in layout.containers):
        write(root, HOOK, _HOOK, mode=0o755)
        write(root, SCRIPT, _SCRIPT, mode=0o755)
    mounted = layout.mounted_at("/")
    last = max(layout.partitions, key=lambda partition: partition.start, default=None)
    if mounted is not None and mounted.encrypted and layout.partition_of(mounted) is last:
        write_growth(root, GROWTH, layout, mounted)
        script = _GROWTH_SCRIPT.replace("PARTITION", last.uuid)
        write(root, GROWTH_HOOK, _GROWTH_HOOK, mode=0o755)
        write(root, GROWTH_SCRIPT, script, mode=0o755)


def root_arguments(root: VolumePartition) -> str:
    """The kernel's arguments for the root; with dm-verity without those of `verity_arguments`."""
    if root.verified:
        return f"root=/dev/mapper/{VERIFIED_ROOT} ro"
    subvolume = root.volume.mounts["/"]
    flags = "" if subvolume is None else f" rootflags=subvol={subvolume.name}"
    return f"root=UUID={root.volume.uuid} ro{flags}"


def verity_arguments(
    layout: DiskLayout, root: VolumePartition, root_hash: str, signature: bytes | None
) -> str:
    """The kernel's arguments that name the verified root and its root hash."""
    place = f"PARTUUID={layout.partition_of(root).uuid}"
    options = f"hash-offset={root.size}"
    if signature is not None:
        options += f",root-hash-signature=base64:{base64.b64encode(signature).decode()}"
    return (
        f"roothash={root_hash} systemd.verity_root_data={place} systemd.verity_root_hash={place} "
        f"systemd.verity_root_options={options}"
    )
