"""Checkpoints that make media of illumos."""
