"""Worker processes: each attempt at a checkpoint runs in one, in namespaces of its own."""
