"""Directories as deep as a program can nest them."""

import os
from pathlib import Path


def fill(directory: Path, levels: int) -> None:
    """Nest so many directories in a directory."""
    at = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(levels):
        os.mkdir("d" * 20, dir_fd=at)
        below = os.open("d" * 20, os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
