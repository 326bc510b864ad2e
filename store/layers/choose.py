"""Choosing a layer back end by trying it. (Being written.)"""

from pathlib import Path

from store.layers.interface import LayerStore


def choose(directory: Path) -> tuple[LayerStore, str]:
    """The best back end that works in `directory` (made when needed), and why it is that one.

    Order: zfs, btrfs, overlay, copy. Each is tried for real, in a mount namespace that is thrown away.
    """
    raise NotImplementedError


def open_store(name: str, directory: Path) -> LayerStore:
    """The back end of that name on `directory`, untried: for the worker, and where configured."""
    raise NotImplementedError
