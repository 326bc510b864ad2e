"""The host as images need it: one small interface for each part that differs between systems."""
