"""File systems in files."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An ext4 file system of 16 MiB, mounted."""
    image, mounted_at = tmp_path / "disk-image", tmp_path / "disk"
    mounted_at.mkdir()
    with image.open("wb") as file:
        file.truncate(16 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mounted_at], check=True)
    try:
        yield mounted_at
    finally:
        subprocess.run(["umount", "--lazy", mounted_at], check=True)
