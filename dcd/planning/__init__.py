"""From a manifest to a plan: the checkpoints that can run here, their keys, and a preview of each."""
