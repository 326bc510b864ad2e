"""Names of devices in a system's files become ids; what is independent already stays to the byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcd.checkpoints.vm.ties import FILES, Finding, Name, in_initramfs, untied

NAMES = {n: Name(f"UUID=u{n}", f"PARTUUID=p{n}") for n in (1, 2, 5)}


def new_text(path: str, text: str, **how: bool) -> str | None:
    return untied(path, text, NAMES, **how)[0]


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("/dev/sda2", "UUID=u2"),
        ("/dev/vda1", "UUID=u1"),
        ("/dev/hda5", "UUID=u5"),
        ("/dev/xvda2", "UUID=u2"),
        ("/dev/nvme0n1p2", "UUID=u2"),
        ("/dev/mmcblk0p1", "UUID=u1"),
        ("/dev/disk/by-id/ata-QEMU_HARDDISK_QM00001-part2", "UUID=u2"),
        ("/dev/disk/by-path/pci-0000:00:1f.2-ata-1-part5", "UUID=u5"),
    ],
)
def test_a_partition_under_any_of_its_names_becomes_its_id(device: str, name: str) -> None:
    line = f"{device}\t/data  ext4 defaults 0 2\n"
    text, found = untied("etc/fstab", line, NAMES)
    assert text == line.replace(device, name)
    assert found == [Finding("etc/fstab", 1, line.strip(), line.replace(device, name).strip())]
    assert new_text("etc/crypttab", f"home {device} none luks\n") == f"home {name} none luks\n"
    argument = f"linux /vmlinuz root={device} ro\n"
    assert new_text("boot/grub/grub.cfg", argument) == f"linux /vmlinuz root={name} ro\n"


INDEPENDENT = """# / was on /dev/sda2 during installation
UUID=u2 / ext4 errors=remount-ro 0 1
PARTUUID=p1 /boot/efi vfat umask=0077 0 1
LABEL=swap none swap sw 0 0
/dev/disk/by-uuid/u5 /srv ext4 defaults 0 2
/dev/mapper/vg-home /home ext4 defaults 0 2
tmpfs /tmp tmpfs defaults 0 0
/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0

