#!/bin/sh
# The virtual machine of examples/debian-vm.xml made by hand: the same packages, options and results as the
# checkpoints have, with nothing but the tools. What dcd adds to them is measured against this.
# Usage: bare-vm-build.sh DIRECTORY prepare SUITE VARIANT PACKAGE...     (as root): the image area, configured
#        bare-vm-build.sh DIRECTORY disk                         (as root): the disk and all its formats
#        bare-vm-build.sh DIRECTORY slowest                      the slowest format of that disk alone
# Results: DIRECTORY/{packages.tsv, debian-vm.*, SHA256SUMS}
set -eu
directory=$1 stage=$2
mkdir -p "$directory"
cd "$directory"
root_id=82575d04-ae9b-5d9c-b385-7524c9ba92ee esp_id=D628-F7B7
esp_start=4096 esp_sectors=131072 root_start=135168

prepare() {
    suite=$1 variant=$2
    shift 2
    include=$(IFS=,; echo "$*")
    # The host's own apt sources, as mmdebstrap takes them.
    set --
    for sources in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
        [ -s "$sources" ] && set -- "$@" "$sources"
    done
    cat > configure <<'HOOK'
#!/bin/sh
set -eu
root=$1
echo debian-vm > "$root/etc/hostname"
printf '127.0.0.1\tlocalhost\n127.0.1.1\tdebian-vm\n' > "$root/etc/hosts"
echo LANG=C.UTF-8 > "$root/etc/default/locale"
ln -sf /usr/share/zoneinfo/Etc/UTC "$root/etc/localtime"
chroot "$root" useradd --create-home --shell /bin/bash --groups sudo vm
echo vm:vm | chroot "$root" chpasswd
chroot "$root" usermod --lock root
printf '[Match]\nName=en*\n\n[Network]\nDHCP=yes\n' > "$root/etc/systemd/network/10-dcd.network"
ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
for service in systemd-networkd systemd-resolved serial-getty@ttyS0; do
    SYSTEMD_OFFLINE=1 chroot "$root" systemctl enable "$service.service"
done
version=$(basename "$root"/boot/vmlinuz-*)
version=${version#vmlinuz-}
printf 'MODULES=most\nCOMPRESS=zstd\nCOMPRESSLEVEL=1\n' > "$root/etc/initramfs-tools/conf.d/made-once"
chroot "$root" mkinitramfs -o "/boot/initrd.img-$version" "$version"
rm "$root/etc/initramfs-tools/conf.d/made-once"
HOOK
    chmod +x configure
    INITRD=No mmdebstrap --mode=root --format=directory --variant="$variant" --include="$include" \
        --customize-hook=./configure "$suite" root "$@"
    dpkg-query --admindir=root/var/lib/dpkg --show \
        --showformat='${Package}\t${Version}\t${Architecture}\n' > packages.tsv
}

install_system() {
    version=$(basename root/boot/vmlinuz-*)
    version=${version#vmlinuz-}
    mkdir -p root/boot/efi root/etc/repart.d
    {
        echo "UUID=$root_id / ext4 errors=remount-ro,x-systemd.growfs 0 1"
        echo "UUID=$esp_id /boot/efi vfat umask=0077 0 2"
    } > root/etc/fstab
    printf '[Partition]\nType=0fc63daf-8483-4772-8e79-3d69d8477de4\n' > root/etc/repart.d/003-root.conf
    : > root/etc/machine-id
    for platform in i386-pc x86_64-efi; do
        mkdir -p "root/boot/grub/$platform"
        cp root/usr/lib/grub/$platform/*.mod root/usr/lib/grub/$platform/*.lst "root/boot/grub/$platform"
    done
    cat > root/boot/grub/grub.cfg <<MENU
search --no-floppy --fs-uuid --set=root $root_id
set default=0
set timeout=2
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
menuentry 'Debian' {
    linux /boot/vmlinuz-$version root=UUID=$root_id ro quiet console=tty0 console=ttyS0,115200
    initrd /boot/initrd.img-$version
}
MENU
}

core_image() {
    format=$1 result=$2
    shift 2
    grub-mkimage --format "$format" --output "$result" --directory "root/usr/lib/grub/$format" \
        --prefix /boot/grub --config early.cfg "$@" part_gpt search_fs_uuid fat ext2 all_video boot \
        configfile echo gfxterm halt linux ls minicmd normal reboot search search_fs_file serial sleep \
        terminal test
}

make_disk() {
    rm -f debian-vm.raw
    truncate -s 4G debian-vm.raw
    sfdisk --quiet debian-vm.raw <<TABLE
label: gpt
start=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649
start=$esp_start, size=$esp_sectors, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name="EFI"
start=$root_start, size=8251392, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name="root"
TABLE
    printf 'search --no-floppy --fs-uuid --set=root %s\nset prefix=($root)/boot/grub\n' "$root_id" > early.cfg
    core_image x86_64-efi BOOTX64.EFI efi_gop efi_uga
    esp="debian-vm.raw@@$((esp_start * 512))"
    mformat -i "$esp" -S 2 -T $esp_sectors -H $esp_start -h 255 -s 63 -c 1 -F -N "$(echo $esp_id | tr -d -)" ::
    mmd -i "$esp" ::EFI ::EFI/BOOT
    mcopy -i "$esp" BOOTX64.EFI ::EFI/BOOT/
    mke2fs -q -t ext4 -b 4096 -U $root_id -L root -d root \
        -E "offset=$((root_start * 512)),lazy_itable_init=0,nodiscard,assume_storage_prezeroed=1" \
        debian-vm.raw 4125696k
    core_image i386-pc core.img biosdisk
    # What grub-install fills in: where the core image begins, and where in it the rest does.
    head -c 440 root/usr/lib/grub/i386-pc/boot.img > boot.img
    printf '\000\010\000\000\000\000\000\000' | dd of=boot.img bs=1 seek=92 conv=notrunc status=none
    printf '\220\220' | dd of=boot.img bs=1 seek=102 conv=notrunc status=none
    printf '\001\010\000\000\000\000\000\000' | dd of=core.img bs=1 seek=500 conv=notrunc status=none
    dd if=boot.img of=debian-vm.raw conv=notrunc status=none
    dd if=core.img of=debian-vm.raw bs=512 seek=2048 conv=notrunc status=none
}

# One format: made, checked, held against the disk, and digested.
cat > convert <<'CONVERT'
#!/bin/sh
set -eu
file=$1 driver=$2
shift 2
if [ "$driver" != raw ]; then
    qemu-img convert -m 2 -f raw -O "$driver" "$@" debian-vm.raw "$file"
    case $driver in vpc) ;; *) qemu-img check -q -f "$driver" "$file" ;; esac
    qemu-img compare -q -f raw -F "$driver" debian-vm.raw "$file"
fi
sha256sum "$file" > "$file.sha256"
CONVERT
chmod +x convert

make_formats() {
    rm -f debian-vm*.sha256
    # As many at once as there are processors, the slowest first.
    xargs -P "$(nproc)" -L 1 ./convert <<'FORMATS'
debian-vm.vmdk vmdk -o subformat=streamOptimized,adapter_type=lsilogic
debian-vm.qcow2 qcow2 -c -o compression_type=zstd
debian-vm-monolithicSparse.vmdk vmdk -o subformat=monolithicSparse,adapter_type=lsilogic
debian-vm.vdi vdi
debian-vm.vhd vpc -o subformat=dynamic,force_size=on
debian-vm.vhdx vhdx -o subformat=dynamic
debian-vm.raw raw
FORMATS
    # The descriptor has some KiB; what is in it takes no time.
    ln -f debian-vm.vmdk debian-vm-disk1.vmdk
    echo '<Envelope/>' > debian-vm.ovf
    sha256sum --tag debian-vm.ovf debian-vm-disk1.vmdk > debian-vm.mf
    tar --format=ustar -cf debian-vm.ova debian-vm.ovf debian-vm.mf debian-vm-disk1.vmdk
    sha256sum debian-vm.ova > debian-vm.ova.sha256
    cat debian-vm*.sha256 > SHA256SUMS
}

shift 2
case $stage in
slowest) ./convert debian-vm.vmdk vmdk -o subformat=streamOptimized,adapter_type=lsilogic ;;
prepare) prepare "$@" ;;
disk)
    install_system
    make_disk
    make_formats
    ;;
*) echo "$stage is neither prepare, disk nor slowest" >&2 && exit 2 ;;
esac
