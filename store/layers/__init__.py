"""Layers: immutable results of completed checkpoints, behind one interface with several back ends."""

from store.layers.interface import Layer, LayerRecord, Layers, LayerStore, Workspace

__all__ = ["Layer", "LayerRecord", "LayerStore", "Layers", "Workspace"]