"""


@pytest.mark.parametrize("path", [*(path for path in FILES if "*" not in path), "etc/x"])
def test_what_is_independent_stays_to_the_byte(path: str) -> None:
    text = INDEPENDENT.replace("\n", "\r\n", 1)
    assert untied(path, text, NAMES) == (text, [])


@given(st.text(), st.sampled_from(FILES))
def test_twice_changes_nothing_that_once_did_not(text: str, path: str) -> None:
    once, _ = untied(path, text, NAMES)
    if once is not None:
        again, found = untied(path, once, NAMES)
        assert again == once
        assert all(finding.new is None for finding in found)


ENTRY = st.tuples(
    st.sampled_from(["/dev/sda2", "/dev/vda5", "/dev/sdb1", "UUID=u1", "tmpfs", "  /dev/sda1"]),
    st.sampled_from(["\t", " ", "   "]),
    st.sampled_from(["/", "/srv", "none"]),
    st.sampled_from([" ext4 defaults 0 0", "", " btrfs subvol=/dev/sda1"]),
).map("".join)


@given(st.lists(ENTRY, min_size=1).map("\n".join))
def test_only_the_first_field_of_fstab_changes(text: str) -> None:
    new, _ = untied("etc/fstab", text, NAMES)
    assert new is not None
    for before, after in zip(text.split("\n"), new.split("\n"), strict=True):
        assert before.split()[1:] == after.split()[1:]
        assert "/dev/sda" not in after.split()[0]


@pytest.mark.parametrize(
    ("path", "line", "expected"),
    [
        ("etc/default/grub", 'GRUB_CMDLINE_LINUX="root=/dev/sda2 quiet"\n',
         'GRUB_CMDLINE_LINUX="root=UUID=u2 quiet"\n'),
        ("etc/default/grub", "GRUB_DISABLE_LINUX_UUID=true\n", "#GRUB_DISABLE_LINUX_UUID=true\n"),
        ("etc/default/grub.d/x.cfg", 'GRUB_DISABLE_LINUX_UUID="true"\n',
         '#GRUB_DISABLE_LINUX_UUID="true"\n'),
        ("etc/initramfs-tools/conf.d/resume", "RESUME=/dev/sda5\n", "RESUME=UUID=u5\n"),
        ("etc/kernel/cmdline", "root=/dev/vda2 resume=/dev/vda5", "root=UUID=u2 resume=UUID=u5"),
        ("boot/loader/entries/a.conf", "options root=/dev/sda2\n", "options root=UUID=u2\n"),
        ("etc/dracut.conf.d/a.conf", 'kernel_cmdline="cryptdevice=/dev/sda2:root"',
         'kernel_cmdline="cryptdevice=UUID=u2:root"'),
    ],
)  # fmt: skip
def test_arguments_of_the_kernel_become_ids_wherever_they_are(
    path: str, line: str, expected: str
) -> None:
    assert new_text(path, line) == expected


def test_a_kernel_without_initramfs_is_told_of_the_partition() -> None:
    assert new_text("boot/grub/grub.cfg", "root=/dev/sda2", initramfs=False) == "root=PARTUUID=p2"
    assert new_text("etc/fstab", "/dev/sda2 / ext4", initramfs=False) == "UUID=u2 / ext4"


@pytest.mark.parametrize(
    "path",
    ["boot/grub/device.map", "boot/grub2/device.map", "etc/udev/rules.d/70-persistent-net.rules",
     "etc/udev/rules.d/70-persistent-cd.rules"],
)  # fmt: skip
def test_what_tools_remember_devices_by_is_removed(path: str) -> None:
    text, found = untied(path, "# written by a program\n(hd0) /dev/sda\n", NAMES)
    assert text is None
    assert found == [Finding(path, 0, "(hd0) /dev/sda", "")]


@pytest.mark.parametrize(
    ("path", "line", "told"),
    [
        ("etc/fstab", "/dev/sdb1 /data ext4 defaults 0 2", "/dev/sdb1"),
        ("etc/fstab", "/dev/sda9 /data ext4 defaults 0 2", "/dev/sda9"),
        ("etc/fstab", "/dev/sda /data ext4 defaults 0 2", "/dev/sda"),
        ("etc/systemd/system/data.mount", "What=/dev/sda2", "/dev/sda2"),
        ("etc/udev/rules.d/99-x.rules", 'ENV{ID_SERIAL}=="QM1"', 'ID_SERIAL}=="QM1"'),
        ("etc/systemd/network/10-a.link", "MACAddress=52:54:00:0:0:1", "MACAddress=52:54:00:0:0:1"),
        ("etc/network/interfaces", "iface ens3 inet dhcp", "iface ens3 inet dhcp"),
        ("etc/sysconfig/network-scripts/ifcfg-a", "HWADDR=52:54:00", "HWADDR=52:54:00"),
    ],
)  # fmt: skip
def test_what_a_person_has_to_judge_is_told_and_stays(path: str, line: str, told: str) -> None:
    text, found = untied(path, f"\n{line}\n", NAMES)
    assert text == f"\n{line}\n"
    assert found == [Finding(path, 2, told, None)]
    assert str(found[0]).startswith(f"{path}:2: {told} depends on")


def test_changes_say_what_was_and_what_is() -> None:
    _, found = untied("etc/crypttab", "swap /dev/sda5 /dev/urandom swap\n", NAMES)
    assert [str(each) for each in found] == [
        "etc/crypttab:1: swap /dev/sda5 /dev/urandom swap is swap UUID=u5 /dev/urandom swap now"
    ]
    assert in_initramfs(found[0])
    _, found = untied("etc/fstab", "/dev/sda2 / ext4\n", NAMES)
    assert not in_initramfs(found[0])
