"""Checkpoints of the boot archive and the boot menu for images of illumos."""
