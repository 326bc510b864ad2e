"""Data objects of what a partition holds: file systems, LUKS, LVM and dm-verity."""

from typing import Literal

from dcd.manifest import forms
from dcd.manifest.data_object import DataObject, OneOf, attribute, many, optional, some
from dcd.manifest.values import SIZE, size_bytes


class Size(DataObject, tag="size"):
    """The size and the first sector of the surrounding element."""

    val: str = attribute("The size with its unit (b, kb, mb, gb, tb, secs).", form=SIZE)
    start_sector: int | None = attribute(
        "The first sector (by default the next free one).", default=None, minimum=0, maximum=2**54
    )

    @property
    def size_bytes(self) -> int:
        """The size in bytes; sectors count 512."""
        return size_bytes(self.val)


class Subvolume(DataObject, tag="subvolume"):
    """A subvolume of btrfs, with the files of the image below its mountpoint."""

    name: str = attribute("Its name, in the file system's top level.", form=forms.SUBVOLUME)
    mountpoint: str | None = attribute(
        "Its mountpoint in the installed system; without one it is empty.",
        default=None,
        form=forms.MOUNTPOINT,
    )
    options: str = attribute(
        "Mount options in fstab, beside `subvol`, which is always there.",
        default="defaults",
        form=forms.MOUNT_OPTIONS,
    )


class Format(DataObject, tag="format", content=(many(Subvolume),)):
    """The file system, or swap space, made in a partition or logical volume. With subvolumes, which only
    btrfs has, each of them is mounted, and not the file system's top level."""

    type: Literal["ext4", "xfs", "btrfs", "vfat", "swap"] = attribute("The kind.")
    label: str | None = attribute("Its label.", default=None, form=forms.LINE)
    uuid: str | None = attribute(
        "Its UUID (vfat: XXXX-XXXX); by default derived from the disk's id.",
        default=None,
        form=forms.VOLUME_UUID,
    )
    mountpoint: str | None = attribute(
        "Its mountpoint in the installed system.", default=None, form=forms.MOUNTPOINT
    )
    options: str = attribute(
        "Mount options in fstab.", default="defaults", form=forms.MOUNT_OPTIONS
    )


class LogicalVolume(DataObject, tag="logical_volume", content=(optional(Size), optional(Format))):
    """A logical volume of LVM. One of a group may lack its size: it takes what the others leave."""

    name: str = attribute("Its name.", form=forms.LVM_NAME)


class VolumeGroup(DataObject, tag="volume_group", content=(some(LogicalVolume),)):
    """A volume group of LVM, of which the partition is the one physical volume."""

    name: str = attribute("Its name.", form=forms.LVM_NAME)


class Passphrase(DataObject, tag="passphrase"):
    """A passphrase by reference to a file or variable of the daemon, which is read when it is needed and
    never stored."""

    file: str | None = attribute(
        "A file of the daemon's host with the passphrase.", default=None, form=forms.HOST_PATH
    )
    env: str | None = attribute(
        "A variable of the daemon's environment with the passphrase.",
        default=None,
        form=forms.IDENTIFIER,
    )
    recovery: bool = attribute(
        "It is for recovery: it has a key slot of its own, and `VerifyBoot` does not type it.",
        default=False,
    )


class Luks(
    DataObject,
    tag="luks",
    content=(some(Passphrase), OneOf((optional(Format), optional(VolumeGroup)), required=True)),
):
    """The partition is encrypted (LUKS2). The initramfs asks for the passphrase on the console."""

    name: str = attribute(
        "The name of the opened device in /dev/mapper; by default `luks-` and the partition's number.",
        default="",
        form=forms.MAPPED,
    )


class SigningKey(DataObject, tag="signing_key"):
    """A private key with its certificate, both PEM in one text, by reference to a file or variable of the
    daemon, which is read when it is needed and never stored."""

    file: str | None = attribute(
        "A file of the daemon's host with key and certificate.", default=None, form=forms.HOST_PATH
    )
    env: str | None = attribute(
        "A variable of the daemon's environment with key and certificate.",
        default=None,
        form=forms.IDENTIFIER,
    )


class Verity(DataObject, tag="verity", content=(optional(SigningKey),)):
    """The kernel verifies each block that it reads of the partition's file system (dm-verity), by a tree of
    hashes behind it, whose root hash is on the kernel's command line. With a key, the root hash is signed
    (PKCS#7)."""
