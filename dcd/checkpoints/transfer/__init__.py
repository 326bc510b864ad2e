"""Transfers: what brings software into the image area."""
