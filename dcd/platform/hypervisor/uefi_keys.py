"""Keys in the variables of UEFI firmware for guests, as an owner of a machine enrols them.

Debian 12 has no tool for this, and the firmware's own needs a guest for it. The variables are in a flash
image of OVMF: a firmware volume with a store of authenticated variables, each a header, a name and its data,
one after another. Only an empty store, as its package delivers it, gets keys.
Source: UEFI specification 2.10, 8.2 and 32.4.1; edk2, MdeModulePkg/Include/Guid/VariableFormat.h; the
Platform Initialization specification 1.8, III, 3.2.1 (firmware volumes).
"""

import re
import struct
import uuid
from pathlib import Path
from ssl import PEM_cert_to_DER_cert

from statemachine.errors import CheckpointError

_GLOBAL = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
_IMAGE_SECURITY = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
_SECURE_BOOT_ENABLE = uuid.UUID("f0a30bc7-af08-4556-99c4-001009c93a44")
_X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
_OWNER = uuid.UUID("0a3f8d7e-6c0f-4a57-9d0b-2f8d3c5a7b11")
"""The owner of the keys, in their list: any will do."""

_STORE = uuid.UUID("aaf32c78-947b-439a-a180-2e144ec37792")
"""A store of authenticated variables."""
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
"""Text may surround it, as `openssl x509 -text` writes."""
_HEADER_LENGTH = 48
"""In a firmware volume: the place of the length (2 bytes) of its header."""
_STORE_HEADER_BYTES = 28
_VARIABLE = struct.Struct("<HBBIQ16sIII16s")
_BEGINS, _ADDED = 0x55AA, 0x3F

_KEPT, _BOOT, _RUNTIME, _AUTHENTICATED = 0x1, 0x2, 0x4, 0x20
_TIME = struct.pack("<HBBBBBBIhBB", 2000, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0)
"""An EFI_TIME; updates of the keys need a later one."""


def enrol(variables: Path, certificate: str) -> None:
    """Make a certificate (PEM) the only key of firmware whose empty store of variables is in a file: it owns
    the platform and signs programs, and Secure Boot is on. Raises `CheckpointError` for another store, and
    for a text without a certificate."""
    store = variables.read_bytes()
    (header,) = struct.unpack_from("<H", store, _HEADER_LENGTH)
    at = header + _STORE_HEADER_BYTES
    if store[header : header + 16] != _STORE.bytes_le or set(store[at : at + 64]) != {0xFF}:
        raise CheckpointError(
            f"{variables.name} is no empty store of variables of UEFI firmware",
            "keys are written into the one of the package ovmf",
            "install the package: apt-get install --reinstall ovmf",
        )
    found = _PEM.search(certificate)
    if found is None:
        raise CheckpointError(
            "the certificate cannot be a key of UEFI firmware",
            "its file has no block BEGIN CERTIFICATE",
            "write it anew: openssl x509 -in FILE -out CERTIFICATE",
        )
    keys = _list_of(PEM_cert_to_DER_cert(found[0]))
    content = b"".join(
        _variable(name, vendor, keys, _KEPT | _BOOT | _RUNTIME | _AUTHENTICATED)
        for name, vendor in (("PK", _GLOBAL), ("KEK", _GLOBAL), ("db", _IMAGE_SECURITY))
    )
    content += _variable("SecureBootEnable", _SECURE_BOOT_ENABLE, b"\x01", _KEPT | _BOOT)
    variables.write_bytes(store[:at] + content + store[at + len(content) :])


def _list_of(certificate: bytes) -> bytes:
    """A signature list with one certificate (DER). Source: EFI_SIGNATURE_LIST."""
    entry = _OWNER.bytes_le + certificate
    return _X509.bytes_le + struct.pack("<III", 28 + len(entry), 0, len(entry)) + entry


def _variable(name: str, vendor: uuid.UUID, data: bytes, attributes: int) -> bytes:
    """A variable in the store, up to where the next may begin. Source: AUTHENTICATED_VARIABLE_HEADER."""
    encoded = f"{name}\0".encode("utf-16-le")
    sizes = (len(encoded), len(data))
    head = _VARIABLE.pack(_BEGINS, _ADDED, 0, attributes, 0, _TIME, 0, *sizes, vendor.bytes_le)
    whole = head + encoded + data
    return whole + b"\xff" * (-len(whole) % 4)
