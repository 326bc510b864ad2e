"""Layers: immutable results of completed checkpoints, behind one interface with several back ends."""

from store.layers.interface import Check, Layer, LayerRecord, Layers, LayerStore, Workspace

__all__ = ["Check", "Layer", "LayerRecord", "LayerStore", "Layers", "Workspace"]
