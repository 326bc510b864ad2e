"""From names and texts of a manifest to checkpoints: constructors, their arguments, the original's names."""
