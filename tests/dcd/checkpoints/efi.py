"""Small programs of UEFI firmware, signed with a key of the tests, in place of those of a distribution."""

import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

_DIRECTORY = TemporaryDirectory(prefix="dcd-test-keys-")  # Removed at the end of the process.
KERNEL_VERSION = "6.1.0-1-amd64"


@cache
def keys() -> tuple[Path, Path]:
    """A private key and its certificate, the same for all tests of a process."""
    return new_keys(Path(_DIRECTORY.name), "tests")


def new_keys(directory: Path, name: str, kind: str = "rsa:2048") -> tuple[Path, Path]:
    """A new private key and its certificate."""
    key, certificate = directory / f"{name}.key", directory / f"{name}.crt"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                *kind.split(),
                "-nodes",
                "-subj",
                f"/CN={name}",
            ),
            *("-days", "3650", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    return key, certificate


def program(target: Path, prefix: str = "/EFI/debian") -> Path:
    """A program without a signature: a GRUB that does nothing, with that prefix."""
    target.parent.mkdir(parents=True, exist_ok=True)
    command = ["grub-mkimage", "-O", "x86_64-efi", "-p", prefix, "-o", target, "normal"]
    subprocess.run(command, check=True)
    return target


def signed(target: Path, prefix: str = "/EFI/debian") -> Path:
    """A program with a signature."""
    key, certificate = keys()
    program(target, prefix)
    command = ["sbsign", "--key", key, "--cert", certificate, "--output", target, target]
    subprocess.run(command, check=True, capture_output=True)
    return target


def add_distribution(image: Path) -> None:
    """Put the files of shim-signed, shim-helpers-amd64-signed and grub-efi-amd64-signed into an image."""
    signed(image / "usr/lib/shim/shimx64.efi.signed")
    signed(image / "usr/lib/shim/mmx64.efi.signed")
    signed(image / "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed")
    signed(image / "usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed", "/grub")


def files_of_esp(esp: Path, offset: int = 0) -> dict[str, bytes]:
    """The files of a FAT file system, as mtools reads them."""
    volume = f"{esp}@@{offset}"
    listed = subprocess.run(
        ["mdir", "-/", "-b", "-i", volume, "::"], capture_output=True, text=True, check=True
    ).stdout.split()
    return {
        name.removeprefix("::/"): subprocess.run(
            ["mtype", "-i", volume, name], capture_output=True, check=True
        ).stdout
        for name in listed
        if not name.endswith("/")
    }


def signers(path: Path) -> str:
    """What sbverify lists of a program."""
    command = ["sbverify", "--list", path]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def section(program: Path, name: str) -> bytes:
    """A section, as objcopy reads it."""
    target, rest = program.with_name("section"), program.with_name("rest")
    command = ["objcopy", "--dump-section", f"{name}={target}", program, rest]
    subprocess.run(command, check=True)
    return target.read_bytes()
