"""The checkpoints that come with dcd, one module a family."""
