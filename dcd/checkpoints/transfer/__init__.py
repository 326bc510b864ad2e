"""Transfers of software into the image area."""
