"""Keys in the variables of UEFI firmware, as text in files has them."""

import struct
import uuid
from pathlib import Path

import pytest

from dcd.platform.hypervisor.uefi_keys import enrol
from statemachine.errors import CheckpointError

PEM = "-----BEGIN CERTIFICATE-----\nRGVyIG9mIGEga2V5\n-----END CERTIFICATE-----\n"
STORE = uuid.UUID("aaf32c78-947b-439a-a180-2e144ec37792")


@pytest.fixture
def variables(tmp_path: Path) -> Path:
    """An empty store, as the package of the firmware has it."""
    header = bytes(48) + struct.pack("<H", 72) + bytes(22)
    path = tmp_path / "variables.fd"
    path.write_bytes(header + STORE.bytes_le + bytes(12) + b"\xff" * 4096)
    return path


@pytest.mark.parametrize("text", [PEM, f"Certificate:\n    Subject: CN = Grün\n{PEM}more\n"])
def test_a_certificate_may_have_text_around_it(variables: Path, text: str) -> None:
    enrol(variables, text)
    assert variables.read_bytes().count(b"Der of a key") == 3


def test_a_text_without_a_certificate_is_an_error(variables: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be a key"):
        enrol(variables, PEM.replace("CERTIFICATE", "TRUSTED CERTIFICATE"))
