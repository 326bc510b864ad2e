"""Revisions, one file each. Frozen: they record the changes made, not the present declarations."""
