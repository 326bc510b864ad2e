"""From a manifest to a plan: what can run here, with which keys, and what would happen to each checkpoint."""
