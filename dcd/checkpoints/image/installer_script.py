"""The installer of a live Debian system: a shell script, and the rule and unit that start it.

It runs only when a live medium boots with a drive labelled `LABEL`. `dcd.checkpoints.vm.answers` makes that
drive, which holds:

- `answers`: variables for the shell. `token` (printed at the very end), `disk` (the serial number of the
  disk to install to; no other is touched), `firmware` (`bios`, `uefi` or both), `esp` (the mount point of the
  EFI system partition), `hostname` (empty: that of the live system);
- `partitions`: a script for sfdisk(8);
- `volumes`: a line for each, with fields separated by tabs: number, type, UUID, label, mount point; outer
  mount points first, `-` for an empty field;
- `files.tar`: files that are copied over the installed system.

The installed system is the live system itself: the content of the medium's compressed file system, with the
medium's initramfs. The serial console shows every step as `dcd-install: PERCENT% WHAT`, and the end as
`dcd-install: installed TOKEN` or `dcd-install: failed while WHAT`; then the machine switches itself off.
"""

LABEL = "DCD-ANSWERS"
CONSOLE = "ttyS0"
SAYS = "dcd-install: "

SCRIPT_PATH = "usr/lib/dcd/install"
UNIT_PATH = "usr/lib/systemd/system/dcd-install.service"
RULE_PATH = "usr/lib/udev/rules.d/90-dcd-install.rules"

RULE = f"""\
# A drive with answers starts the installation.
SUBSYSTEM=="block", ENV{{ID_FS_LABEL}}=="{LABEL}", TAG+="systemd", ENV{{SYSTEMD_WANTS}}+="dcd-install.service"
"""

UNIT = f"""\
[Unit]
Description=Install this system onto a disk
ConditionKernelCommandLine=boot=live
# A login on the same line would hang it up. Not Conflicts=: what udev wants gives way to what is pending.
Before=serial-getty@{CONSOLE}.service

[Service]
Type=oneshot
# No other service gets a copy of what is mounted here, which would keep it mounted to the very end.
PrivateMounts=yes
ExecStart=/{SCRIPT_PATH}
"""

