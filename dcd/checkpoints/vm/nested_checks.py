"""Impossible combinations of LUKS, LVM, subvolumes and dm-verity, each at its element. Pure.

Source: the GRUB manual 2.06, "cryptomount" (no LUKS2 with Argon2); btrfs-subvolume(8); veritysetup(8);
crypttab(5).
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from dcd.checkpoints.vm import volume_rules
from dcd.checkpoints.vm.nested import Content, Filled
from dcd.manifest.data_object import DataObject
from dcd.manifest.diagnostics import Diagnostic, error
from dcd.manifest.objects.storage import (
    Format,
    Luks,
    Passphrase,
    SigningKey,
    Subvolume,
    Verity,
    VolumeGroup,
)
from dcd.manifest.objects.target import DiskImage, GptPartition

VERIFIED_ROOT = "root"
"""The name of the verified root in /dev/mapper. Source: systemd-veritysetup-generator(8)."""
_OF_BOOT = (
    '<gpt_partition name="N" part_type="linux"><size val="512mb"/>'
    '<format type="ext4" mountpoint="/boot"/></gpt_partition>'
)
_REFERENCE = (
    'write file="/etc/dcd/secrets/NAME", or env="DCD_SECRET_NAME" for a variable of the daemon'
)


def check_nested(element: GptPartition, found: Filled) -> Iterator[Diagnostic]:
    """Errors in one partition."""
    luks = element.get_first_child(class_type=Luks)
    if luks is not None:
        yield from _check_passphrases(luks)
    for content in found.contents:
        if isinstance(content.format, Format):
            yield from _check_subvolumes(content.format, content)
    verity = element.get_first_child(class_type=Verity)
    if verity is not None:
        yield from _check_verity(element, verity, found)


def check_boot(
    placed: Sequence[tuple[GptPartition, Filled, bool]], image: DiskImage | None
) -> Iterator[Diagnostic]:
    """Errors of the whole disk: what the boot loader and the initramfs cannot open."""
    contents = [content for _, found, _ in placed for content in found.contents]
    points = {point: one for one in contents for point in one.volume.volume.mounts}
    boot = points.get("/boot") or points.get("/")
    if boot is not None and boot.volume.encrypted:
        yield _error(
            boot.format,
            "GRUB cannot read the kernel: /boot is encrypted",
            "GRUB does not open LUKS2 with Argon2",
            f"give /boot a partition of its own: {_OF_BOOT}",
        )
    if boot is not None and boot.volume.verified:
        yield _error(
            boot.format,
            "the root hash cannot be in the file system that it is the hash of",
            "The boot menu, which has it, is in /boot.",
            f"give /boot a partition of its own: {_OF_BOOT}",
        )
    root = points.get("/")
    yield from _check_names([element for element, *_ in placed], root)
    encrypted = [element for element, *_ in placed if element.get_first_child(class_type=Luks)]
    if encrypted and image is not None and image.id == "random":
        yield error(
            image.place_of("id"),
            "the id of a disk with LUKS cannot be random",
            "The initramfs, which is made before the disk, names the encrypted partition by its UUID.",
            'write id="derived", or a UUID; the key of the encryption is random in any case',
        )


def _check_names(elements: Sequence[GptPartition], root: Content | None) -> Iterator[Diagnostic]:
    verified = root is not None and root.volume.verified
    seen: dict[type[DataObject], set[str]] = {
        Luks: {VERIFIED_ROOT} if verified else set(),
        VolumeGroup: set(),
    }
    for element in elements:
        for kind, names in seen.items():
            for one in element.get_descendants(class_type=kind):
                if one.name and one.name in names:
                    brief = (
                        f"two {'devices' if kind is Luks else 'groups'} have the name {one.name}"
                    )
                    yield error(one.place_of("name"), brief, "", "give each a name of its own")
                names.add(one.name)


def _check_passphrases(luks: Luks) -> Iterator[Diagnostic]:
    given = luks.get_children(class_type=Passphrase)
    for one in given:
        yield from _check_reference(one, "passphrase")
    if all(one.recovery for one in given):
        yield _error(
            given[0],
            "the partition has a passphrase for recovery only",
            "The initramfs asks for the usual one.",
            'add <passphrase file="/etc/dcd/secrets/NAME"/>',
        )


def _check_reference(one: Passphrase | SigningKey, what: str) -> Iterator[Diagnostic]:
    if (one.file is None) == (one.env is None):
        ways = "nothing" if one.file is None else "file and env"
        yield _error(
            one, f"the {what} is given by {ways}", "It is given by one of them.", _REFERENCE
        )


def _check_subvolumes(place: Format, content: Content) -> Iterator[Diagnostic]:
    subvolumes = place.get_children(class_type=Subvolume)
    volume = content.volume.volume
    if subvolumes and volume.type != "btrfs":
        yield error(
            subvolumes[0].place_of(""),
            f"{content.volume.title}: {volume.type} has no subvolumes",
            "",
            'write <format type="btrfs">, or give each mountpoint a partition or logical volume',
        )
        return
    if subvolumes and place.mountpoint is not None:
        yield error(
            place.place_of("mountpoint"),
            f"{content.volume.title}: its subvolumes are mounted, not its top level",
            "",
            f'take mountpoint out, and write <subvolume name="@" mountpoint="{place.mountpoint}"/>',
        )
    names: set[str] = set()
    for one in subvolumes:
        if one.name in names:
            brief = f"{content.volume.title} has two subvolumes {one.name}"
            yield error(one.place_of("name"), brief, "", "give each its own name")
        names.add(one.name)
        as_volume = replace(volume, mountpoint=one.mountpoint, options=one.options, subvolumes=())
        for attribute, brief, resolution in volume_rules.problems(as_volume, None, 512):
            if attribute in ("mountpoint", "options"):
                brief = f"subvolume {one.name}: {brief}"
                yield error(one.place_of(attribute), brief, "", resolution)


def _check_verity(element: GptPartition, verity: Verity, found: Filled) -> Iterator[Diagnostic]:
    number = found.partition.number
    key = verity.get_first_child(class_type=SigningKey)
    if key is not None:
        yield from _check_reference(key, "signing key")
    if element.get_first_child(class_type=Luks) or element.get_first_child(class_type=VolumeGroup):
        yield _error(
            verity,
            f"partition {number}: dm-verity is for a file system in the partition itself",
            "It cannot be combined with LUKS and LVM.",
            "take <verity/> out, or <luks> and <volume_group>",
        )
        return
    volume = found.contents[0].volume.volume if found.contents else None
    if volume is None or volume.mountpoint != "/":
        yield _error(
            verity,
            f"partition {number}: only the root can be verified",
            "Its root hash is on the kernel's command line.",
            'write <format type="ext4" mountpoint="/"/> before <verity/>, or take <verity/> out',
        )
        return
    place = found.contents[0].format
    if volume.type != "ext4":
        brief = f"partition {number}: a root of {volume.type} cannot be verified"
        yield error(place.place_of("type"), brief, "", 'write <format type="ext4" mountpoint="/"/>')
    if "rw" in volume.options.split(","):
        yield error(
            place.place_of("options"),
            f"partition {number}: a verified root cannot be writable",
            "dm-verity refuses every write.",
            "take rw out, and give /var, /home and others partitions of their own",
        )


def _error(place: DataObject, brief: str, details: str, resolution: str) -> Diagnostic:
    return error(place.place_of(""), brief, details, resolution)
