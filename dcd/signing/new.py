"""A new signing key: the file that only its owner reads, and the public key for recipients.

Needs the extra `dcd[sign]`. Source: RFC 8410 (Ed25519 in PEM), RFC 8032.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner

from dcd.signing.keys import BadKey, open_key
from store.host.durable import sync_directory


@dataclass(frozen=True, slots=True)
class Public:
    """The public half of a key: its id in signatures, and itself in PEM (SubjectPublicKeyInfo)."""

    key_id: str
    pem: str


def new_key(path: Path) -> Public:
    """Make a key in a new file of mode 0600. Raises BadKey when the file exists or cannot be made."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise BadKey(
            f"{path} exists already",
            "a key is never overwritten: what it has signed could not be checked any more",
            "give a name that does not exist, or show the public half: dcd key show FILE",
        ) from None
    except OSError as error:
        raise BadKey(f"{path} cannot be made", error.strerror or str(error)) from None
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)
        file.write(pem)
        file.flush()
        os.fsync(descriptor)
    sync_directory(path.absolute().parent)
    return _public(key)


def shown_key(path: Path) -> Public:
    """The public half of the key in a file. Raises BadKey."""
    with open_key(path.absolute()) as file:
        try:
            key = load_pem_private_key(file.read(), None)
        except (TypeError, ValueError) as error:
            raise BadKey(f"{path} holds no signing key", str(error).split(".")[0]) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise BadKey(f"{path} holds a key of another kind", "Ed25519 is needed")
    return _public(key)


def _public(key: Ed25519PrivateKey) -> Public:
    public = key.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return Public(CryptoSigner(key).public_key.keyid, pem)
