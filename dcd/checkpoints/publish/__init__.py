"""Checkpoints that publish products: the last ones of a build."""
