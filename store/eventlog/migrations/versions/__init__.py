"""Revisions, one file each. Frozen: they say what was done, not what is declared today."""
