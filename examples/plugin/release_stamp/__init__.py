"""A plug-in for dcd: stamps an image with the release that its manifest describes."""
