"""Encryption of a partition with LUKS2, and its passphrases.

cryptsetup encrypts the plain text in a file by itself, without the kernel's device mapper: all of the
partition, also what no file uses. The volume key and the salts are random, from cryptsetup: an encrypted disk
cannot be both secret and the same each time, so `variances_of` reports it. The cost of a passphrase is fixed
instead of measured on the build host: Argon2id with 64 MiB, which machines with little memory have.
Source: cryptsetup-reencrypt(8), cryptsetup-luksAddKey(8); RFC 9106, 4 (the second recommended option).
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from dcd.checkpoints.interface import Context, Variance
from dcd.checkpoints.vm.disk import ContainerPartition, DiskLayout
from dcd.checkpoints.vm.nested import LUKS_HEADER_BYTES
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.objects.storage import Luks, Passphrase
from dcd.manifest.objects.target import GptPartition
from dcd.manifest.secrets import reference_text
from dcd.platform.copying import copy_into
from statemachine.errors import CheckpointError

TOOLS = ("cryptsetup",)

SECTOR_BYTES = 4096
"""The size of an encrypted sector, and of the sectors of what is inside."""

_COST = (
    *("--pbkdf", "argon2id", "--pbkdf-force-iterations", "4"),
    *("--pbkdf-memory", "65536", "--pbkdf-parallel", "4"),
)
_LONGEST_PASSPHRASE_BYTES = 512
"""cryptsetup's limit for a passphrase that is typed."""


PROMPT = "Please unlock disk {name}:"
REFUSAL = "ERROR: {name}: cryptsetup failed, bad password"
"""What the initramfs prints. Source: Debian's cryptsetup-initramfs, scripts/local-top/cryptroot."""


def variances_of(layout: DiskLayout) -> Iterator[Variance]:
    """The reasons why the containers of a layout differ each time."""
    numbers = [str(one.number) for one in layout.containers if one.luks]
    if numbers:
        yield Variance(
            f"partition {' and '.join(numbers)}: the key of the encryption and its salts are random"
        )


def passphrases_of(doc: DataObjectCache) -> dict[int, list[Passphrase]]:
    """The passphrases of each encrypted partition by its number, the usual one first."""
    found: dict[int, list[Passphrase]] = {}
    for partition in doc.volatile.get_descendants(None, GptPartition):
        luks = partition.get_first_child(class_type=Luks)
        if luks is not None:
            given = luks.get_children(class_type=Passphrase)
            found[int(partition.name)] = sorted(given, key=lambda one: one.recovery)
    return found


def passphrase_text(passphrase: Passphrase) -> str:
    """The passphrase. Raises `CheckpointError`, without repeating it, for one that nobody can type."""
    text = reference_text(passphrase, os.environ)
    if text and text.isprintable() and len(text.encode()) <= _LONGEST_PASSPHRASE_BYTES:
        return text
    raise CheckpointError(
        "a passphrase is empty, too long, or not one line of printable characters",
        f"it was read from {passphrase.file or passphrase.env}",
        f"give it 1 to {_LONGEST_PASSPHRASE_BYTES} bytes, then resume the build",
    )


def encrypt(context: Context, disk: Path, layout: DiskLayout) -> None:
    """Encrypt the plain text in each partition with LUKS, which begins behind the place of the header."""
    given = passphrases_of(context.doc)
    for partition in layout.containers:
        if partition.luks is not None:
            texts = [passphrase_text(one) for one in given[partition.number]]
            _encrypt(context, disk, partition, partition.luks.uuid, texts)


def _encrypt(
    context: Context, disk: Path, partition: ContainerPartition, uuid: str, texts: list[str]
) -> None:
    alone = context.tmp / f"luks-{partition.number}"
    end = partition.start + partition.size
    payload = (partition.size - LUKS_HEADER_BYTES) // SECTOR_BYTES * SECTOR_BYTES
    with alone.open("xb") as file:
        # cryptsetup moves the plain text up, and wants as much space again behind it, as its working area.
        file.truncate(payload + 2 * LUKS_HEADER_BYTES)
    try:
        copy_into(disk, alone, 0, begin=partition.start + LUKS_HEADER_BYTES, end=end)
        context.run(
            [
                *(
                    "cryptsetup",
                    "reencrypt",
                    "--encrypt",
                    "--force-offline-reencrypt",
                    "--type",
                    "luks2",
                ),
                *("--batch-mode", "--disable-locks", "--key-file", "-", "--resilience", "none"),
                *("--reduce-device-size", f"{2 * LUKS_HEADER_BYTES >> 20}M"),
                *("--cipher", "aes-xts-plain64", "--key-size", "512"),
                *("--sector-size", str(SECTOR_BYTES), "--uuid", uuid, *_COST),
                *(("--label", partition.label) if partition.label else ()),
                alone,
            ],
            # It makes a temporary file with the header in its working directory.
            cwd=context.tmp,
            stdin=texts[0].encode(),
        )
        for text in texts[1:]:
            context.run(
                ["cryptsetup", "luksAddKey", "--batch-mode", "--disable-locks", *_COST, alone],
                stdin=f"{texts[0]}\n{text}\n".encode(),
            )
        copy_into(alone, disk, partition.start, end=payload + LUKS_HEADER_BYTES)
    finally:
        alone.unlink()


def prompts_of(doc: DataObjectCache, layout: DiskLayout) -> Mapping[str, Passphrase]:
    """What the initramfs asks for at the start of the system: the names of the devices, each with its
    passphrase."""
    given = passphrases_of(doc)
    return {one.luks.name: given[one.number][0] for one in layout.containers if one.luks}
