#!/bin/sh
# The live image of examples/debian-live.xml made by hand: the same packages, options and results as the
# checkpoints have, with nothing but the tools. What dcd adds to them is measured against this.
# Usage: bare-live-build.sh DIRECTORY SUITE VARIANT PACKAGE...     (as root)
# Results: DIRECTORY/{debian-live.iso, packages.tsv, SHA256SUMS}
set -eu
directory=$1 suite=$2 variant=$3
motd=$(cd "$(dirname "$0")/../examples/files" && pwd)/motd
export motd
shift 3
include=$(IFS=,; echo "$*")
mkdir -p "$directory"
cd "$directory"
mkdir -p iso/live iso/boot/grub

# The host's own apt sources, as mmdebstrap takes them.
set --
for sources in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
    [ -s "$sources" ] && set -- "$@" "$sources"
done

cat > configure <<'HOOK'
#!/bin/sh
set -eu
root=$1
echo debian-live > "$root/etc/hostname"
cat > "$root/etc/hosts" <<'HOSTS'
127.0.0.1	localhost
127.0.1.1	debian-live
::1		localhost ip6-localhost ip6-loopback
ff02::1		ip6-allnodes
ff02::2		ip6-allrouters
HOSTS
echo LANG=C.UTF-8 > "$root/etc/default/locale"
ln -sf /usr/share/zoneinfo/Etc/UTC "$root/etc/localtime"
echo Etc/UTC > "$root/etc/timezone"
chroot "$root" useradd --create-home --comment 'Live user' --shell /bin/bash --groups sudo live
echo live:live | chroot "$root" chpasswd
chroot "$root" usermod --lock root
printf '[Match]\nName=en*\n\n[Network]\nDHCP=yes\n' > "$root/etc/systemd/network/10-dcd.network"
ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
for service in systemd-networkd systemd-resolved serial-getty@ttyS0; do
    SYSTEMD_OFFLINE=1 chroot "$root" systemctl enable "$service.service"
done
install -m 644 "$motd" "$root/etc/motd"
version=$(basename "$root"/boot/vmlinuz-*)
version=${version#vmlinuz-}
printf 'MODULES=most\nCOMPRESS=zstd\nCOMPRESSLEVEL=1\n' > "$root/etc/initramfs-tools/conf.d/made-once"
chroot "$root" mkinitramfs -o /initrd.img "$version"
rm "$root/etc/initramfs-tools/conf.d/made-once"
mv "$root/initrd.img" iso/live/initrd.img
cp "$root/boot/vmlinuz-$version" iso/live/vmlinuz
HOOK
chmod +x configure

INITRD=No mmdebstrap --mode=root --format=directory --variant="$variant" --include="$include" \
    --customize-hook=./configure "$suite" root "$@"

cat > iso/boot/grub/grub.cfg <<'MENU'
set default=0
set timeout=2
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
menuentry 'Debian live (serial console)' {
    linux /live/vmlinuz boot=live components quiet console=tty0 console=ttyS0,115200
    initrd /live/initrd.img
}
menuentry 'Debian live' {
    linux /live/vmlinuz boot=live components quiet console=ttyS0,115200 console=tty0
    initrd /live/initrd.img
}
MENU
mksquashfs root iso/live/filesystem.squashfs -noappend -no-progress \
    -comp zstd -b 256K -Xcompression-level 3
grub-mkrescue -o debian-live.iso iso -- -volid debian-live

dpkg-query --admindir=root/var/lib/dpkg --show \
    --showformat='${Package}\t${Version}\t${Architecture}\n' > packages.tsv
sha256sum debian-live.iso packages.tsv > SHA256SUMS
