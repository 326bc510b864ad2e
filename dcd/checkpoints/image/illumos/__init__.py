"""Checkpoints of the image area for images of illumos."""