SCRIPT = rf"""#!/bin/sh
# Installs the live system onto a disk, as the answers on the drive labelled {LABEL} say.
set -eu
systemctl stop serial-getty@{CONSOLE}.service
exec >/dev/{CONSOLE} 2>&1

here=/run/dcd-install
target=$here/target
medium=/run/live/medium/live
doing="reading the answers"

step() {{
    doing=$2
    echo "{SAYS}$1% $2"
}}

finish() {{
    status=$?
    trap - EXIT
    if [ "$status" -eq 0 ]; then
        echo "{SAYS}installed $token"
    else
        echo "{SAYS}failed while $doing (exit status $status)"
    fi
    # The console's last words need a moment.
    sleep 1
    poweroff --force
}}
trap finish EXIT

# partition NUMBER: its device.
partition() {{
    case $device in
        *[0-9]) echo "${{device}}p$1" ;;
        *) echo "$device$1" ;;
    esac
}}

# volumes COMMAND: run it for each line of the table, with its fields as arguments.
volumes() {{
    while IFS='	' read -r number type uuid label mountpoint; do
        "$1" "$(partition "$number")" "$type" "$uuid" "$label" "$mountpoint" </dev/null
    done <"$here/answers/volumes"
}}

make_volume() {{
    [ "$4" != - ] || set -- "$1" "$2" "$3" ""
    case $2 in
        ext4) mke2fs -q -F -t ext4 -U "$3" -L "$4" -E lazy_itable_init=0,lazy_journal_init=0 "$1" ;;
        xfs) mkfs.xfs -q -f -m "uuid=$3" ${{4:+-L "$4"}} "$1" ;;
        btrfs) mkfs.btrfs -q -f -U "$3" -L "$4" "$1" ;;
        vfat) mkfs.vfat -i "$(echo "$3" | tr -d -)" ${{4:+-n "$4"}} "$1" ;;
        swap) mkswap -U "$3" ${{4:+-L "$4"}} "$1" ;;
    esac
}}

# FAT cannot hold what a copy of the system gives its directories, so it is mounted after.
mount_before() {{ [ "$2" = vfat ] || mount_volume "$@"; }}
mount_after() {{ [ "$2" != vfat ] || mount_volume "$@"; }}
mount_volume() {{
    [ "$5" != - ] || return 0
    mkdir -p "$target$5"
    mount -t "$2" "$1" "$target$5"
}}

mkdir -p "$here/answers" "$here/image" "$target"
mount -o ro -t iso9660 "/dev/disk/by-label/{LABEL}" "$here/answers"
. "$here/answers/answers"

step 2 "looking for the disk $disk"
device=$(lsblk --noheadings --nodeps --paths --raw --output NAME,SERIAL |
    while read -r name serial; do [ "$serial" != "$disk" ] || echo "$name"; done)
[ -b "$device" ]

step 4 "dividing $device"
sfdisk --quiet --wipe always --wipe-partitions always "$device" <"$here/answers/partitions"
udevadm settle

step 8 "making file systems"
volumes make_volume
volumes mount_before

step 15 "copying the system"
mount -o ro,loop -t squashfs "$medium/filesystem.squashfs" "$here/image"
cp -a "$here/image/." "$target/"
volumes mount_after

step 65 "making it an installed system"
# The system's own versions of these files are kept beside those of the answers.
for own in fstab default/grub; do
    [ ! -e "$target/etc/$own" ] || cp -p "$target/etc/$own" "$here/own-${{own##*/}}"
done
tar -x --no-overwrite-dir -f "$here/answers/files.tar" -C "$target"
if [ -e "$here/own-fstab" ]; then
    awk 'NR == FNR {{ if ($2 != "none") ours[$2] = 1; next }}
        NF >= 3 && $1 !~ /^#/ && !($2 in ours)' "$target/etc/fstab" "$here/own-fstab" >"$here/more"
    cat "$here/more" >>"$target/etc/fstab"
fi
if [ -e "$here/own-grub" ]; then
    mkdir -p "$target/etc/default/grub.d"
    mv "$target/etc/default/grub" "$target/etc/default/grub.d/dcd.cfg"
    cp -p "$here/own-grub" "$target/etc/default/grub"
fi
if [ -n "$hostname" ]; then
    echo "$hostname" >"$target/etc/hostname"
    touch "$target/etc/hosts"
    sed -i '/^127\.0\.1\.1[[:space:]]/d' "$target/etc/hosts"
    printf '127.0.1.1\t%s\n' "$hostname" >>"$target/etc/hosts"
fi
# The medium's initramfs is that of its own kernel.
running=$(uname -r)
if [ -e "$target/boot/vmlinuz-$running" ]; then
    cp "$medium/initrd.img" "$target/boot/initrd.img-$running"
fi
for directory in dev proc sys; do
    mount --rbind --make-rslave "/$directory" "$target/$directory"
done
mount -t tmpfs tmpfs "$target/run"
inside() {{ chroot "$target" env DEBIAN_FRONTEND=noninteractive "$@"; }}
for kernel in "$target"/boot/vmlinuz-*; do
    version=${{kernel##*/vmlinuz-}}
    if [ -d "$target/lib/modules/$version" ] && [ ! -e "$target/boot/initrd.img-$version" ]; then
        inside update-initramfs -c -k "$version"
    fi
done

step 70 "removing what only live systems need"
form='${{db:Status-Abbrev}} ${{Package}}\n'
live=$(inside dpkg-query --show --showformat "$form" 'live-*' |
    while read -r status package; do [ "$status" != ii ] || echo "$package"; done)
if [ -n "$live" ]; then
    # The initramfs is as good without them, and would take minutes to be made again.
    settings=$target/etc/initramfs-tools/update-initramfs.conf
    cp -p "$settings" "$here/settings"
    echo update_initramfs=no >"$settings"
    # shellcheck disable=SC2086
    inside dpkg --purge $live
    mv "$here/settings" "$settings"
fi
rm -f "$target/{SCRIPT_PATH}" "$target/{UNIT_PATH}" "$target/{RULE_PATH}"

step 80 "installing the boot loader"
for kind in $firmware; do
    case $kind in
        bios) inside grub-install --target=i386-pc "$device" ;;
        uefi) inside grub-install --target=x86_64-efi --efi-directory="$esp" --removable --no-nvram ;;
    esac
done
inside update-grub

step 92 "taking out what belongs to one machine"
: >"$target/etc/machine-id"
rm -f "$target/var/lib/dbus/machine-id" "$target/var/lib/systemd/random-seed"
rm -f "$target"/etc/ssh/ssh_host_*

step 95 "writing everything to the disk"
sync
umount --recursive "$target"
blockdev --flushbufs "$device"
"""
