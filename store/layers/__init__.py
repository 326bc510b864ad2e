"""Layers: immutable results of completed checkpoints, behind one interface with several back ends."""

from store.layers.interface import (
    Check,
    ExpectedLayer,
    Layer,
    LayerRecord,
    Layers,
    LayerStore,
    Products,
    Workspace,
)

__all__ = [
    "Check",
    "ExpectedLayer",
    "Layer",
    "LayerRecord",
    "LayerStore",
    "Layers",
    "Products",
    "Workspace",
]
