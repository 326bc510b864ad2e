"""Constructing checkpoints from the names and texts of a manifest; the names of the original."""
