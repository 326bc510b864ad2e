"""File systems in files."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def shared_mount(directory: Path) -> Iterator[None]:
    """What is unmounted below the directory is unmounted also in mount namespaces that have copied
    it meanwhile (those of running workers), which would otherwise keep it busy."""
    subprocess.run(["mount", "--bind", directory, directory], check=True)
    try:
        subprocess.run(["mount", "--make-shared", directory], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An ext4 file system of 16 MiB, mounted."""
    directory = tmp_path / "small"
    directory.mkdir()
    yield from loop_mounted(directory, 16, "mkfs.ext4", "-q", "-m", "0")


def loop_mounted(directory: Path, size_mib: int, *mkfs: str) -> Iterator[Path]:
    """A file system in a file, mounted as long as the generator lives."""
    if shutil.which(mkfs[0]) is None:
        pytest.skip(f"{mkfs[0]} is not installed")
    with shared_mount(directory):
        image, mounted_at = directory / "image", directory / "mounted"
        mounted_at.mkdir()
        with image.open("wb") as file:
            file.truncate(size_mib * 2**20)
        subprocess.run([*mkfs, image], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", image, mounted_at], check=True)
        try:
            yield mounted_at
        finally:
            subprocess.run(["umount", "--lazy", mounted_at], check=True)
            image.unlink()
