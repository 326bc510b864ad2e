"""Boots of a netboot kit, for `VerifyBoot`: the kit, unpacked, is all that the guest's network serves.

The network is QEMU's own, inside its process: DHCP and TFTP, and no way to the host or beyond. A kit whose
compressed image comes from a URL boots with this network's in its place.
Source: qemu-system-x86_64(1), -netdev user.
"""

import shutil
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from dcd.checkpoints import secure_boot
from dcd.checkpoints.architecture import hardware
from dcd.checkpoints.boots import Trial
from dcd.checkpoints.interface import Checkpoint, Context, Report
from dcd.checkpoints.media.netboot import GRUB_BIOS, GRUB_CFG, IPXE, recorded_base_url
from dcd.manifest.diagnostics import Diagnostic
from dcd.manifest.doc import DataObjectCache
from dcd.platform import hypervisor
from dcd.platform.hypervisor import Firmware, HypervisorName, NetworkBoot, Trouble
from dcd.platform.inside import new_file
from statemachine.errors import CheckpointError

BootLoader = Literal["auto", "ipxe", "grub"]

CARD = "ipxe-qemu"
"""The ROM of the network card, as a tool in `store.host.tools`."""

DISK_BYTES = 1 << 30

_SERVER = "tftp://10.0.2.2/"
"""QEMU's TFTP server."""

_REMEDY = (
    "the picture of the screen shows what the firmware asked for; the kit must have the file of that boot"
    " loader, and the scripts beside it"
)
UNBOOTABLE = Trouble((), "the firmware could not boot from the network", _REMEDY)
TROUBLES = tuple(
    replace(trouble, brief=UNBOOTABLE.brief, resolution=_REMEDY)
    if any(sign.startswith("BdsDxe") for sign in trouble.signs)
    else trouble
    for trouble in hypervisor.TROUBLES
)
"""The signs of trouble of media, with the remedies of networks."""


def check(
    checkpoint: Checkpoint,
    doc: DataObjectCache,
    name: HypervisorName,
    boot_loader: BootLoader,
    firmware: Sequence[Firmware],
) -> Iterator[Diagnostic]:
    """Errors for arguments with which no boot from a network can succeed."""
    if name != "qemu":
        example = '<arg name="hypervisor">qemu</arg>'
        yield checkpoint.fault(doc, "hypervisor", f"{name} boots from no network", "", example)
    if boot_loader == "ipxe" and "uefi" in firmware:
        yield checkpoint.fault(
            doc,
            "boot_loader",
            "the iPXE of QEMU's network card runs the script with BIOS only",
            "With UEFI the firmware itself boots from the network.",
            '<arg name="boot_loader">auto</arg>',
        )


def trials(
    context: Context, kit: Path, firmware: Sequence[Firmware], boot_loader: BootLoader
) -> list[Trial]:
    """The boots of a kit. Raises `CheckpointError` when it cannot be unpacked."""
    directory = context.tmp / "kit"
    _unpack(kit, directory)
    file = IPXE
    if base_url := recorded_base_url(context):
        message = f"the compressed image comes from the guest's network in place of {base_url}"
        context.report(Report(message=message))
        file = _with_own_url(directory)
    made = []
    signed = secure_boot.way_of(context.doc) is not None
    certificate = secure_boot.certificate_of(context)
    program = hardware(context.doc).network_program
    if signed:
        program = str(secure_boot.NETWORK_PROGRAM)
    for kind in firmware:
        if boot_loader == "ipxe" or (boot_loader == "auto" and kind == "bios"):
            network = NetworkBoot(directory, file)
        else:
            network = NetworkBoot(directory, GRUB_BIOS if kind == "bios" else program)
        made.append(Trial(kind, kind, None, signed and kind == "uefi", certificate, network))
    return made


def _unpack(kit: Path, directory: Path) -> None:
    """Write the files below the kit's directory into a new one."""
    directory.mkdir()
    try:
        with tarfile.open(kit, "r:") as tar:
            for member in tar:
                if (content := tar.extractfile(member)) is not None:
                    with new_file(directory, member.name.partition("/")[2]).open("xb") as file:
                        shutil.copyfileobj(content, file, 1 << 20)
    except tarfile.TarError as error:
        raise CheckpointError(f"{kit.name} is corrupt: it is no tar", str(error)) from error


def _with_own_url(directory: Path) -> str:
    """Let the scripts fetch from the guest's network. Returns the script for iPXE."""
    (directory / GRUB_CFG).rename(directory / "kit.cfg")
    own = f"set base_url={_SERVER}\nsource $prefix/kit.cfg\n"
    (directory / GRUB_CFG).write_text(own, "utf-8")
    script = f"#!ipxe\nset base_url {_SERVER}\nchain {IPXE}\n"
    (directory / "own.ipxe").write_text(script, "utf-8")
    return "own.ipxe"
