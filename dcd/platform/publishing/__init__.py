"""Clients of the servers to which checkpoints publish: S3 buckets and container registries."""
