"""Checkpoints that pack the image area: archives, and images of containers."""
