"""Netboot kits with Secure Boot: their programs are signed, and lead GRUB to the menu."""

import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from dcd.checkpoints.media.netboot import NetbootKit
from dcd.checkpoints.media.verify_boot import VerifyBoot
from dcd.checkpoints.recorded import record_medium
from dcd.manifest.diagnostics import refuse
from dcd.platform.hypervisor import GuestTrouble
from statemachine.errors import CheckpointError
from tests.dcd.checkpoints import efi
from tests.dcd.checkpoints.test_secure_boot import (
    DISTRIBUTION,
    EPOCH,
    MEDIA,
    key,
    keys_manifest,
    ready,
    verified,
)

__all__ = ["key", "ready"]
"""The fixtures of an image with signed programs, and of a key."""


def make_kit(bench: Any, manifest: str, inputs: dict[str, Path] | None = None) -> dict[str, bytes]:
    """Make a netboot kit; returns its files."""
    doc = bench.doc(manifest)
    refuse(NetbootKit("kit").check(doc))
    environment = {"SOURCE_DATE_EPOCH": str(EPOCH)}
    NetbootKit("kit").execute(bench.context(doc, inputs=inputs, environment=environment))
    with tarfile.open(bench.root / "media/test-netboot.tar") as tar:
        members = ((each.name, tar.extractfile(each)) for each in tar)
        return {
            name.removeprefix("test-netboot/"): content.read()
            for name, content in members
            if content
        }


def test_a_netboot_kit_starts_uefi_with_the_signed_programs(ready: Any) -> None:
    files = make_kit(ready, MEDIA.format(DISTRIBUTION))
    shim, grub = ready.image / "usr/lib/shim", ready.image / "usr/lib/grub/x86_64-efi-signed"
    assert files["shimx64.efi"] == (shim / "shimx64.efi.signed").read_bytes()
    assert files["grubx64.efi"] == (grub / "grubnetx64.efi.signed").read_bytes()
    assert files["mmx64.efi"] == (shim / "mmx64.efi.signed").read_bytes()
    assert "grubnetx64.efi" not in files
    # Its own directory is /grub of the server, and the menu is beside the kernel.
    assert files["grub/grub.cfg"] == b"set prefix=($root)\nsource $prefix/grub.cfg\n"
    assert b'linux "$prefix/vmlinuz"' in files["grub.cfg"]


def test_a_signed_kit_needs_no_grub_for_uefi_of_the_host(ready: Any, key: str) -> None:
    signed = NetbootKit("kit").needs(ready.doc(MEDIA.format(DISTRIBUTION)))
    assert signed.tools == ("grub-bios", "grub-mkimage")
    with_key = NetbootKit("kit").needs(ready.doc(keys_manifest(key)))
    assert with_key.tools == (*signed.tools, "sbsign", "libfaketime", "openssl")


def test_a_grub_that_looks_elsewhere_on_the_server_is_refused(ready: Any) -> None:
    grub = ready.image / "usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"
    efi.signed(grub, "/EFI/debian")
    with pytest.raises(CheckpointError, match="does not say where it looks") as caught:
        make_kit(ready, MEDIA.format(DISTRIBUTION))
    assert "/EFI/debian" in caught.value.details


def test_a_netboot_kit_needs_a_signed_kernel(ready: Any) -> None:
    efi.program(ready.root / "boot_archive/vmlinuz")
    with pytest.raises(CheckpointError, match="the kernel vmlinuz is not signed"):
        make_kit(ready, MEDIA.format(DISTRIBUTION))


def test_a_netboot_kit_is_signed_with_the_users_key(ready: Any, key: str, tmp_path: Path) -> None:
    files = make_kit(ready, keys_manifest(key), {"db.crt": efi.keys()[1]})
    for name in ("shimx64.efi", "grubx64.efi", "vmlinuz"):
        (tmp_path / name).write_bytes(files[name])
        assert verified(tmp_path / name), name
    assert "mmx64.efi" not in files


@pytest.mark.slow
def test_firmware_and_grub_follow_the_kit_to_its_kernel(ready: Any, key: str) -> None:
    """GRUB stands for shim, which the host need not have: without shim, it accepts no kernel."""
    image, grub = ready.image, Path("/usr/lib/grub/x86_64-efi/monolithic/grubnetx64.efi")
    shutil.copy(grub, image / "usr/lib/shim/shimx64.efi")
    shutil.copy(grub, image / "usr/lib/grub/x86_64-efi/monolithic")
    manifest, inputs = keys_manifest(key), {"db.crt": efi.keys()[1]}
    make_kit(ready, manifest, inputs)
    doc = ready.doc(manifest)
    record_medium(ready.context(doc), "netboot", ready.root / "media/test-netboot.tar")
    verify = VerifyBoot(
        "verify", media="network", firmware=("uefi",), accelerator="tcg", timeout_seconds=90.0
    )
    with pytest.raises(GuestTrouble, match="uefi: GRUB refused the kernel"):
        verify.execute(ready.context(doc, inputs=inputs))
