"""The tree of hashes by which the kernel verifies a file system (dm-verity), and the signature of its root.

The tree follows the file system in the same partition. Its salt derives from its UUID, so the same content
has the same root hash. The signature is PKCS#7 over the root hash in hexadecimal, as the kernel and
systemd-veritysetup expect it; with an RSA key it is the same each time.
Source: veritysetup(8); Linux, Documentation/admin-guide/device-mapper/verity.rst; openssl-smime(1).
"""

import hashlib
import os
import re
from pathlib import Path

from dcd.checkpoints.interface import Context
from dcd.checkpoints.vm.disk import ContainerPartition, Verity
from dcd.checkpoints.vm.nested import BLOCK_BYTES
from dcd.manifest.doc import DataObjectCache
from dcd.manifest.objects.storage import SigningKey
from dcd.manifest.secrets import reference_text
from dcd.platform.copying import copy_into
from statemachine.errors import CheckpointError
from store.host.process import ToolFailed

TOOLS = ("veritysetup",)
SIGNING_TOOLS = ("openssl",)

_ROOT_HASH = re.compile(r"Root hash:\s+([0-9a-f]{64})")
_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\n.*?-----END \1-----\n?", re.DOTALL)


def keys_of(doc: DataObjectCache) -> list[SigningKey]:
    """The keys that sign root hashes."""
    return doc.volatile.get_descendants(None, SigningKey)


def add_tree(context: Context, disk: Path, partition: ContainerPartition, verity: Verity) -> str:
    """Write the tree of the partition's file system behind it. Returns the root hash, in hexadecimal."""
    alone = context.tmp / f"verity-{partition.number}"
    with alone.open("xb") as file:
        file.truncate(partition.size)
    data = verity.data_bytes
    try:
        copy_into(disk, alone, 0, begin=partition.start, end=partition.start + data)
        salt = hashlib.sha256(f"{verity.uuid} salt".encode()).hexdigest()
        done = context.run(
            [
                *("veritysetup", "format", "--hash", "sha256", "--salt", salt),
                *("--uuid", verity.uuid, "--data-block-size", str(BLOCK_BYTES)),
                *("--hash-block-size", str(BLOCK_BYTES), "--data-blocks", str(data // BLOCK_BYTES)),
                *("--hash-offset", str(data), alone, alone),
            ],
            capture=True,
        )
        copy_into(alone, disk, partition.start + data, begin=data)
    finally:
        alone.unlink()
    found = _ROOT_HASH.search(done.stdout)
    if found is None:
        raise CheckpointError("veritysetup printed no root hash", done.stdout)
    return found[1]


def signature(context: Context, key: SigningKey, root_hash: str) -> bytes:
    """The detached signature of a root hash, PKCS#7 in DER. Raises `CheckpointError` for a text without a
    key and its certificate."""
    where = key.file or key.env
    parts = {found[1]: found[0] for found in _PEM.finditer(reference_text(key, os.environ) + "\n")}
    private = next((text for kind, text in parts.items() if kind.endswith("PRIVATE KEY")), None)
    if private is None or "CERTIFICATE" not in parts:
        raise CheckpointError(
            "the signing key is no PEM with a private key and its certificate",
            f"it was read from {where}",
            "put both into it: cat key.pem certificate.pem",
        )
    certificate, hashed = context.tmp / "certificate.pem", context.tmp / "root-hash"
    certificate.write_text(parts["CERTIFICATE"], "ascii")
    hashed.write_text(root_hash, "ascii")
    result = context.tmp / "root-hash.p7s"
    try:
        context.run(
            [
                *("openssl", "smime", "-sign", "-binary", "-noattr", "-nocerts", "-outform", "der"),
                *("-md", "sha256", "-in", hashed, "-signer", certificate),
                *("-inkey", "/dev/stdin", "-out", result),
            ],
            stdin=private.encode(),
            capture=True,
        )
    except ToolFailed as failure:
        raise CheckpointError(
            "the root hash cannot be signed",
            f"the key was read from {where}; openssl: {failure.output}",
            "the key must be without a passphrase, and belong to the first certificate",
        ) from None
    return result.read_bytes()
